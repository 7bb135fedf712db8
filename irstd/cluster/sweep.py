"""A sweep: what is tried next, what is stopped, and what is known. Knows neither Ray nor how a trial is run.

    sweep = Sweep(searcher, stopping, journal, ...)
    while trial := sweep.ask():                # None: nothing to begin now (or at all, where `sweep.over`)
        sweep.report(trial.number, row)        # True: the trial is to stop, and counts as ended
        sweep.end(trial.number, "finished")

Every change is an event: written to the journal, then applied. A sweep made over a journal that has events applies them, and
so stands where the old one stood, the searcher's and the stopping rule's state included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from irstd.cluster.journal import Event, Journal
from irstd.cluster.points import Point
from irstd.cluster.searchers import Searcher, Seen
from irstd.cluster.stopping import Stopping
from irstd.errors import InputError

Row = dict[str, Any]
ENDED = ("finished", "pruned", "stopped", "failed")
"""States of a trial that is over; `stopped`: the sweep's hours were spent. Before: `asked`, `running`."""


@dataclass
class Trial:
    """A point and what became of it. run: the identity of its run."""

    number: int
    run: str
    overrides: Point
    state: str = "asked"
    rows: list[Row] = field(default_factory=list)
    value: float | None = None
    taken: bool = False
    error: str | None = None
    rule: str | None = None
    began: float | None = None
    ended: float | None = None

    @property
    def over(self) -> bool:
        return self.state in ENDED

    @property
    def step(self) -> int:
        """The last step that was reported."""
        return self.rows[-1]["step"] if self.rows else 0

    def seen(self) -> Seen:
        curve = [(row["epoch"], row["value"]) for row in self.rows if row["value"] is not None]
        return Seen(self.overrides, self.state, self.value, curve)


