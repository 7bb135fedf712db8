"""A sweep as one watches it: a table that is drawn anew in a terminal; lines, and now and then a summary, in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from irstd.cluster.journal import Event
from irstd.cluster.spaces import shown
from irstd.cluster.sweep import Sweep, Trial
from irstd.commands.show import say

SUMMARY = 60.0
"""Seconds between summaries in a log."""
ROWS = 12
"""Trials that a terminal's table shows at most."""


class Board:
    """Told of each event of `sweep` (which is set when it is there). Use as a context around the search.

    parallel: trials side by side. title: of the trials, "trial" or "confirmation".
    """

    def __init__(
        self, metric: str, parallel: int = 1, epochs: float = 0, title: str = "trial", terminal: bool | None = None
    ):
        self.metric, self.parallel, self.epochs, self.title = metric, parallel, epochs, title
        self.sweep: Sweep | None = None
        self.terminal = sys.stdout.isatty() if terminal is None else terminal
        self._live: Any = None
        self._summed = self._clock = time.monotonic()
        self._began: dict[int, float] = {}
        self._spans: list[float] = []
        self._best: float | None = None

    def __enter__(self) -> Board:
        if self.terminal:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(),
                get_renderable=self._render,
                refresh_per_second=2,
                transient=True,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Event, trial: Trial | None) -> None:
        kind, now = event["event"], time.monotonic()
        if trial is None:
            return
        if kind == "start":
            self._began[trial.number] = now
        elif kind == "end":
            if not trial.taken and trial.number in self._began:
                self._spans.append(now - self._began[trial.number])
            say(f"{self.title} {self._place(trial)}: {self._ended(trial)}")
        if not self.terminal and self.sweep and now - self._summed > SUMMARY:
            self._summed = now
            say(self.summary())

    # -- words ------------------------------------------------------------------------------------------------------

    def _place(self, trial: Trial) -> str:
        total = self.sweep.limit if self.sweep else None
        return f"{trial.number}/{total}" if total else str(trial.number)

    def _ended(self, trial: Trial) -> str:
        values = words(trial.overrides)
        if trial.state == "failed":
            return f"{values}: failed: {trial.error}"
        if trial.taken:
            return f"{values}: {trial.run} was trained before; its result is taken: {self.metric} {number(trial.value)}"
        text = f"{values} -> {self.metric} {number(trial.value)}"
        if trial.state != "finished":
            last = trial.rows[-1]["epoch"] if trial.rows else 0
            text += f", {trial.state} by {trial.rule} at epoch {last:g}" + (
                f" of {self.epochs:g}" if self.epochs else ""
            )
        if trial.value is not None and (self._best is None or trial.value > self._best):
            text += "" if self._best is None else " (best so far)"
            self._best = trial.value
        return text

    def summary(self) -> str:
        """How far the search is, in one line."""
        assert self.sweep is not None
        states = [t.state for t in self.sweep.trials]
        over = sum(t.over for t in self.sweep.trials)
        parts = [f"{over}{f' of {self.sweep.limit}' if self.sweep.limit else ''} {self.title}s over"]
        for name in ("pruned", "stopped", "failed"):
            if name in states:
                parts.append(f"{states.count(name)} {name}")
        parts.append(f"{states.count('running')} under way")
        best = self.sweep.best()
        if best:
            parts.append(f"best so far {self.title} {best.number} with {self.metric} {number(best.value)}")
        left = self.left()
        parts.append(
            f"{duration(self.sweep.elapsed())} spent" + (f", about {duration(left)} left" if left is not None else "")
        )
        return ", ".join(parts)

    def left(self) -> float | None:
        """Seconds, about: the mean of the trials that are over, for those to come; None where nothing is known yet."""
        sweep = self.sweep
        if sweep is None or not self._spans or (sweep.limit is None and not sweep.full):
            return None
        mean = sum(self._spans) / len(self._spans)
        now = time.monotonic()
        running = [
            max(0.0, mean - (now - self._began.get(t.number, now))) for t in sweep.trials if t.state == "running"
        ]
        waiting = max(0, (sweep.limit or 0) - len(sweep.trials)) + sum(t.state == "asked" for t in sweep.trials)
        left = (sum(running) + waiting * mean) / max(1, self.parallel)
        return left if sweep.hours is None else min(left, max(0.0, 3600 * sweep.hours - sweep.elapsed()))

    # -- a terminal -------------------------------------------------------------------------------------------------

    def _render(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        if self.sweep is None:
            return Text("")
        table = Table(box=None, pad_edge=False)
        right = (self.title, "epoch", self.metric)
        for name in (self.title, "values", "state", "epoch", self.metric):
            table.add_column(name, justify="right" if name in right else "left", no_wrap=name != "values")
        for trial in self.rows():
            last = trial.rows[-1]["epoch"] if trial.rows else 0
            best = self.sweep.best()
            mark = " *" if best is not None and best.number == trial.number else ""
            # Text: brackets in values are no markup.
            cells = [f"{trial.number}{mark}", words(trial.overrides), trial.state, f"{last:g}", number(trial.value)]
            table.add_row(*map(Text, cells))
        return Group(table, Text(self.summary()))

    def rows(self) -> list[Trial]:
        """The trials to show: those under way, then the best of the others."""
        assert self.sweep is not None
        trials = list(self.sweep.trials)
        running = [t for t in trials if t.state == "running"]
        others = sorted((t for t in trials if t.over), key=lambda t: -(t.value if t.value is not None else -1.0))
        return (running + others)[:ROWS]


def words(point: dict[str, Any]) -> str:
    """train.lr=0.001 model.fusion=add"""
    return " ".join(f"{path}={shown(value)}" for path, value in point.items()) or "the default"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def duration(seconds: float) -> str:
    """40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def both(*watches: Callable[[Event, Trial | None], None]) -> Callable[[Event, Trial | None], None]:
    """Tells each of them."""

    def watch(event: Event, trial: Trial | None) -> None:
        for each in watches:
            each(event, trial)

    return watch
