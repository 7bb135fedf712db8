"""Searchers: which point of a space to try next.

    searcher.propose(number, seen) -> point, or None where there is none left

`number` counts proposals, those that were not used included; `seen` is what is known of the trials so far. A searcher keeps
nothing of its own: the same number and the same trials give the same point, so a search that was killed goes on by reading
its journal.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from irstd.cluster.points import Point, draws, grid, key, within
from irstd.cluster.spaces import Knob, Space

STUCK = 4
"""Proposals in a row that bring nothing new, after which TPE draws at random."""


@dataclass(frozen=True)
class Seen:
    """A trial as a searcher sees it. curve: its best value so far by epoch."""

    point: Point
    state: str
    value: float | None
    curve: Sequence[tuple[float, float]] = field(default=())


class Searcher(Protocol):
    def propose(self, number: int, seen: Sequence[Seen], stuck: int = 0) -> Point | None:
        """The proposal `number` (0-based). stuck: how many in a row brought nothing new."""


class Listed:
    """Given points, one after the other."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = list(points)

    def propose(self, number: int, seen: Sequence[Seen], stuck: int = 0) -> Point | None:
        return self.points[number] if number < len(self.points) else None


class Random:
    """Independent draws; they end where a thousand in a row bring nothing new."""

    def __init__(self, space: Space) -> None:
        self._draws, self._drawn = draws(space), []

    def propose(self, number: int, seen: Sequence[Seen], stuck: int = 0) -> Point | None:
        if stuck > 1000:
            return None
        while len(self._drawn) <= number:
            self._drawn.append(next(self._draws))
        return self._drawn[number]


class TPE:
    """Optuna's tree-structured Parzen estimator, after as many random draws as it takes to know something.

    The draws are those of `Random`. Trials that were pruned count by how far they came, those under way count as bad, so
    that trials side by side spread (Optuna's "constant liar").
    """

    def __init__(self, space: Space, startup: int | None = None) -> None:
        self.space, self.random = space, Random(space)
        self.startup = startup or min(10, max(4, (space.trials or 24) // 4))

    def propose(self, number: int, seen: Sequence[Seen], stuck: int = 0) -> Point | None:
        known = sum(trial.state in ("finished", "pruned", "stopped") and trial.value is not None for trial in seen)
        if known < self.startup:
            return self.random.propose(number, seen, stuck)
        if stuck > STUCK:
            return self._unseen(number, seen, stuck)
        return self._modelled(number, seen)

    def _unseen(self, number: int, seen: Sequence[Seen], stuck: int) -> Point | None:
        """A random point; of a small grid, one that was not tried yet as long as there is one."""
        if self.space.size <= 10_000:
            tried = {key(trial.point) for trial in seen}
            left = [point for point in grid(self.space) if key(point) not in tried]
            # What the configuration refuses is never seen: in turn, so that all come up.
            return left[number % len(left)] if left and stuck <= STUCK + 2 * len(left) else None
        return self.random.propose(number, seen, stuck)

    def _modelled(self, number: int, seen: Sequence[Seen]) -> Point:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            sampler = optuna.samplers.TPESampler(
                seed=(self.space.seed * 1_000_003 + number) % 2**32,
                n_startup_trials=1,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
            study = optuna.create_study(direction="maximize", sampler=sampler)
            study.add_trials([self._told(trial) for trial in seen if trial.state != "failed"])
            return self._asked(study.ask())

    def _asked(self, trial: Any) -> Point:
        point: Point = {}
        for path in self.space.order:
            knob = self.space.space[path]
            # A value counts only where the conditions hold, and these hang on paths that come before.
            if path in self.space.active({**{p: None for p in self.space.order}, **point, path: None}):
                point[path] = _suggested(trial, path, knob)
        return {path: point[path] for path in sorted(point)}

    def _told(self, trial: Seen) -> Any:
        import optuna

        knobs = self.space.space
        states = {"finished": "COMPLETE", "pruned": "PRUNED", "stopped": "PRUNED"}
        state = optuna.trial.TrialState[states.get(trial.state, "RUNNING")]
        if state.is_finished() and trial.value is None:
            state = optuna.trial.TrialState.FAIL
        return optuna.trial.create_trial(
            params={path: inner(knobs[path], value) for path, value in trial.point.items()},
            distributions={path: distribution(knobs[path]) for path in trial.point},
            # Optuna's steps are whole numbers.
            intermediate_values={round(1000 * epoch): value for epoch, value in trial.curve},
            value=trial.value if state == optuna.trial.TrialState.COMPLETE else None,
            state=state,
        )


def ordered(knob: Knob) -> bool:
    """Whether the values of a choice are three numbers or more that rise or fall: what is good at one is then a hint for its
    neighbours, which names do not give."""
    values = knob.values
    if (
        knob.kind != "choice"
        or len(values) < 3
        or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values)
    ):
        return False
    return sorted(set(values)) == values or sorted(set(values)) == values[::-1]


def distribution(knob: Knob) -> Any:
    from optuna import distributions

    low, high = knob.values[:2] if knob.kind != "choice" else (0, 0)
    if knob.kind == "choice" and not ordered(knob):
        # By place: a value may be a list, and 1, 1.0 and true are different ones.
        return distributions.CategoricalDistribution(tuple(range(len(knob.values))))
    if knob.kind == "int":
        return distributions.IntDistribution(int(low), int(high))
    if knob.kind in ("choice", "quniform"):
        return distributions.IntDistribution(0, len(knob.points or []) - 1)
    return distributions.FloatDistribution(float(low), float(high), log=knob.kind == "loguniform")


def _suggested(trial: Any, path: str, knob: Knob) -> Any:
    if knob.kind in ("choice", "quniform"):
        values = knob.points or []
        if knob.kind == "choice" and not ordered(knob):
            return values[trial.suggest_categorical(path, tuple(range(len(values))))]
        return values[trial.suggest_int(path, 0, len(values) - 1)]
    low, high = knob.values
    if knob.kind == "int":
        return trial.suggest_int(path, int(low), int(high))
    return within(knob, trial.suggest_float(path, float(low), float(high), log=knob.kind == "loguniform"))


def inner(knob: Knob, value: Any) -> Any:
    """A value as Optuna knows it."""
    if knob.kind == "choice":
        return next(i for i, v in enumerate(knob.values) if v == value and type(v) is type(value))
    if knob.kind == "quniform":
        return (knob.points or []).index(value)
    return value


def make(space: Space) -> Searcher:
    """The searcher that the space names."""
    if space.search == "grid":
        return Listed(list(itertools.islice(grid(space), 100_000)))
    return TPE(space) if space.search == "tpe" else Random(space)