class Sweep:
    """See the module.

    Args:
        name_of: the identity of a point's run; InputError where its values contradict each other.
        known: the rows of a run that is finished already, or None; such a trial ends as it begins.
        trials, hours: the budget; None: without end.
        metric: key of the rows that decides. A row's value is its "best_" one, the best so far.
        watch: told of each event after it was applied, and of the trial that it is about.
        begin: False: the sweep is only looked at, as it stood when its journal ended.
    """

    def __init__(
        self,
        searcher: Searcher,
        stopping: Stopping,
        journal: Journal,
        name_of: Callable[[Point], str],
        metric: str,
        known: Callable[[str], list[Row] | None] = lambda run: None,
        trials: int | None = None,
        hours: float | None = None,
        watch: Callable[[Event, Trial | None], None] = lambda event, trial: None,
        clock: Callable[[], float] = time.time,
        begin: bool = True,
    ) -> None:
        self.searcher, self.stopping, self.journal = searcher, stopping, journal
        self.name_of, self.known, self.metric = name_of, known, metric
        self.limit, self.hours, self.watch, self.clock = trials, hours, watch, clock
        self.trials: list[Trial] = []
        self.proposed = self.skipped = self.stuck = 0
        self.reasons: dict[str, int] = {}
        self.exhausted = False
        self.seconds = 0.0
        self._last = 0.0
        self._runs: dict[str, Trial] = {}
        self._doomed: dict[int, str] = {}
        for event in journal.read(mend=begin):
            self._apply(event)
        if begin:
            self.event("begin")
            for trial in self.trials:
                self._settle(trial)

    # -- what is asked of it ---------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nothing is under way, and nothing will begin."""
        return all(trial.over for trial in self.trials) and (self.exhausted or self.full or self.spent)

    @property
    def full(self) -> bool:
        return self.limit is not None and len(self.trials) >= self.limit

    @property
    def spent(self) -> bool:
        """Whether the hours are."""
        return self.hours is not None and self.elapsed() >= 3600 * self.hours

    @property
    def cut(self) -> bool:
        """Whether the hours ended it before its trials did. Hours that pass afterwards, while it is confirmed, cut nothing."""
        left = any(trial.state in ("asked", "stopped") for trial in self.trials)
        return self.spent and (left or not (self.exhausted or self.full))

    def elapsed(self) -> float:
        """Seconds of the clock over all sessions."""
        return self.seconds + max(0.0, self.clock() - self._last)

    def ask(self) -> Trial | None:
        """The next trial to run, begun earlier or new; None where there is none."""
        while not self.spent:
            trial = next((t for t in self.trials if t.state == "asked"), None) or self._new()
            if trial is None:
                return None
            self.event("start", trial)
            rows = self.known(trial.run)
            if rows is None:
                return trial
            for row in rows:
                self._record(trial, row)
            self.event("end", trial, state="finished", taken=True)
        return None

    def report(self, number: int, row: Row) -> bool:
        """Take a trial's row {"epoch", "step", ...}; whether the trial is to stop. One that is known already changes nothing."""
        trial = self.trials[number - 1]
        self._record(trial, row)
        if number in self._doomed and not trial.over:
            self.event("end", trial, state="pruned", rule=self._doomed[number])
        elif self.spent and not trial.over and row["epoch"] < self.stopping.epochs:
            self.event("end", trial, state="stopped", rule="hours")
        return trial.state in ("pruned", "stopped")

    def end(self, number: int, state: str, error: str | None = None, rows: Iterable[Row] = ()) -> None:
        """A trial is over. rows: all of its history, where some of it may not have been reported."""
        trial = self.trials[number - 1]
        if not trial.over:
            for row in rows:
                self._record(trial, row)
            self.event("end", trial, state=state, **({"error": error} if error else {}))

    def best(self) -> Trial | None:
        """The trial with the best value, of those that ran to their end; of all others where none did."""
        for states in (("finished",), ("pruned", "stopped")):
            good = [t for t in self.trials if t.state in states and t.value is not None]
            if good:
                return max(good, key=lambda t: (t.value, -t.number))
        return None

    def ranked(self) -> list[Trial]:
        """Those that ran to their end, the best first."""
        good = [t for t in self.trials if t.state == "finished" and t.value is not None]
        return sorted(good, key=lambda t: (-(t.value or 0.0), t.number))

    # -- events -----------------------------------------------------------------------------------------------------

    def event(self, kind: str, trial: Trial | None = None, **more: Any) -> None:
        found: Event = {"event": kind, "time": round(self.clock(), 3)}
        if trial is not None:
            found["trial"] = trial.number
        found |= more
        self.journal.write(found)
        self._apply(found)
        self.watch(found, trial)

    def _new(self) -> Trial | None:
        """Another point as a trial; None where the budget or the space has no more."""
        while not self.full and not self.exhausted:
            point = self.searcher.propose(self.proposed, [t.seen() for t in self.trials], self.stuck)
            if point is None:
                self.event("exhausted")
                return None
            try:
                run = self.name_of(point)
            except InputError as refused:
                self.event("skip", point=point, why=str(refused))
                continue
            if run in self._runs:
                self.event("skip", point=point, why=f"repeats trial {self._runs[run].number}")
                continue
            self.event("ask", run=run, point=point)
            return self.trials[-1]
        return None

    def _record(self, trial: Trial, row: Row) -> None:
        if row["step"] > trial.step and not trial.over:
            self.event("report", trial, row=row)

    def _settle(self, trial: Trial) -> None:
        """What the last session left half-way: a stop that was decided is carried out, all else is to be begun again."""
        if trial.number in self._doomed and not trial.over:
            self.event("end", trial, state="pruned", rule=self._doomed[trial.number])
        elif trial.state in ("running", "failed") or (trial.state == "stopped" and not self.spent):
            self.event("again", trial)

    def _apply(self, event: Event) -> None:
        kind, now = event["event"], event["time"]
        # Between sessions nothing runs: their beginning counts no time.
        self.seconds += 0.0 if kind == "begin" else max(0.0, now - self._last)
        self._last = now
        trial = self.trials[event["trial"] - 1] if "trial" in event else None
        if kind == "ask":
            trial = Trial(len(self.trials) + 1, event["run"], event["point"])
            self.trials.append(trial)
            self._runs[trial.run] = trial
            self.proposed, self.stuck = self.proposed + 1, 0
        elif kind == "skip":
            self.proposed, self.skipped, self.stuck = self.proposed + 1, self.skipped + 1, self.stuck + 1
            self.reasons[event["why"]] = self.reasons.get(event["why"], 0) + 1
        elif kind == "exhausted":
            self.exhausted = True
        elif trial is not None:
            self._change(trial, event)

    def _change(self, trial: Trial, event: Event) -> None:
        kind = event["event"]
        if kind == "start":
            trial.state, trial.began = "running", trial.began or event["time"]
        elif kind == "again":
            trial.state, trial.error, trial.rule, trial.ended = "asked", None, None, None
        elif kind == "report":
            row = dict(event["row"])
            value = row.get(f"best_{self.metric}", row.get(self.metric))
            row["value"] = value
            trial.rows.append(row)
            if value is not None:
                trial.value = value
                if self.stopping.report(trial.number, row["epoch"], value):
                    self._doomed[trial.number] = self.stopping.rule.kind
        elif kind == "end":
            trial.state, trial.ended = event["state"], event["time"]
            trial.error, trial.rule = event.get("error"), event.get("rule")
            trial.taken = event.get("taken", False)
