"""Timing of several sides in one run, in turns, so that whatever else the machine does falls on all of them.

    timing = interleaved({"ours": timed(ours), "theirs": timed(theirs)}, seconds=5)
    timing.ratio("ours", "theirs")          # how many times as fast: median of the rounds [least, greatest]

Times depend on the machine and on the hour; the ratio of two sides that were measured in turns much less. A ratio is
therefore what a benchmark states, with its spread, and rates stand beside it for orientation only.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

Side = Callable[[], tuple[int, float]]
"""Does one piece of work; returns how many items it made and the seconds that this took."""

LEAST_ROUNDS, MOST_ROUNDS = 3, 15
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PACKAGES = ("numpy", "opencv-python", "pillow", "torch")


def timed(work: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> Side:
    """A side whose whole call counts, in seconds of `clock`; `work` returns the number of items that it made."""

    def side() -> tuple[int, float]:
        start = clock()
        items = work()
        return items, clock() - start

    return side


@dataclass(frozen=True)
class Ratio:
    """How many times as fast: the median over the rounds, with the least and the greatest."""

    median: float
    least: float
    greatest: float
    rounds: int

    def __str__(self) -> str:
        return f"{figure(self.median)} [{figure(self.least)}, {figure(self.greatest)}] over {self.rounds} rounds"


@dataclass(frozen=True)
class Timing:
    """`seconds`: for each side, the seconds an item of every round."""

    seconds: Mapping[str, list[float]]

    def rate(self, side: str) -> float:
        """Items a second: the median over the rounds."""
        return 1 / median(self.seconds[side])

    def ratio(self, side: str, *others: str) -> Ratio:
        """How many times as fast `side` is as `others` one after the other, compared round by round."""
        rounds = [
            sum(self.seconds[other][number] for other in others) / own for number, own in enumerate(self.seconds[side])
        ]
        return Ratio(median(rounds), min(rounds), max(rounds), len(rounds))


def interleaved(sides: Mapping[str, Side], seconds: float) -> Timing:
    """Time `sides` in turns, A B A B ..., for about `seconds` in all.

    Every side works once beforehand, uncounted. A round gives each side an equal share of its time, at least one piece
    of work, so pieces longer than that take longer than `seconds`: there are three rounds at the least.
    """
    once = sum(side()[1] for side in sides.values())
    rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, int(seconds / max(once, 1e-6))))
    share = seconds / rounds / len(sides)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            items, spent = side()
            while spent < share:
                more, took = side()
                items, spent = items + more, spent + took
            found[name].append(spent / items)
    return Timing(found)


@dataclass
class Report:
    """What a benchmark found: what was run, a table of rates, and the ratios that count.

    `goals`: for some of the ratios, by their names, what the median should reach at the least. `results`: what counts
    and is no ratio, a line each.
    """

    title: str
    facts: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: list[tuple[str, Ratio]] = field(default_factory=list)
    goals: dict[str, float] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """One line a ratio, with its goal where it has one, and the other results."""
        for what, ratio in self.ratios:
            goal = self.goals.get(what)
            verdict = "" if goal is None else f"; goal {goal:g}: {'held' if ratio.median >= goal else 'missed'}"
            yield f"RATIO {what}: {ratio}{verdict}"
        yield from self.results


def clock(count: int) -> Callable[[], float]:
    """What to time work of `count` threads by: the process's CPU time of one, which the work of others leaves alone, and
    the time that passes of several, which must not hide that a thread waits."""
    return time.process_time if count == 1 else time.perf_counter


@contextmanager
def threads(count: int) -> Iterator[None]:
    """`pinned`, with `count` threads for PyTorch's own work."""
    import torch

    with pinned():
        torch.set_num_threads(count)
        yield


@contextmanager
def pinned() -> Iterator[None]:
    """One thread for PyTorch, OpenCV and what is started meanwhile: a pool of threads times the scheduler as well."""
    import cv2
    import torch

    torch_before, cv2_before = torch.get_num_threads(), cv2.getNumThreads()
    before = {name: os.environ.get(name) for name in _THREADS}
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        torch.set_num_threads(torch_before)
        cv2.setNumThreads(cv2_before)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def machine(cores: int) -> str:
    """One line on where numbers come from. The load says whether others were at work: spreads are wide then."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:  # not Linux
        pass
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"{cores} cores ({model}){load}; Python {platform.python_version()}, {versions}; one thread"


def figure(value: float) -> str:
    """About three significant digits, without an exponent."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{digits}f}"
