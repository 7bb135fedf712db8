"""Points of a search space: drawn, enumerated, and tried out before a search begins.

A point is {path: value}, without the paths whose conditions do not hold. Everything here is decided by the space alone, so
a search that was killed finds the same points again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from irstd.cluster.spaces import Knob, Space, rounded, shown
from irstd.errors import InputError

Point = dict[str, Any]
Check = Callable[[Point], Any]
"""Raises InputError where a point's values contradict each other."""
TRIES = 64
"""Draws after which a value counts as impossible."""


def draws(space: Space, salt: int = 0) -> Iterator[Point]:
    """Random points without end. salt: another sequence of the same space."""
    random = np.random.Generator(np.random.PCG64([space.seed, salt] if salt else space.seed))
    while True:
        # A value is drawn for every path, so that a condition does not shift what the others get.
        yield space.active({path: _draw(space.space[path], random) for path in sorted(space.space)})


def grid(space: Space) -> Iterator[Point]:
    """Every point of a space whose values can be counted, the last path moving first."""
    paths, seen = sorted(space.space), set()
    for values in itertools.product(*(space.space[path].points or [] for path in paths)):
        point = space.active(dict(zip(paths, values, strict=True)))
        key = repr(point)
        if key not in seen:
            seen.add(key)
            yield point


def _draw(knob: Knob, random: np.random.Generator) -> Any:
    kind, values = knob.kind, knob.values
    if kind == "choice":
        return values[int(random.integers(len(values)))]
    if kind == "int":
        return int(random.integers(int(values[0]), int(values[1]) + 1))
    if kind == "loguniform":
        return within(knob, math.exp(random.uniform(math.log(values[0]), math.log(values[1]))))
    return within(knob, random.uniform(values[0], values[1]))


def within(knob: Knob, value: float) -> float:
    """`value` with six digits, on the steps of `quniform`, between low and high."""
    low, high = float(knob.values[0]), float(knob.values[1])
    if knob.kind == "quniform":
        step = knob.values[2]
        # One of `knob.points`, to the digit.
        return rounded(low + min(round((value - low) / step), int((high - low) / step + 1e-9)) * step)
    return min(max(rounded(value), low), high)


def examine(space: Space, check: Check) -> float:
    """The share of points that the configuration accepts, about.

    Raises: InputError where a value of a choice, or an end of a range, goes with nothing else in the space, with the reason.
    """
    for path, knob in sorted(space.space.items()):
        for value in knob.values if knob.kind == "choice" else knob.values[:2]:
            value = int(value) if knob.kind == "int" else value
            refused = None
            for _, point in zip(range(TRIES), _with(space, path, value), strict=False):
                try:
                    check(point)
                    break
                except InputError as error:
                    refused = error
            else:
                raise InputError(f"space {space.name}: {path}={shown(value)} is never possible: {refused}")
    accepted = 0
    for _, point in zip(range(TRIES), draws(space, salt=1), strict=False):
        try:
            check(point)
            accepted += 1
        except InputError as error:
            refused = error
    if not accepted:
        raise InputError(
            f"space {space.name}: none of {TRIES} points that were drawn is possible; one of them: {refused}"
        )
    return accepted / TRIES


def _with(space: Space, path: str, value: Any) -> Iterator[Point]:
    """Random points in which `path` is drawn, and has `value`."""
    wanted: dict[str, list[Any]] = {path: [value]}
    waiting = [path]
    while waiting:
        for parent, values in space.space[waiting.pop()].when.items():
            if parent in space.space:
                wanted[parent] = [v for v in wanted.get(parent, values) if v in values] or values
                waiting.append(parent)
    random = np.random.Generator(np.random.PCG64([space.seed, 2]))
    while True:
        point = {other: _draw(space.space[other], random) for other in sorted(space.space)}
        point |= {other: values[int(random.integers(len(values)))] for other, values in wanted.items()}
        yield space.active(point)


def key(point: Mapping[str, Any]) -> str:
    """Equal for equal points."""
    return repr(sorted(point.items()))
