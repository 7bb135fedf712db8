"""The record of a sweep, `sweeps/<sweep>/sweep.json` and `curves.csv`, written anew whenever something has happened."""

from __future__ import annotations

import datetime
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from csv import DictWriter
from pathlib import Path
from typing import Any

from irstd.cluster.journal import Event
from irstd.cluster.sweep import Sweep, Trial
from irstd.files import read_json, write_atomic, write_json

SCHEMA = 1
HEAD = ("sweep", "space", "overrides", "objective", "knobs", "plan", "estimate", "mlflow")
"""Keys that are known before the first trial."""
PAUSE = 2.0
"""Seconds between writings because of reports, or points that are left out, alone."""


class Record:
    """`head`: what is known before the first trial (docs/FORMATS.md). Told of each event, it writes the files in `folder`.

    page: is told of the record each time, and whether the search is over, or has stopped.
    """

    def __init__(
        self, folder: Path, head: dict[str, Any], page: Callable[[dict[str, Any], bool], None] | None = None
    ) -> None:
        self.folder, self.head, self.page = folder, head, page
        self.sweep: Sweep | None = None
        self.epochs: float = 0
        self.more: dict[str, Any] = {"confirmation": None, "winner": None, "model": None}
        self._written = 0.0
        kept = read(folder)
        self._started = kept.get("started") or iso(time.time())
        # What an earlier session has found stays until this one knows better.
        self.more |= {name: kept.get(name) for name in self.more}

    def __call__(self, event: Event, trial: Trial | None) -> None:
        # A space that is nearly used up is left out of again and again.
        if event["event"] not in ("report", "skip") or time.monotonic() - self._written > PAUSE:
            self.write("running")

    def write(self, state: str, **more: Any) -> None:
        self.more |= more
        if self.sweep is None:
            return
        self._written = time.monotonic()
        content = self.content(state)
        write_json(self.folder / "sweep.json", content)
        write_atomic(self.folder / "curves.csv", curves(self.sweep.trials))
        if self.page is not None:
            self.page(content, state != "running")

    @contextmanager
    def done(self) -> Iterator[None]:
        """Around what the search does not end well without: where it fails the record says so, and the same command does it."""
        try:
            yield
        except BaseException:
            self.write("interrupted")
            raise

    def content(self, state: str, updated: str | None = None) -> dict[str, Any]:
        sweep = self.sweep
        assert sweep is not None
        best = sweep.best()
        states = [trial.state for trial in sweep.trials]
        return {
            "schema": SCHEMA,
            **self.head,
            "state": state,
            "started": self._started,
            "updated": updated or iso(time.time()),
            "seconds": round(sweep.elapsed(), 1),
            "counts": {name: states.count(name) for name in dict.fromkeys(states)},
            "skipped": sweep.reasons,
            "best": best.number if best else None,
            "trials": [self._trial(trial) for trial in sweep.trials],
            **self.more,
        }

    def _trial(self, trial: Trial) -> dict[str, Any]:
        metric = self.head["objective"]["metric"]
        last = trial.rows[-1] if trial.rows else {}
        first = next((row["epoch"] for row in trial.rows if row["value"] == trial.value), None)
        return {
            "trial": trial.number,
            "run": trial.run,
            "overrides": trial.overrides,
            "state": trial.state,
            "value": trial.value,
            "best_epoch": first if trial.value is not None else None,
            "epoch": last.get("epoch", 0),
            "epochs": self.epochs,
            "step": trial.step,
            "train_seconds": last.get("seconds"),
            "taken": trial.taken,
            "rule": trial.rule,
            "error": trial.error,
            "began": iso(trial.began),
            "ended": iso(trial.ended),
            "metrics": {k: v for k, v in last.items() if k.startswith(("val_", "best_", "loss"))},
            "curve": [[r["epoch"], r["step"], r.get("seconds"), r.get(metric), r["value"]] for r in trial.rows],
        }


def curves(trials: list[Trial]) -> str:
    """Every report of every trial as CSV."""
    rows = [
        {"trial": t.number, "run": t.run} | {k: v for k, v in row.items() if k != "value"}
        for t in trials
        for row in t.rows
    ]
    columns = list(dict.fromkeys(["trial", "run", "epoch", "step", "seconds", *(k for row in rows for k in row)]))
    out = io.StringIO()
    writer = DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read(folder: Path) -> dict[str, Any]:
    """`sweep.json`, or {} where there is none that can be read."""
    try:
        found = read_json(folder / "sweep.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else {}


def iso(seconds: float | None) -> str | None:
    """2026-01-31T12:00:00Z."""
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
