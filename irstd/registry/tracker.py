"""The trackers that workers carry: picklable, called with each report, never in a step's way.

A row that a worker logged before it was restarted is known by its step. What a tracker could not deliver lies in the
checkpoint's history too, from which the driver brings the log up (`irstd.registry.tracking.settle`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from irstd import environment
from irstd.registry import tracking
from irstd.registry.machine import Sampler
from irstd.registry.outbox import Outbox, Row
from irstd.workspace import Workspace

PATIENCE = 10.0
"""Seconds that a worker waits at its end for its last rows; the driver sends what is left."""


class RunTracker:
    """Logs the reports of one run. Its run in MLflow is found, or made, when the server answers first.

    parent: the run of the sweep that a trial belongs to. machine: whether the load of this machine is logged too. say: told
    of what did not go well.
    """

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        tags: dict[str, Any],
        params: dict[str, Any],
        parent: str | None = None,
        machine: bool = False,
    ) -> None:
        self.workspace, self.name, self.tags, self.params, self.parent = workspace, name, tags, params, parent
        self.machine = machine
        self.run_id: str | None = None
        self.say: Callable[[str], None] = _print
        self._outbox: Outbox | None = None
        self._sampler: Sampler | None = None
        self._known: set[int] = set()
        self._sample: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Threads, and what they found out, belong to one process. The address is the driver's: a worker may be elsewhere."""
        mlflow = self.workspace.settings["mlflow"] | {"uri": self.workspace.mlflow_uri}
        workspace = replace(self.workspace, settings=self.workspace.settings | {"mlflow": mlflow})
        own = {"_outbox": None, "_sampler": None, "_known": set(), "_sample": None, "say": _print}
        return self.__dict__ | own | {"workspace": workspace}

    def open(self) -> str:
        """The id of the run, found or made; raises where MLflow does not answer."""
        if self.run_id is None:
            self.run_id = tracking.start(self.workspace, self.name, self.tags, self.params, self.parent)
        return self.run_id

    def ready(self, say: Callable[[str], None] | None = None) -> None:
        """Begin in this process: from here on the load of the machine is sampled."""
        self.say = say or self.say
        environment.apply(self.workspace.environment())
        self._outbox = Outbox(self._send, tracking.away, self.say, f"MLflow at {self.workspace.mlflow_uri}")
        self._sampler = Sampler(self._outbox.put) if self.machine else None

    def __call__(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        """Take a report; never waits for the server."""
        if self._outbox is None:
            self.ready()
        assert self._outbox is not None
        self._outbox.put(tracking.row_of(metrics))

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        if self._sampler is not None:
            self._sampler.close()
        if self._outbox is not None:
            self._outbox.close(PATIENCE)
        self._sampler = self._outbox = None

    def _send(self, rows: list[Row]) -> None:
        """In the outbox's thread. Sent again after an answer that was lost, a row is the same row to MLflow."""
        found = tracking.client(self.workspace)
        if self.run_id is None or self._sample is None:
            run_id = self.open()
            self._known = tracking.steps_of(found, run_id)
            self._sample = max(tracking.steps_of(found, run_id, tracking.SAMPLE), default=-1) + 1
        new, sample = [], self._sample
        for row in rows:
            if row.step is None:
                new.append(Row(row.time, sample, row.values))
                sample += 1
            elif row.step not in self._known:
                new.append(row)
        tracking.log_rows(found, str(self.run_id), new)
        self._known |= {row.step for row in rows if row.step is not None}
        self._sample = sample


class TrialTracker(RunTracker):
    """A trial's child run, begun and ended from the trial's process. The trial goes on if the server is away."""

    def begin(self) -> RunTracker | None:
        """What reports go to; None where the sweep's run is not known: the driver then logs the trial at the end."""
        return self if self.parent else None

    def end(self, error: str | None, state: str | None = None) -> None:
        """`state`: finished, pruned or failed."""
        if self.parent is None:
            return
        self.close()
        try:
            tracking.finish(self.workspace, self.open(), error, state=state)
        except Exception as failure:
            self.say(f"irstd: the trial's end did not reach MLflow ({type(failure).__name__})")


def _print(line: str) -> None:
    print(line, flush=True)
