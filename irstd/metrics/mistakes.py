"""The worst mistakes of a model on a split: targets that it missed, and what it took for one, each with what lies around it.

What is a miss and what a false alarm is decided by the protocol `strict`. Memory is bounded: of each kind the worst few are
kept, cut out, and of one sequence no more than some, since a film shows the same mistake in every frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from irstd.data.contrast import scr
from irstd.data.regions import claimed
from irstd.metrics.coco import Frame, match
from irstd.metrics.components import Components
from irstd.metrics.detection import frame_of
from irstd.metrics.matching import HIT_DISTANCE, match_frame
from irstd.metrics.protocols import detection_protocol, segmentation_protocol
from irstd.metrics.segmentation import pair_of

MOST, OF_SEQUENCE = 12, 3
AROUND, LEAST_SIDE, MOST_SIDE, GREATEST_SIDE = 8, 72, 160, 512
"""A cut-out's side: so many times the target's, in px at least and at most, and at most where the target is that large."""
DRAWN = 6
"""Detections of a cut-out that are kept: the one that it is about, and the nearest."""


@dataclass(frozen=True, eq=False)
class Mistake:
    """A target that was missed (`kind` "missed"), or a false alarm ("false"), in a cut-out of its frame.

    sequence: "<set>/<sequence>". box: of the target or the detection, (x, y, w, h) in px of the frame. size: px of the mask,
    or of the box. scr: nan where it cannot be told. score: of a false alarm. why: in words. counts_hw: the cut-out, whose corner
    is at `left`, `top` of a frame of `shape`. targets, ignore: boxes that lie in it; detections: some, with scores; of: how many.
    """

    kind: str
    sequence: str
    frame: int
    box: tuple[float, ...]
    size: float
    scr: float
    score: float | None
    why: str
    counts_hw: np.ndarray
    left: int
    top: int
    shape: tuple[int, int]
    targets: list[list[float]]
    detections: list[tuple[list[float], float]]
    of: int
    ignore: list[list[float]]


class Worst:
    """The worst of one kind: at most `most`, of a sequence at most `of_sequence`."""

    def __init__(self, most: int, of_sequence: int) -> None:
        self.most, self.of_sequence, self.count = most, of_sequence, 0
        self._kept: list[tuple[tuple[float, ...], Mistake]] = []

    def offer(self, sequence: str, order: tuple[float, ...], make: Callable[[], Mistake]) -> None:
        """Keep what `make` gives where it is among the worst; a greater `order` is worse."""
        self.count += 1
        own = [entry for entry in self._kept if entry[1].sequence == sequence]
        full = own if len(own) >= self.of_sequence else self._kept if len(self._kept) >= self.most else []
        if full:
            least = min(full, key=lambda entry: entry[0])
            if order <= least[0]:
                return
            self._kept.remove(least)
        self._kept.append((order, make()))

    def items(self) -> list[Mistake]:
        """The worst first."""
        return [each for _, each in sorted(self._kept, key=lambda entry: entry[0], reverse=True)]


class Mistakes:
    """Collects over the labelled frames of a split. threshold: above which a detection counts."""

    def __init__(self, threshold: float, most: int = MOST, of_sequence: int = OF_SEQUENCE) -> None:
        self.threshold, self.frames = threshold, 0
        self.missed, self.false = Worst(most, of_sequence), Worst(most, of_sequence)

    def masks(
        self,
        key: tuple[str, int],
        probability_HW: np.ndarray,
        mask_HW: np.ndarray,
        frame_HW: np.ndarray,
        ignore_K4: np.ndarray | None = None,
    ) -> None:
        """Add a frame of masks; arguments as in `SegmentationMetrics.update`, frame_HW the counts."""
        pair = pair_of(probability_HW, mask_HW, self.threshold, None, False, ignore_K4, frame_HW)
        found = match_frame(pair.predicted, pair.target, segmentation_protocol("strict"), pair.ignored_HW)
        truths, blobs = pair.target.boxes_N4.astype(float), pair.predicted.boxes_N4.astype(float)
        scores = _peaks(pair.predicted, probability_HW)
        scene = _Scene(key, frame_HW, truths, blobs, scores, ignore_K4)
        self.frames += 1
        assert pair.scr_M is not None
        for index in found.scored_M[~found.hit_M].tolist():
            why = _faint(probability_HW, truths[index], self.threshold)
            size = float(pair.target.areas_N[index])
            self._miss(scene, truths[index], size, pair.scr_M[index], why)
        centres = pair.target.centroids_N2[:, ::-1] + 0.5
        alarms = np.flatnonzero(found.alarm_N)
        # Of a frame no more can be among the worst than of its sequence.
        worst = alarms[np.lexsort((-pair.predicted.areas_N[alarms], -scores[alarms]))][: self.false.of_sequence]
        self.false.count += len(alarms) - len(worst)
        for index in worst.tolist():
            centre = pair.predicted.centroids_N2[index, ::-1] + 0.5
            size = float(pair.predicted.areas_N[index])
            self._alarm(scene, index, size, _nearest(centre, centres))

    def boxes(
        self,
        key: tuple[str, int],
        boxes_N4: np.ndarray,
        scores_N: np.ndarray,
        targets_M4: np.ndarray,
        frame_HW: np.ndarray,
        ignore_K4: np.ndarray | None = None,
    ) -> None:
        """Add a frame of boxes; arguments as in `DetectionMetrics.update`, frame_HW the counts."""
        every = frame_of(boxes_N4, scores_N, targets_M4, ignore_K4)
        order = np.argsort(-every.scores_N, kind="stable")
        order = order[every.scores_N[order] > self.threshold]
        # Ranks in place of scores: what is matched says so which detection it is.
        ranks = np.arange(len(order), 0, -1).astype(float)
        counted = Frame(every.boxes_N4[order], ranks, every.targets_M4, every.ignore_K4)
        matched = match([counted], detection_protocol("strict"))
        found = set(matched.target_D[matched.target_D >= 0].tolist())
        scene = _Scene(key, frame_HW, every.targets_M4, counted.boxes_N4, every.scores_N[order], ignore_K4)
        self.frames += 1
        scored = claimed(every.targets_M4, every.ignore_K4)
        for index, box in enumerate(every.targets_M4):
            if scored[index] and index not in found:
                ratio = scr(frame_HW, box, every.targets_M4)
                self._miss(scene, box, float(box[2] * box[3]), ratio, self._unanswered(every, box))
        for rank in matched.scores_D[matched.target_D < 0].tolist():
            index = len(order) - int(rank)
            box = counted.boxes_N4[index]
            self._alarm(scene, index, float(box[2] * box[3]), _overlapping(box, every.targets_M4, found))

    def _unanswered(self, every: Frame, box: np.ndarray) -> str:
        shared_N = np.array([iou(box, other) for other in every.boxes_N4])
        above = every.scores_N > self.threshold
        near = shared_N * above
        if near.any() and near.max() > 0:
            best = int(near.argmax())
            taken = "; it answers another target" if near[best] >= 0.5 else ""
            return f"IoU {near[best]:.2f} with a box of score {every.scores_N[best]:.2f}{taken}"
        low = np.where((shared_N >= 0.5) & ~above, every.scores_N, -1.0)
        if len(low) and low.max() >= 0:
            return f"found with score {low.max():.2g} alone, threshold {self.threshold:.2g}"
        return "no box here"

    def _miss(self, scene: _Scene, box: np.ndarray, size: float, ratio: float, why: str) -> None:
        order = (-1.0 if math.isnan(ratio) else ratio, size)
        self.missed.offer(scene.key[0], order, lambda: scene.cut(box, size, ratio, why))

    def _alarm(self, scene: _Scene, index: int, size: float, why: str) -> None:
        box, score = scene.boxes_N4[index], float(scene.scores_N[index])

        def make() -> Mistake:
            ratio = scr(scene.frame_HW, box, np.concatenate([scene.targets_M4, box[None]]))
            return scene.cut(box, size, ratio, why, index)

        self.false.offer(scene.key[0], (score, size), make)


@dataclass(frozen=True, eq=False)
class _Scene:
    """A frame with all that is drawn in its cut-outs."""

    key: tuple[str, int]
    frame_HW: np.ndarray
    targets_M4: np.ndarray
    boxes_N4: np.ndarray
    scores_N: np.ndarray
    ignore_K4: np.ndarray | None

    def cut(self, box: np.ndarray, size: float, ratio: float, why: str, own: int | None = None) -> Mistake:
        """The mistake with what lies around it. own: the number of the detection that is a false alarm."""
        x, y, w, h = (float(value) for value in box)
        height, width = self.frame_HW.shape
        side = min(max(AROUND * max(w, h), LEAST_SIDE), MOST_SIDE)
        tall, wide = (min(int(max(side, 1.25 * a)), GREATEST_SIDE, b) for a, b in ((h, height), (w, width)))
        left = min(max(0, round(x + w / 2 - wide / 2)), width - wide)
        top = min(max(0, round(y + h / 2 - tall / 2)), height - tall)

        def inside(boxes: Any) -> list[int]:
            edges = np.asarray(boxes, float).reshape(-1, 4)
            x2, y2 = edges[:, 0] + edges[:, 2], edges[:, 1] + edges[:, 3]
            return np.flatnonzero(
                (x2 > left) & (edges[:, 0] < left + wide) & (y2 > top) & (edges[:, 1] < top + tall)
            ).tolist()

        found = inside(self.boxes_N4)
        offset_N2 = self.boxes_N4[:, :2] + self.boxes_N4[:, 2:] / 2 - (x + w / 2, y + h / 2)
        drawn = sorted(found, key=lambda i: (i != own, *np.hypot(*offset_N2[i, None].T)))[:DRAWN]
        ignore = [] if self.ignore_K4 is None else np.asarray(self.ignore_K4, float).reshape(-1, 4)
        return Mistake(
            "missed" if own is None else "false",
            str(self.key[0]),
            int(self.key[1]),
            (x, y, w, h),
            size,
            float(ratio),
            None if own is None else float(self.scores_N[own]),
            why,
            self.frame_HW[top : top + tall, left : left + wide].copy(),
            left,
            top,
            (height, width),
            [self.targets_M4[i].tolist() for i in inside(self.targets_M4)],
            [(self.boxes_N4[i].tolist(), float(self.scores_N[i])) for i in drawn],
            len(found),
            [ignore[i].tolist() for i in inside(ignore)],
        )


def _peaks(blobs: Components, probability_HW: np.ndarray) -> np.ndarray:
    """float [N]: the largest probability of each blob, its score."""
    found = [np.zeros(0)]
    for band in blobs.bands:
        height, width = band.labels.shape
        window_hw = probability_HW[band.top : band.top + height, band.left : band.left + width]
        found.append(ndimage.maximum(window_hw, band.labels, np.asarray(band.ids)))
    return np.concatenate(found)


def _faint(probability_HW: np.ndarray, box: np.ndarray, threshold: float) -> str:
    """Why a target was missed: how sure the network is around it."""
    x, y, w, h = (int(value) for value in box)
    room = int(HIT_DISTANCE)
    around_hw = probability_HW[max(y - room, 0) : y + h + room, max(x - room, 0) : x + w + room]
    peak = float(around_hw.max(initial=0.0))
    if peak > threshold:
        return f"a blob is near, its centre {HIT_DISTANCE:g} px away or more, or answers another target"
    return f"probability here {f'up to {peak:.2g}' if peak >= 1e-3 else 'below 0.001'}, threshold {threshold:.2g}"


def _nearest(centre_2: np.ndarray, centres_M2: np.ndarray) -> str:
    if not len(centres_M2):
        return "no target in the frame"
    return f"the nearest target is {float(np.hypot(*(centres_M2 - centre_2).T).min()):.1f} px away"


def _overlapping(box: np.ndarray, targets_M4: np.ndarray, found: set[int]) -> str:
    shared_M = np.array([iou(box, other) for other in targets_M4])
    if len(shared_M) and shared_M.max() > 0:
        best = int(shared_M.argmax())
        again = ", which another box answers" if best in found else ""
        return f"IoU {shared_M[best]:.2f} with a target{again}"
    return _nearest(box[:2] + box[2:] / 2, targets_M4[:, :2] + targets_M4[:, 2:] / 2)


def iou(one_4: np.ndarray, other_4: np.ndarray) -> float:
    """Intersection over union of two boxes (x, y, w, h); 0 where neither has an area."""
    low, high = np.maximum(one_4[:2], other_4[:2]), np.minimum(one_4[:2] + one_4[2:], other_4[:2] + other_4[2:])
    common = float(np.prod(np.maximum(high - low, 0)))
    union = float(one_4[2] * one_4[3] + other_4[2] * other_4[3]) - common
    return common / union if union > 0 else 0.0
