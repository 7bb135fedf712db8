"""How often a checkpoint is written: as often as costs at most one part in a hundred of the steps' time.

Since a run goes on from any checkpoint to the same bits, this decides what a fault costs and never what a run finds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

SHARE = 0.01
"""Of the time that steps take, what checkpoints may cost."""
AIM = 0.8
"""Part of that share that is aimed at: the next one may take longer than those before."""


class Pace:
    """Measures steps and checkpoints of one process. `every`: validations between checkpoints, where the user says so."""

    def __init__(self, every: int | None = None) -> None:
        self.every = every
        self.cost: float | None = None  # seconds of the last checkpoint, its way to where it is kept included
        self.steps = 0.0  # seconds of steps since then
        self.total_steps = self.total_cost = 0.0
        self.written = 0
        self._since: float | None = None

    def stepping(self) -> None:
        """Steps begin."""
        self._since = time.monotonic()

    def stopped(self) -> None:
        """Steps end, and all that they queued on a device is done."""
        if self._since is not None:
            passed = time.monotonic() - self._since
            self.steps, self.total_steps, self._since = self.steps + passed, self.total_steps + passed, None

    def due(self, validations: int) -> bool:
        """Whether the run's validation of that number comes with a checkpoint; a process's first one does."""
        if self.every:
            return validations % self.every == 0
        if self.cost is None:
            return True
        return max(self.cost, self.total_cost / self.written) <= AIM * SHARE * self.steps

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around all that a checkpoint takes."""
        start = time.monotonic()
        yield
        self.cost, self.steps = time.monotonic() - start, 0.0
        self.total_cost, self.written = self.total_cost + self.cost, self.written + 1
