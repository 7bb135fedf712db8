"""Operating points: Pd against Fa over thresholds, and the threshold for a wanted Fa."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from irstd.errors import InputError
from irstd.metrics.components import Components, components
from irstd.metrics.matching import FrameMatch, match_frame
from irstd.metrics.protocols import SegmentationProtocol, segmentation_protocol
from irstd.metrics.segmentation import checked_pair

# Fa is a count over a count: the product with the count of pixels must come back to the integer that it was.
_ROUNDING = 1e-6
_NOTHING = FrameMatch(0, 0, 0, 0, 0)


class OperatingPoint(NamedTuple):
    """Pixels that score above `threshold` give `pd` (None without any target) at `fa` (a fraction of pixels)."""

    threshold: float
    pd: float | None
    fa: float


class OperatingCurve:
    """Pd and Fa at many thresholds in one pass over the frames.

    thresholds: increasing; default 0, .01, ..., 1. protocol, grid: as in `SegmentationMetrics`, whose Pd and Fa at each
    threshold these are.
    """

    def __init__(
        self,
        thresholds: Iterable[float] | None = None,
        protocol: str | SegmentationProtocol = "strict",
        grid: int | None = None,
        *,
        any_range: bool = False,
    ) -> None:
        self.thresholds = np.array([i / 100 for i in range(101)] if thresholds is None else list(thresholds), float)
        if not len(self.thresholds) or (np.diff(self.thresholds) <= 0).any():
            raise InputError("thresholds must be given, and increase")
        self.protocol = segmentation_protocol(protocol)
        self.grid = grid
        self.any_range = any_range
        self.hits = np.zeros(len(self.thresholds), np.int64)
        self.false_alarm_pixels = np.zeros(len(self.thresholds), np.int64)
        self.targets = self.images = self.pixels = 0

    def update(self, probability_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Add one labelled frame; arguments and errors as in `SegmentationMetrics.update`."""
        probability_HW, mask_HW = checked_pair(probability_HW, mask_HW, self.grid, self.any_range)
        if probability_HW.dtype.kind != "f":
            probability_HW = probability_HW.astype(np.float64)
        target = components(mask_HW)
        # In the map's own precision, as comparison with a Python float is.
        thresholds = self.thresholds.astype(probability_HW.dtype)
        values = np.sort(probability_HW[probability_HW > thresholds[0]])
        above = len(values) - np.searchsorted(values, thresholds, side="right")
        match, before = _NOTHING, 0
        for index in range(len(thresholds) - 1, -1, -1):
            if above[index] != before:  # otherwise the same pixels as at the threshold above
                match = match_frame(components(probability_HW > thresholds[index]), target, self.protocol)
                before = above[index]
            self.hits[index] += match.hits
            self.false_alarm_pixels[index] += match.false_alarm_pixels
        self.targets += len(target)
        self.images += 1
        self.pixels += mask_HW.size

    def compute(self) -> dict[str, Any]:
        """Lists `thresholds`, `pd` (None without any target) and `fa` (fraction), and the counts of what was seen."""
        return {
            "thresholds": self.thresholds.tolist(),
            "pd": (self.hits / self.targets).tolist() if self.targets else None,
            "fa": (self.false_alarm_pixels / self.pixels).tolist() if self.pixels else None,
            "targets": self.targets,
            "images": self.images,
            "pixels": self.pixels,
            "protocol": self.protocol.name,
            "grid": self.grid,
        }

    def merge(self, other: OperatingCurve) -> OperatingCurve:
        """Add the frames of another part, measured the same way; InputError otherwise. Returns self."""
        if self._settings() != other._settings():
            raise InputError("curves with other thresholds, protocol or grid cannot be merged")
        self.hits += other.hits
        self.false_alarm_pixels += other.false_alarm_pixels
        self.targets += other.targets
        self.images += other.images
        self.pixels += other.pixels
        return self

    def state(self) -> dict[str, Any]:
        """Everything accumulated, as JSON can hold it."""
        counts = {"targets": self.targets, "images": self.images, "pixels": self.pixels}
        lists = {"hits": self.hits.tolist(), "false_alarm_pixels": self.false_alarm_pixels.tolist()}
        return {**self._settings(), "counts": counts | lists}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> OperatingCurve:
        """The accumulator whose `state()` this is."""
        settings = dict(state)
        counts = settings.pop("counts")
        out = cls(**settings)
        out.hits += np.array(counts["hits"], np.int64)
        out.false_alarm_pixels += np.array(counts["false_alarm_pixels"], np.int64)
        out.targets, out.images, out.pixels = counts["targets"], counts["images"], counts["pixels"]
        return out

    def _settings(self) -> dict[str, Any]:
        return {
            "thresholds": self.thresholds.tolist(),
            "protocol": self.protocol.name,
            "grid": self.grid,
            "any_range": self.any_range,
        }


def curve(
    probabilities: Iterable[np.ndarray],
    masks: Iterable[np.ndarray],
    protocol: str | SegmentationProtocol = "strict",
    thresholds: Iterable[float] | None = None,
    grid: int | None = None,
) -> OperatingCurve:
    """The operating curve of frames that are at hand; arguments as in `OperatingCurve`."""
    out = OperatingCurve(thresholds, protocol, grid)
    for probability_HW, mask_HW in zip(probabilities, masks, strict=True):
        out.update(probability_HW, mask_HW)
    return out


