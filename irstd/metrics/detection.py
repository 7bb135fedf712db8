"""Average precision, precision, recall, F1 and false alarms of detected boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from irstd.data.contrast import scr
from irstd.data.regions import claimed
from irstd.errors import InputError
from irstd.metrics import bootstrap, resampling
from irstd.metrics.coco import Average, Frame, Matched, average, match, mean_below
from irstd.metrics.protocols import DetectionProtocol, detection_protocol
from irstd.metrics.segmentation import checked_regions

# Frames that are matched in one go: what is kept of a frame afterwards is a few bytes a detection.
CHUNK = 256


@dataclass
class Group:
    """What is kept of the frames of one group.

    added: frames given; frames: those that the protocol scores, on which `frame` of the columns counts. targets: (SCR or
    nan, area in px) of each target, in order; first_target: of each frame, the place of its first target there. parts: the
    matched detections, chunk after chunk.
    """

    added: int = 0
    frames: int = 0
    targets: list[tuple[float, float]] = field(default_factory=list)
    first_target: list[int] = field(default_factory=list)
    parts: list[Matched] = field(default_factory=list)

    def columns(self) -> Matched:
        """All detections; `target_D` counts over the group's targets."""
        if len(self.parts) != 1:
            empty = Matched(np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool))
            self.parts = [Matched(*(np.concatenate(columns) for columns in zip(empty, *self.parts, strict=True)))]
        return self.parts[0]


