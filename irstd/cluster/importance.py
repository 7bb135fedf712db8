"""How much each path of a space decides, and how sure that is: Optuna's fANOVA over trials that are drawn again and again.

fANOVA fits a forest to points and values, and gives each path its share of the variance that the forest explains. A forest
explains something of any numbers, so a knob that does nothing is put beside the real ones in each draw: what chance is given
too is no finding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from irstd.cluster.points import Point
from irstd.cluster.spaces import Knob

DRAWS = 24
TREES = 8
"""Of one draw; the draws are a larger forest."""
FEWEST = 8
"""Trials below which nothing is said."""
SURE = 0.95
"""Share of the draws in which a path must be given more than the knob that does nothing."""
_NOTHING = "nothing"


@dataclass(frozen=True)
class Importance:
    """The share of the explained variance: `share`, the mean of the draws, and `low` to `high`, which holds 90 % of them.

    above: share of the draws in which it is more than chance is given. trials: with this path, that could be compared.
    """

    path: str
    share: float
    low: float
    high: float
    above: float
    trials: int

    @property
    def sure(self) -> bool:
        return self.above >= SURE


def importance(knobs: Mapping[str, Knob], points: Sequence[Point], values: Sequence[float]) -> list[Importance]:
    """Of each path that varies, the greatest first; [] where fewer than `FEWEST` trials, or trials of one value, are given.

    A path that hangs on conditions is judged among the trials that have it, beside the paths that these have in common.
    """
    found = []
    everywhere = [path for path in knobs if all(path in point for point in points)]
    groups = [(None, everywhere), *((path, None) for path in knobs if path not in everywhere)]
    for only, paths in groups:
        rows = [i for i, point in enumerate(points) if only is None or only in point]
        paths = paths or [path for path in knobs if all(path in points[i] for i in rows)]
        paths = [path for path in paths if len({repr(points[i][path]) for i in rows}) > 1]
        chosen = [values[i] for i in rows]
        if len(rows) < FEWEST or len(set(chosen)) < 2 or not paths or (only is not None and only not in paths):
            continue
        shares = _drawn({path: knobs[path] for path in paths}, [points[i] for i in rows], chosen)
        found += [_told(path, shares, len(rows)) for path in paths if only in (None, path)]
    return sorted(found, key=lambda each: -each.share)


def _drawn(knobs: Mapping[str, Knob], points: list[Point], values: list[float]) -> list[dict[str, float]]:
    """Shares by path, `_NOTHING` among them, of each draw."""
    random = np.random.Generator(np.random.PCG64(0))
    found: list[dict[str, float]] = []
    for number in range(DRAWS):
        # A trial that is drawn twice has its own value of the knob that does nothing twice, as of the others.
        nothing = random.random(len(points))
        drawn = random.choice(len(points), len(points))
        if len({values[i] for i in drawn}) > 1:
            found.append(_shares(knobs, [(points[i], values[i], float(nothing[i])) for i in drawn], number))
    return found


def _shares(knobs: Mapping[str, Knob], rows: list[tuple[Point, float, float]], seed: int) -> dict[str, float]:
    import optuna

    from irstd.cluster.searchers import distribution, inner

    spread = {path: distribution(knob) for path, knob in knobs.items()}
    spread[_NOTHING] = optuna.distributions.FloatDistribution(0.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={path: inner(knob, point[path]) for path, knob in knobs.items()} | {_NOTHING: nothing},
                    distributions=spread,
                    value=value,
                )
                for point, value, nothing in rows
            ]
        )
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(spread))
    return {path: float(share) for path, share in found.items()}


def _told(path: str, draws: list[dict[str, Any]], trials: int) -> Importance:
    mine = np.array([each[path] for each in draws])
    low, high = np.quantile(mine, [0.05, 0.95])
    above = np.mean([each[path] > each[_NOTHING] for each in draws])
    return Importance(path, float(mine.mean()), float(low), float(high), float(above), trials)
