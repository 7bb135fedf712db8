"""Operating points: the threshold for a wanted Fa, or number of false alarms a frame, and what is found there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from irstd.errors import InputError
from irstd.metrics.components import Components, components
from irstd.metrics.curve import ROUNDING, OperatingCurve, first_within, too_few_pixels
from irstd.metrics.ignore import region_mask
from irstd.metrics.matching import FrameMatch, match_frame, scored_targets
from irstd.metrics.protocols import SegmentationProtocol, segmentation_protocol
from irstd.metrics.segmentation import checked_pair, checked_regions

if TYPE_CHECKING:
    from irstd.metrics.detection import DetectionMetrics
    from irstd.metrics.resampling import Resampled

_NOTHING = FrameMatch(0, 0, 0, 0, 0, np.zeros(0, np.intp), np.zeros(0, bool), np.zeros(0, bool))


class OperatingPoint(NamedTuple):
    """Pixels that score above `threshold` give `pd` (None without any target) at `fa` (a fraction of pixels)."""

    threshold: float
    pd: float | None
    fa: float


class BoxPoint(NamedTuple):
    """Boxes that score above `threshold` give `recall` (None without any target) at so many false alarms a frame."""

    threshold: float
    recall: float | None
    false_alarms_per_frame: float


def threshold_for_fa(curve: OperatingCurve, fa: float) -> float:
    """The lowest threshold of the curve from which upwards Fa is never greater than `fa` (a fraction of pixels).

    Fa need not fall as the threshold rises (a blob that hung on a target may break off), hence "never" and not "at".
    Raises InputError (a ValueError) where fewer than 10 / fa pixels were seen, too few to tell such a rate from
    another, and where Fa is greater even at the highest threshold.
    """
    if not fa > 0:
        raise InputError(f"the wanted Fa is {fa}: it must be greater than 0")
    if why := too_few_pixels(curve.pixels, fa):
        raise InputError(why)
    first = int(first_within(np.asarray(curve.false_alarm_pixels)[None], np.array([curve.pixels]), fa)[0])
    if first == len(curve.thresholds):
        raise InputError(f"Fa exceeds {fa:g} at every threshold up to {curve.thresholds[-1]:g}: add higher ones")
    return float(curve.thresholds[first])


def pd_at_fa(
    scores: Iterable[np.ndarray],
    masks: Iterable[np.ndarray],
    fa: float,
    protocol: str | SegmentationProtocol = "strict",
    ignores: Iterable[np.ndarray | None] | None = None,
) -> OperatingPoint:
    """The operating point of score maps of any range at the lowest threshold from which upwards Fa is never above `fa`.

    scores: maps [H, W] of real numbers. masks, ignores (boxes of each frame): as in `SegmentationMetrics`. All are gone
    through more than once, so each is a list, or something else that begins anew at every `iter`. fa: fraction of pixels,
    at least 0. Exact: every distinct score is tried, not a sample of them, so that two detectors can be put side by side at
    the same Fa. Unlike `lowest_threshold` it describes the frames given and promises nothing of others, so a small set is
    not refused.

    No map is kept: only the targets and the highest pixels are, a few times as many as `fa` allows and 256 a frame.
    """
    if not fa >= 0:
        raise InputError(f"the wanted Fa is {fa}: it must be at least 0")
    regions, shapes = _places(masks, ignores)
    if not shapes:
        raise InputError("no score map was given")
    protocol = segmentation_protocol(protocol)
    pixels, total = _scored_pixels(regions, shapes), sum(height * width for height, width in shapes)
    budget = int(fa * pixels + ROUNDING)

    # Only the highest scores matter; how many is not known before, so the reach grows until Fa is exceeded or all
    # are in.
    reach = 4 * budget + 256 * len(shapes)
    while True:
        tops = _Tops(scores, masks, regions, min(reach, total))
        point = tops.descend(budget, protocol)
        if point is not None or tops.count == total:
            break
        reach *= 4
    if point is None:  # even all pixels together stay within the budget
        below = np.nextafter(tops.levels[-1], tops.levels.dtype.type(-np.inf))
        matches = [
            match_frame(components(np.ones(target.shape, bool)), target, protocol, tops.ignored(frame))
            for frame, target in enumerate(tops.targets)
        ]
        point = float(below), sum(m.hits for m in matches), sum(m.false_alarm_pixels for m in matches)
    threshold, hits, false_pixels = point
    count = sum(len(scored_targets(target, tops.ignored(i))) for i, target in enumerate(tops.targets))
    return OperatingPoint(threshold, hits / count if count else None, false_pixels / pixels)


def lowest_threshold(
    scores: Iterable[np.ndarray],
    masks: Iterable[np.ndarray],
    fa: float,
    protocol: str | SegmentationProtocol = "strict",
    ignores: Iterable[np.ndarray | None] | None = None,
) -> OperatingPoint:
    """The lowest threshold from which upwards Fa is never above `fa` on these frames, to be used on others.

    As `pd_at_fa`, exact over every distinct score, but refused where it would say nothing of other frames: InputError where
    fewer than 10 / fa pixels are scored.
    """
    if not fa > 0:
        raise InputError(f"the wanted Fa is {fa}: it must be greater than 0")
    if why := too_few_pixels(_scored_pixels(*_places(masks, ignores)), fa):
        raise InputError(why)
    return pd_at_fa(scores, masks, fa, protocol, ignores)


def threshold_within(metrics: DetectionMetrics, rate: float) -> float:
    """The lowest threshold above which false alarms a frame are at most `rate`; 0 where nothing was detected."""
    return _threshold_within(metrics.resampled(), rate)


def lowest_box_threshold(metrics: DetectionMetrics, rate: float) -> BoxPoint:
    """As `lowest_threshold`, of boxes: the lowest threshold above which false alarms a frame are at most `rate` on the
    frames that `metrics` saw, to be used on others.

    Exact over every distinct score; as the threshold falls, false alarms never become fewer. InputError where there are
    fewer than 10 / rate frames, too few to tell such a rate from another.
    """
    if not rate > 0:
        raise InputError(f"the wanted number of false alarms a frame is {rate}: it must be greater than 0")
    found = metrics.resampled()
    frames, targets = int(found.frames_S.sum()), int(found.targets_S.sum())
    if frames < 10 / rate - ROUNDING:
        raise InputError(
            f"too little to tell: {rate:g} false alarms a frame need {10 / rate:.3g} frames, and there are {frames}"
        )
    threshold = _threshold_within(found, rate)
    above_D = found.scores_D > threshold
    hits = int(np.count_nonzero(above_D & found.hit_D))
    return BoxPoint(
        threshold, hits / targets if targets else None, int(np.count_nonzero(above_D & ~found.hit_D)) / frames
    )


def _threshold_within(found: Resampled, rate: float) -> float:
    if not len(found.scores_D):
        return 0.0
    # False alarms down to each distinct score, itself included: the first that is too low is the threshold.
    false_L = np.cumsum(~found.hit_D)[found.last_L]
    count = int(np.searchsorted(false_L, rate * found.frames_S.sum() + 1e-9, side="right"))
    if count < len(false_L):
        return float(found.scores_D[found.last_L[count]])
    # Below the lowest also where it is compared as float32.
    return float(np.nextafter(np.float32(found.scores_D[-1]), np.float32(-np.inf)))


def _places(
    masks: Iterable[np.ndarray], ignores: Iterable[np.ndarray | None] | None
) -> tuple[list[np.ndarray | None], list[tuple[int, ...]]]:
    """Ignore regions and (H, W) of each frame."""
    shapes = [np.shape(mask) for mask in masks]
    return ([None] * len(shapes) if ignores is None else [checked_regions(boxes) for boxes in ignores]), shapes


def _scored_pixels(regions: list[np.ndarray | None], shapes: list[tuple[int, ...]]) -> int:
    found = 0
    for boxes_K4, shape in zip(regions, shapes, strict=True):
        ignored_HW = region_mask(boxes_K4, shape)
        found += int(np.prod(shape)) - (0 if ignored_HW is None else int(np.count_nonzero(ignored_HW)))
    return found


class _Tops:
    """The targets of all frames, and the places of about the `reach` highest pixels of all score maps together.

    `levels`: their distinct scores, descending; `frames[starts[i] : starts[i + 1]]`: for level i the frames of its pixels
    (a frame once a pixel); `count`: how many pixels there are.
    """

    def __init__(
        self,
        scores: Iterable[np.ndarray],
        masks: Iterable[np.ndarray],
        regions: list[np.ndarray | None],
        reach: int,
    ) -> None:
        self.regions = regions
        self.targets: list[Components] = []
        self.places: list[np.ndarray] = []
        self.values: list[np.ndarray] = []
        self.count, cut = 0, -np.inf
        for score, mask in zip(scores, masks, strict=True):
            score, mask = checked_pair(score, mask, any_range=True)
            self.targets.append(components(mask))
            flat = np.ravel(score).astype(np.result_type(np.float32, score.dtype), copy=False)
            places = np.flatnonzero(flat >= cut)
            self.places.append(places)
            self.values.append(flat[places])
            self.count += len(places)
            if self.count > 2 * reach:
                cut = self._drop(reach)
        self._drop(reach)
        flat = np.concatenate(self.values)
        self.values = [values.astype(flat.dtype, copy=False) for values in self.values]
        frames = np.repeat(np.arange(len(self.values), dtype=np.int32), [len(v) for v in self.values])
        order = np.argsort(-flat, kind="stable")
        flat, self.frames = flat[order], frames[order]
        starts = np.flatnonzero(np.diff(flat, prepend=np.inf))
        self.levels, self.starts = flat[starts], np.append(starts, len(flat))

    def _drop(self, reach: int) -> float:
        """Leave out what is below the score of the `reach`-th highest pixel; that score.

        Pixels of that very score go too where they are many more than `reach`: a flat background would all be kept.
        """
        if self.count <= reach:
            return -np.inf
        highest = np.concatenate(self.values)
        cut = np.partition(highest, len(highest) - reach)[len(highest) - reach]
        ties = np.count_nonzero(highest >= cut) <= 2 * reach
        for index, values in enumerate(self.values):
            keep = values >= cut if ties else values > cut
            self.values[index], self.places[index] = values[keep], self.places[index][keep]
        self.count = sum(map(len, self.values))
        return cut if ties else np.nextafter(cut, np.asarray(cut).dtype.type(np.inf))

    def ignored(self, frame: int) -> np.ndarray | None:
        """bool [H, W]: the pixels of a frame that do not count; None where all do."""
        return region_mask(self.regions[frame], self.targets[frame].shape)

    def above(self, frame: int, level: float) -> np.ndarray:
        """bool [H, W]: the pixels of a frame that score at least `level`, one of `levels`."""
        mask_HW = np.zeros(self.targets[frame].shape, bool)
        mask_HW.reshape(-1)[self.places[frame][self.values[frame] >= level]] = True
        return mask_HW

    def descend(self, budget: int, protocol: SegmentationProtocol) -> tuple[float, int, int] | None:
        """Lower the threshold level by level until the false-alarm pixels exceed the budget.

        Returns threshold, hits and false-alarm pixels just before; None when the levels end first. At each level only
        the frames that gain a pixel are matched anew.
        """
        matches = [_NOTHING] * len(self.targets)
        # While no more pixels are predicted than Fa may have, it cannot be exceeded: these levels are taken at once.
        free = int(np.searchsorted(self.starts[1:], budget, side="right"))
        first = max(free - 1, 0)
        hits = false_pixels = 0
        for index in range(first, len(self.levels)):
            start = 0 if index == first else self.starts[index]
            before = hits, false_pixels
            for frame in np.unique(self.frames[start : self.starts[index + 1]]).tolist():
                blobs = components(self.above(frame, self.levels[index]))
                match = match_frame(blobs, self.targets[frame], protocol, self.ignored(frame))
                hits += match.hits - matches[frame].hits
                false_pixels += match.false_alarm_pixels - matches[frame].false_alarm_pixels
                matches[frame] = match
            if false_pixels > budget:
                return float(self.levels[index]), *before
        return None
