"""Health requests: does a service answer what its users will ask?"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

# Loopback addresses: a proxy in the environment must not see them.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def request(url: str, body: Any = None, token: str | None = None, seconds: float = 5.0) -> bytes:
    """GET `url`, or POST `body` as JSON; `OSError` where there is no answer, or one that is not 2xx."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    with _OPENER.open(urllib.request.Request(url, data, headers), timeout=seconds) as answer:
        return answer.read()


def answers(url: str, since: float = 0.0) -> str | None:
    """None when GET `url` succeeds, else why not."""
    try:
        request(url)
    except (OSError, ValueError) as error:
        return _reason(error)
    return None


def ray_answers(dashboard: str, token: Path, since: float = 0.0) -> str | None:
    """None when the dashboard answers and lists a living node: then drivers can connect."""
    try:
        secret = token.read_text(encoding="utf-8").strip() if token.exists() else None
        found = json.loads(request(f"{dashboard}/nodes?view=summary", token=secret))
        states = [node.get("raylet", {}).get("state") for node in found["data"]["summary"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        return _reason(error)
    return None if "ALIVE" in states else "no node is alive yet"


def worker_answers(api: str, pool: str, name: str, since: float = 0.0) -> str | None:
    """None when the server has heard from worker `name` of `pool` since it was started at `since`."""
    try:
        found = json.loads(request(f"{api}/work_pools/{pool}/workers/filter", body={}))
        beats = [worker["last_heartbeat_time"] for worker in found if worker["name"] == name]
        last = max((datetime.fromisoformat(beat).timestamp() for beat in beats if beat), default=0.0)
    except (OSError, ValueError, LookupError, TypeError) as error:
        return _reason(error)
    return None if last >= since else "no heartbeat yet"


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return " ".join(str(error).split()) or type(error).__name__
