"""The page of a sweep, `sweeps/<sweep>/sweep.html`: written with its record, and anew by `irstd sweep`."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from irstd.cluster.importance import FEWEST
from irstd.cluster.journal import Journal
from irstd.commands import confirmation, sweeps
from irstd.commands.show import result, say, table
from irstd.errors import InputError, nearest
from irstd.files import canonical_json, write_atomic, writing
from irstd.workspace import Workspace

NAME = "sweep.html"
MOST = 0.7
"""Share of the trials that must have come to an epoch for values to be compared there."""


def page(record: dict[str, Any]) -> str:
    """The page of what `sweep.json` holds."""
    from irstd.cluster.spaces import Scheduler
    from irstd.cluster.stopping import rungs
    from irstd.reports.sweep import sweep_page

    compared, shares = _compared(record["trials"]), []
    if compared is not None:
        shares = _shares(*(canonical_json(part) for part in (record["knobs"], compared.pop("rows"))))
    found = record["confirmation"]
    return sweep_page(
        record,
        shares,
        compared,
        confirmation.verdict(found, record["objective"]["metric"]) if found else None,
        rungs(Scheduler(**record["space"]["scheduler"]), max((t["epochs"] for t in record["trials"]), default=0)),
    )


@lru_cache(maxsize=1)
def _shares(knobs: str, rows: str) -> list[dict[str, Any]]:
    """Importances of JSON: kept, since a page is drawn several times at a search's end."""
    from irstd.cluster.importance import importance
    from irstd.cluster.spaces import Knob

    paths = {k["path"]: Knob(kind=k["kind"], values=k["values"], when=k["when"]) for k in json.loads(knobs)}
    points, values = zip(*json.loads(rows), strict=True)
    return [{**vars(each), "sure": each.sure} for each in importance(paths, points, values)]


def _compared(trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    """{"epoch", "trials", "rows": [(point, value)]}: values at the last epoch that most trials came to, since what was stopped
    early is no worse for having had less time; None where they are too few."""
    curves = [(t["overrides"], [(row[0], row[4]) for row in t["curve"] if row[4] is not None]) for t in trials]
    curves = [(point, curve) for point, curve in curves if curve]
    for epoch in sorted({row[0] for _, curve in curves for row in curve}, reverse=True):
        there = [(point, curve) for point, curve in curves if curve[-1][0] >= epoch]
        if len(there) >= max(FEWEST, MOST * len(curves)):
            rows = [(point, [value for at, value in curve if at <= epoch]) for point, curve in there]
            rows = [(point, values[-1]) for point, values in rows if values]
            return {"epoch": epoch, "trials": len(rows), "rows": rows} if len(rows) >= FEWEST else None
    return None


class Page:
    """Told of a sweep's record whenever it was written; draws the page now and then: it takes a twentieth of the time at most."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._next = time.monotonic() + 30.0

    def __call__(self, record: dict[str, Any], now: bool) -> None:
        """now: whether it is drawn in any case."""
        began = time.monotonic()
        if not now and began < self._next:
            return
        try:
            write_atomic(self.path, page(record))
        except Exception as error:
            # A search of days does not end for its picture; irstd sweep says what is wrong.
            say(f"the page of the sweep was not written ({type(error).__name__}: {error}); the search goes on")
        ended = time.monotonic()
        self._next = ended + max(30.0, 20 * (ended - began))


def run(workspace: Workspace, name: str | None, out: Path | None = None) -> None:
    """Make a sweep's page anew. name: a sweep, or the beginning of its name, or its space (the newest one); None: the newest."""
    folder = _folder(workspace, name)
    record = on_disk(folder)
    path = out or folder / NAME
    with writing(path):
        write_atomic(path, page(record))
    say(f"{record['sweep']}: {record['state']}, {len(record['trials'])} trials")
    result(sweep=record["sweep"], page=str(path))


def on_disk(folder: Path) -> dict[str, Any]:
    """The record of a sweep, its trials from the journal, which is never behind."""
    from irstd.cluster.searchers import Listed
    from irstd.cluster.spaces import Scheduler
    from irstd.cluster.stopping import Stopping
    from irstd.cluster.sweep import Sweep

    kept = sweeps.read(folder)
    if not kept:
        raise InputError(f"{folder}: has no sweep.json that can be read; the search's command, given again, writes it")
    metric = kept["objective"]["metric"]
    sweep = Sweep(
        Listed([]),
        Stopping(Scheduler(), 0),
        Journal(folder / "journal.jsonl"),
        str,
        metric,
        clock=lambda: 0.0,  # no time has passed since the last event
        begin=False,
    )
    record = sweeps.Record(folder, {k: kept.get(k) for k in sweeps.HEAD})
    record.sweep = sweep
    record.epochs = max((t["epochs"] for t in kept["trials"]), default=0)
    found = record.content(_state(folder, kept["state"]), kept["updated"])
    return found | {"seconds": max(found["seconds"], kept["seconds"])}


def _state(folder: Path, state: str) -> str:
    """A record that says it is running was left so by a driver that was killed, unless one holds the lock."""
    if state != "running":
        return state
    try:
        with FileLock(folder / ".lock", timeout=0):
            return "interrupted"
    except Timeout:
        return "running"


def _folder(workspace: Workspace, name: str | None) -> Path:
    folders = sorted(
        (p.parent for p in (workspace.home / "sweeps").glob("*/sweep.json")),
        key=lambda p: (p / "sweep.json").stat().st_mtime,
    )
    found = [p for p in folders if name is None or p.name.startswith(name)]
    if not found:
        names = sorted(p.name for p in folders)
        why = f"sweep {name!r}{nearest(name, names)}: there is none" if name else "there is no sweep here"
        raise InputError(f"{why}; irstd list sweeps shows them, irstd tune SPACE makes one")
    return found[-1]


def listed(workspace: Workspace) -> None:
    """A line for each sweep of the workspace, the newest last."""
    rows = []
    for path in sorted((workspace.home / "sweeps").glob("*/sweep.json"), key=lambda p: p.stat().st_mtime):
        kept = sweeps.read(path.parent)
        if not kept:
            continue
        values = {t["trial"]: t["value"] for t in kept["trials"]}
        winner = kept["winner"] or {}
        rows.append(
            {
                "sweep": kept["sweep"],
                "state": _state(path.parent, kept["state"]),
                "trials": ", ".join(f"{count} {state}" for state, count in kept["counts"].items()),
                "metric": kept["objective"]["metric"],
                "best": values.get(kept["best"]),
                "confirmed": winner.get("mean"),
                "winner": winner.get("name"),
                "updated": kept["updated"],
                "page": workspace.relative(path.with_name(NAME)) if path.with_name(NAME).is_file() else None,
            }
        )
    say(table(rows) if rows else "no sweeps yet; irstd tune SPACE")
