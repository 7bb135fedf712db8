"""What happened to a registered model's champion: one record for each comparison and each move, kept in MLflow.

Records are tags of the registered model, one key each, so that none is lost where two machines write at once, and so that
uses of a gate are counted and a champion is taken back wherever that happens.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from filelock import FileLock

from irstd.errors import WorkError
from irstd.files import canonical_json
from irstd.registry.tracking import client
from irstd.workspace import Workspace

RECORD = "irstd.promotion."
CLAIM = "irstd.promoting."
LONGEST = 4500
"""Characters of a record: MLflow's table ends a tag of a registered model at 5000."""
PATIENCE = 30.0
"""Seconds for which a promotion waits for another one."""
STALE = 600
"""Seconds after which a claim is that of a process that died: moving an alias takes a fraction of one."""


def new_key() -> str:
    """The key of a record that is made now. Records sort by time."""
    return f"{RECORD}{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"


def write(workspace: Workspace, name: str, key: str, record: Mapping[str, Any]) -> None:
    """Write a record, or write it again."""
    text = canonical_json(record)
    if len(text) > LONGEST:
        over = len(text) - LONGEST
        text = canonical_json(dict(record) | {"reason": str(record.get("reason", ""))[: -over - 3] + "..."})
    client(workspace).set_registered_model_tag(name, key, text)


def records(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    """All records of a registered model, the oldest first."""
    tags = client(workspace).get_registered_model(name).tags
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(RECORD)]


def uses(found: Iterable[Mapping[str, Any]], gates: Mapping[str, str]) -> int:
    """How often frames were looked at to decide a promotion: the most of any set. `gates`: digests of the deciding split."""
    counts = dict.fromkeys(gates.items(), 0)
    for record in found:
        for pair in (record.get("gates") or {}).items():
            if pair in counts:
                counts[pair] += 1
    return max(counts.values(), default=0)


def before(found: Iterable[Mapping[str, Any]], champion: str) -> str | None:
    """The version that was champion before `champion` became it; None where that is not recorded."""
    stack: list[str] = []
    for record in found:
        if not record.get("moved"):
            continue
        if record["kind"] == "rollback":
            while stack and stack[-1] != record["to"]:
                stack.pop()
        elif record.get("from"):
            # What stands above it was no champion by then: a move that did not come through, or was taken back by hand.
            if record["from"] in stack:
                while stack[-1] != record["from"]:
                    stack.pop()
            else:
                stack.append(record["from"])
        if not stack or stack[-1] != record["to"]:
            stack.append(record["to"])
    while stack and stack[-1] != champion:
        stack.pop()
    return stack[-2] if len(stack) > 1 else None


@contextmanager
def alone(workspace: Workspace, name: str) -> Iterator[None]:
    """Inside this block no other process moves this model's champion, on this machine or another.

    Each one first writes a claim of its own and then reads all others: of two at once at least one sees the other, withdraws
    its claim and tries again. That needs a store that gives what was written, as databases do. `WorkError` after a while.
    """
    workspace.home.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.home / "promotion.lock"):
        found, key = client(workspace), f"{CLAIM}{uuid.uuid4().hex}"
        deadline = time.monotonic() + PATIENCE
        try:
            while True:
                found.set_registered_model_tag(name, key, str(int(time.time())))
                if not _others(found, name, key):
                    break
                found.delete_registered_model_tag(name, key)
                if time.monotonic() > deadline:
                    raise WorkError(f"{name}: another promotion is at work; run promote again when it is over")
                time.sleep(random.uniform(0.05, 0.5))
            yield
        finally:
            if key in found.get_registered_model(name).tags:
                found.delete_registered_model_tag(name, key)


def _others(found: Any, name: str, key: str) -> list[str]:
    """Claims of other processes that live."""
    live = []
    for other, since in found.get_registered_model(name).tags.items():
        if other.startswith(CLAIM) and other != key:
            if time.time() - int(since) < STALE:
                live.append(other)
            else:
                found.delete_registered_model_tag(name, other)
    return live