class DetectionMetrics:
    """Accumulates frames; `compute` gives the numbers of all of them.

    protocol: `nnlab`, `strict` or `centroid` (see `irstd.metrics.protocols`). threshold: where the protocol reads P
    and R at one, a detection counts when its score is greater (not equal). fps: frames a second, for false alarms an
    hour.
    """

    def __init__(
        self, protocol: str | DetectionProtocol = "nnlab", threshold: float = 0.5, fps: float | None = None
    ) -> None:
        self.protocol = detection_protocol(protocol)
        self.threshold = float(threshold)
        if fps is not None and not fps > 0:
            raise InputError(f"fps is {fps}: it must be greater than 0")
        self.fps = fps
        self._groups: dict[str | None, Group] = {}
        self._pending: list[tuple[Group, int, Frame]] = []

    def update(
        self,
        boxes_N4: np.ndarray,
        scores_N: np.ndarray,
        target_boxes_M4: np.ndarray,
        group: str | None = None,
        *,
        ignore_K4: np.ndarray | None = None,
        frame_HW: np.ndarray | None = None,
    ) -> None:
        """Add one labelled frame; without a target it is an empty one (an unlabelled frame must not be added).

        Boxes are (x, y, w, h) in px of the original frame, in any order; N and M may be 0. group: what resampling
        takes as one (the sequence, usually). ignore_K4: boxes that are not scored (see `irstd.metrics.ignore`).
        frame_HW: the frame's counts, for bins of SCR. Raises InputError (a ValueError) for other shapes, NaN or infinity,
        a detection of negative or a target of no size.
        """
        self.add(frame_of(boxes_N4, scores_N, target_boxes_M4, ignore_K4), group, frame_HW)

    def add(self, frame: Frame, group: str | None = None, frame_HW: np.ndarray | None = None) -> None:
        """Add a frame that `frame_of` checked."""
        scored_M = claimed(frame.targets_M4, frame.ignore_K4)
        ratios = scr_of(frame.targets_M4, frame_HW)
        kept_N = frame.scores_N >= self.protocol.min_score
        into = self._groups.setdefault(group, Group())
        into.added += 1
        if self.protocol.frames == "annotated" and not scored_M.any():
            return
        targets_M4 = frame.targets_M4[scored_M]
        into.first_target.append(len(into.targets))
        into.targets += zip(ratios[scored_M].tolist(), targets_M4[:, 2:].prod(axis=1).tolist(), strict=True)
        kept = Frame(frame.boxes_N4[kept_N], frame.scores_N[kept_N], targets_M4, frame.ignore_K4)
        self._pending.append((into, into.frames, kept))
        into.frames += 1
        if len(self._pending) >= CHUNK:
            self._match()

    def _match(self) -> None:
        """Match the frames that wait, and keep of them what the numbers need."""
        if not self._pending:
            return
        matched = match([frame for _, _, frame in self._pending], self.protocol)
        ends = np.searchsorted(matched.frame_D, np.arange(len(self._pending) + 1))
        for index, (into, number, _) in enumerate(self._pending):
            scores_D, _, target_D, counted_D = (column[ends[index] : ends[index + 1]] for column in matched)
            if len(scores_D):
                place_D = np.where(target_D >= 0, target_D + into.first_target[number], -1).astype(np.int32)
                into.parts.append(Matched(scores_D, np.full(len(scores_D), number, np.int32), place_D, counted_D))
        self._pending.clear()

    @property
    def groups(self) -> list[str | None]:
        """Names of the groups seen, in order of appearance."""
        return list(self._groups)

    def compute(self, groups: Iterable[str | None] | None = None) -> dict[str, Any]:
        """The numbers over all frames, or over the named groups (a name given twice counts twice: bootstrap).

        ap50 (`ap` under `centroid`): average precision, 101 recalls, as COCO; None without a target.
        precision, recall, f1: at the threshold. Under `nnlab` recall is the largest at any score, and precision the
        mean of the interpolated precision over the recalls below it, 0 where recall is under .01. None where nothing
        is divided. frames, targets: counts, after the frames that the protocol leaves out (`skipped`).
        At the threshold also hits, false_alarms, false_alarms_per_frame, and with fps false_alarms_per_hour.
        Detections of equal score in different frames rank in the order in which the frames were added.
        """
        chosen = self._chosen(groups)
        frames, targets = sum(g.frames for g in chosen), sum(len(g.targets) for g in chosen)
        columns = _joined([g.columns() for g in chosen])
        found = None
        if targets:
            counted = columns.counted_D
            found = average(columns.scores_D[counted], columns.target_D[counted] >= 0, targets)
        result: dict[str, Any] = {self.protocol.average: float(found.precision_R.mean()) if found else None}
        if self.protocol.point == "curve":
            result |= _curve_point(found)
        else:
            above = columns.scores_D > self.threshold
            hits = int(np.count_nonzero(above & (columns.target_D >= 0)))
            result |= self._threshold_point(frames, targets, int(np.count_nonzero(above)), hits)
        result |= {"targets": targets, "frames": frames, "skipped": sum(g.added for g in chosen) - frames}
        result["protocol"] = self.protocol.name
        if self.protocol.point == "threshold":
            result["threshold"] = self.threshold
        return result

    def _threshold_point(self, frames: int, targets: int, detections: int, hits: int) -> dict[str, Any]:
        false_alarms = detections - hits
        result: dict[str, Any] = {
            "precision": _ratio(hits, detections),
            "recall": _ratio(hits, targets),
            "f1": _ratio(2 * hits, detections + targets),
            "hits": hits,
            "false_alarms": false_alarms,
            "false_alarms_per_frame": _ratio(false_alarms, frames),
        }
        if self.fps is not None:
            result["false_alarms_per_hour"] = _ratio(false_alarms * 3600 * self.fps, frames)
        return result

    def resampled(self, cluster: bootstrap.Cluster | None = None) -> resampling.Resampled:
        """The matched detections of all groups as `irstd.metrics.resampling` takes them, for intervals, bins and curves.

        cluster: the group of each name that frames were added under; by default each is one.
        """
        self._match()
        return resampling.Resampled.of(list(self._groups.items()), cluster, self.protocol, self.threshold, self.fps)

    def rows(self, group: str | None) -> list[dict[str, int]]:
        """Targets, hits and false alarms above the threshold of each scored frame of a group, in order of adding."""
        (into,) = self._chosen([group])
        columns = into.columns()
        above = columns.scores_D > self.threshold
        detections_F = np.bincount(columns.frame_D[above], minlength=into.frames)
        hits_F = np.bincount(columns.frame_D[above & (columns.target_D >= 0)], minlength=into.frames)
        targets_F = np.diff([*into.first_target, len(into.targets)])
        return [
            {"targets": t, "hits": h, "false_alarms": d - h}
            for t, h, d in zip(targets_F.tolist(), hits_F.tolist(), detections_F.tolist(), strict=True)
        ]

    def _chosen(self, groups: Iterable[str | None] | None) -> list[Group]:
        self._match()
        found = []
        for group in self._groups if groups is None else groups:
            if group not in self._groups:
                raise InputError(f"no frame of the group {group!r} was added")
            found.append(self._groups[group])
        return found

    def merge(self, other: DetectionMetrics) -> DetectionMetrics:
        """Add the frames of another part, measured the same way; InputError otherwise. Returns self."""
        if self._settings() != other._settings():
            raise InputError(f"parts measured differently cannot be merged: {self._settings()} and {other._settings()}")
        self._match()
        other._match()
        for name, theirs in other._groups.items():
            mine = self._groups.setdefault(name, Group())
            for part in theirs.parts:
                place_D = np.where(part.target_D >= 0, part.target_D + len(mine.targets), -1).astype(np.int32)
                mine.parts.append(part._replace(frame_D=part.frame_D + mine.frames, target_D=place_D))
            mine.first_target += [first + len(mine.targets) for first in theirs.first_target]
            mine.targets += theirs.targets
            mine.added += theirs.added
            mine.frames += theirs.frames
        return self

    def state(self) -> dict[str, Any]:
        """Everything accumulated, as JSON can hold it."""
        groups = []
        for name, group in zip(self._groups, self._chosen(None), strict=True):
            targets = [[None if math.isnan(ratio) else ratio, area] for ratio, area in group.targets]
            entry = {"group": name, "added": group.added, "frames": group.frames, "targets": targets}
            entry |= {"first_target": list(group.first_target)}
            groups.append(entry | {"detections": [column.tolist() for column in group.columns()]})
        return {**self._settings(), "groups": groups}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> DetectionMetrics:
        """The accumulator whose `state()` this is."""
        settings = dict(state)
        groups = settings.pop("groups")
        out = cls(**settings)
        for entry in groups:
            scores, frame, target, counted = entry["detections"]
            part = Matched(
                np.array(scores, float), np.array(frame, np.int32), np.array(target, np.int32), np.array(counted, bool)
            )
            targets = [(math.nan if ratio is None else ratio, area) for ratio, area in entry["targets"]]
            out._groups[entry["group"]] = Group(
                entry["added"], entry["frames"], targets, list(entry["first_target"]), [part]
            )
        return out

    def _settings(self) -> dict[str, Any]:
        return {"protocol": self.protocol.name, "threshold": self.threshold, "fps": self.fps}