def threshold_for_fa(curve: OperatingCurve, fa: float) -> float:
    """The lowest threshold of the curve from which upwards Fa is never greater than `fa` (a fraction of pixels).

    Fa need not fall as the threshold rises (a blob that hung on a target may break off), hence "never" and not "at".
    Raises InputError (a ValueError) where fewer than 10 / fa pixels were seen, too few to tell such a rate from
    another, and where Fa is greater even at the highest threshold.
    """
    if not fa > 0:
        raise InputError(f"the wanted Fa is {fa}: it must be greater than 0")
    if curve.pixels < 10 / fa:
        raise InputError(f"too little to tell: Fa {fa:g} needs {10 / fa:.3g} pixels, and there are {curve.pixels}")
    too_many = np.flatnonzero(curve.false_alarm_pixels > fa * curve.pixels + _ROUNDING)
    first = int(too_many[-1]) + 1 if len(too_many) else 0
    if first == len(curve.thresholds):
        raise InputError(f"Fa exceeds {fa:g} at every threshold up to {curve.thresholds[-1]:g}: add higher ones")
    return float(curve.thresholds[first])


def pd_at_fa(
    scores: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    fa: float,
    protocol: str | SegmentationProtocol = "strict",
) -> OperatingPoint:
    """The operating point of score maps of any range at the lowest threshold from which upwards Fa is never above `fa`.

    scores: maps [H, W] of real numbers. masks: as in `SegmentationMetrics`. fa: fraction of pixels, at least 0. Exact:
    every distinct score is tried, not a sample of them, so that two detectors can be put side by side at the same Fa.
    Unlike `threshold_for_fa` it describes the frames given and promises nothing of others, so a small set is not
    refused.
    """
    if not fa >= 0:
        raise InputError(f"the wanted Fa is {fa}: it must be at least 0")
    if not len(scores):
        raise InputError("no score map was given")
    protocol = segmentation_protocol(protocol)
    pairs = [checked_pair(s, m, any_range=True) for s, m in zip(scores, masks, strict=True)]
    dtype = np.result_type(np.float32, *(score.dtype for score, _ in pairs))
    maps = [np.ascontiguousarray(score, dtype) for score, _ in pairs]
    targets = [components(mask) for _, mask in pairs]
    pixels = sum(score.size for score in maps)
    budget = int(fa * pixels + _ROUNDING)

    # Only the highest scores matter; how many is not known before, so the reach grows until Fa is exceeded or all
    # are in.
    reach = 4 * budget + 256 * len(maps)
    while True:
        levels, touched = _levels(maps, reach)
        point = _descend(maps, targets, levels, touched, budget, protocol)
        if point is not None or sum(map(len, touched)) == pixels:
            break
        reach *= 4
    if point is None:  # even all pixels together stay within the budget
        below = np.nextafter(levels[-1], dtype.type(-np.inf))
        matches = [match_frame(components(score > below), t, protocol) for score, t in zip(maps, targets, strict=True)]
        point = float(below), sum(m.hits for m in matches), sum(m.false_alarm_pixels for m in matches)
    threshold, hits, false_pixels = point
    count = sum(map(len, targets))
    return OperatingPoint(threshold, hits / count if count else None, false_pixels / pixels)


def _levels(maps: list[np.ndarray], reach: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The distinct scores of at least the `reach` highest pixels, descending, and for each the frames of its pixels (a
    frame once a pixel)."""
    tops = [score.ravel() for score in maps]
    tops = [np.partition(t, len(t) - reach)[len(t) - reach :] if reach < len(t) else t for t in tops]
    highest = np.concatenate(tops)
    cut = np.partition(highest, len(highest) - reach)[len(highest) - reach] if reach < len(highest) else highest.min()
    values = [score[score >= cut] for score in maps]
    frames = np.repeat(np.arange(len(maps)), [len(v) for v in values])
    flat = np.concatenate(values)
    order = np.argsort(-flat, kind="stable")
    flat, frames = flat[order], frames[order]
    starts = np.flatnonzero(np.diff(flat, prepend=np.inf))
    return flat[starts], np.split(frames, starts[1:])


def _descend(
    maps: list[np.ndarray],
    targets: list[Components],
    levels: np.ndarray,
    touched: list[np.ndarray],
    budget: int,
    protocol: SegmentationProtocol,
) -> tuple[float, int, int] | None:
    """Lower the threshold level by level until the false-alarm pixels exceed the budget.

    Returns threshold, hits and false-alarm pixels just before; None when the levels end first. At each level only the
    frames that gain a pixel are matched anew.
    """
    matches = [_NOTHING] * len(maps)
    # While no more pixels are predicted than Fa may have, it cannot be exceeded: these levels are taken at once.
    free = int(np.searchsorted(np.cumsum([len(frames) for frames in touched]), budget, side="right"))
    pending = [np.concatenate(touched[:free])] if free else []
    hits = false_pixels = 0
    for index in range(max(free - 1, 0), len(levels)):
        frames = pending.pop() if pending else touched[index]
        before = hits, false_pixels
        for frame in np.unique(frames).tolist():
            match = match_frame(components(maps[frame] >= levels[index]), targets[frame], protocol)
            hits += match.hits - matches[frame].hits
            false_pixels += match.false_alarm_pixels - matches[frame].false_alarm_pixels
            matches[frame] = match
        if false_pixels > budget:
            return float(levels[index]), *before
    return None
