"""What `up` leaves behind for others to find: the record of the stack, and the settings of the command `prefect`.

The record (`stack.json`) is written after each process that is started, so that `down` can undo an `up` that was
killed; the addresses, by which commands find the stack, come in last, when everything answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from irstd import environment
from irstd.errors import InputError
from irstd.files import read_json, write_atomic, write_json
from irstd.stack import processes
from irstd.workspace import Workspace

Record = dict[str, Any]
"""{"services": {name: {"pid", "created", "port", "address", "log"}}, "mlflow", "prefect_api", "ray"}"""

_MARK = "# Written by `irstd up`, removed by `irstd down`"
_PREFECT_TOML = """\
{mark}: in this folder the command `prefect` talks to the running stack.
home = {home}

[api]
url = {api}

[server]
analytics_enabled = false
"""


def read(workspace: Workspace) -> Record:
    """The record on disk, whether or not its processes live (`Workspace.stack` is the one that does)."""
    try:
        record = read_json(workspace.stack_file)
    except (OSError, ValueError):
        return {"services": {}}
    return record if isinstance(record, dict) and isinstance(record.get("services"), dict) else {"services": {}}


def write(workspace: Workspace, record: Record) -> None:
    write_json(workspace.stack_file, record)
    _forget(workspace)


def remove(workspace: Workspace) -> None:
    workspace.stack_file.unlink(missing_ok=True)
    _forget(workspace)


def running(entry: dict[str, Any]) -> bool:
    """Whether the service's own process lives."""
    return environment.running(entry["pid"], entry["created"])


def anything(record: Record) -> bool:
    """Whether any process of the record lives, be it an orphan of a service that has died."""
    return any(processes.members(entry["pid"], entry["created"]) for entry in record["services"].values())


def write_prefect_toml(workspace: Workspace, api: str) -> None:
    """Make `prefect` in the workspace's folder talk to `api`, with nothing exported and ~/.prefect left alone."""
    home = json.dumps(str(workspace.home / "prefect"), ensure_ascii=False)  # a string of JSON is one of TOML
    write_atomic(_prefect_toml(workspace), _PREFECT_TOML.format(mark=_MARK, home=home, api=json.dumps(api)))


def remove_prefect_toml(workspace: Workspace) -> None:
    if _is_ours(_prefect_toml(workspace)):
        _prefect_toml(workspace).unlink()


def check_prefect_toml(workspace: Workspace) -> None:
    """`InputError` where a prefect.toml of the user's would be overwritten."""
    path = _prefect_toml(workspace)
    if path.exists() and not _is_ours(path):
        raise InputError(f"{path} was not written by irstd, and `irstd up` would overwrite it: move it away first")


def _prefect_toml(workspace: Workspace) -> Path:
    return workspace.root / "prefect.toml"


def _is_ours(path: Path) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(_MARK)


def _forget(workspace: Workspace) -> None:
    """Drop what this workspace object has read before: the property is cached."""
    workspace.__dict__.pop("stack", None)