def frame_of(
    boxes_N4: np.ndarray, scores_N: np.ndarray, target_boxes_M4: np.ndarray, ignore_K4: np.ndarray | None = None
) -> Frame:
    """A labelled frame, checked; arguments and errors as in `DetectionMetrics.update`."""
    boxes_N4 = _boxes(boxes_N4, "detection")
    targets_M4 = _boxes(target_boxes_M4, "target")
    scores_N = np.asarray(scores_N, float)
    if scores_N.shape != (len(boxes_N4),):
        raise InputError(f"scores have shape {scores_N.shape}, and there are {len(boxes_N4)} boxes")
    if not np.isfinite(scores_N).all():
        raise InputError("the scores hold NaN or infinity")
    regions_K4 = checked_regions(ignore_K4)
    return Frame(boxes_N4, scores_N, targets_M4, np.zeros((0, 4)) if regions_K4 is None else regions_K4)


def scr_of(targets_M4: np.ndarray, frame_HW: np.ndarray | None) -> np.ndarray:
    """float [M]: SCR of each target's box; nan without the frame's counts."""
    if frame_HW is None:
        return np.full(len(targets_M4), math.nan)
    return np.array([scr(frame_HW, box, targets_M4) for box in targets_M4], float)


def _joined(parts: list[Matched]) -> Matched:
    """Columns of several groups, one after another; `frame_D` and `target_D` then only tell hits."""
    empty = Matched(np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool))
    return Matched(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


def _curve_point(found: Average | None) -> dict[str, float | None]:
    if found is None:
        return {"precision": None, "recall": None, "f1": None}
    precision = mean_below(found.precision_R, found.recall)
    total = precision + found.recall
    f1 = 2 * precision * found.recall / total if total else 0.0
    return {"precision": precision, "recall": found.recall, "f1": f1}


def _boxes(boxes: np.ndarray, name: str) -> np.ndarray:
    if boxes is None:
        raise InputError(f"{name} boxes are None: an unlabelled frame is not scored, an empty one has an empty array")
    boxes_N4 = np.asarray(boxes, float)
    if not boxes_N4.size:
        boxes_N4 = boxes_N4.reshape(0, 4)
    if boxes_N4.ndim != 2 or boxes_N4.shape[1] != 4:
        raise InputError(f"{name} boxes have shape {boxes_N4.shape}: expected [N, 4] as x, y, w, h")
    if not np.isfinite(boxes_N4).all():
        raise InputError(f"{name} boxes hold NaN or infinity")
    smallest = boxes_N4[:, 2:].min(initial=np.inf)
    if smallest < 0 or (name == "target" and smallest == 0):
        raise InputError(f"a {name} box has a side of {smallest:g} px: boxes are x, y, w, h")
    return boxes_N4


def _ratio(numerator: float, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
