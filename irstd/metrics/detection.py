"""Average precision, precision, recall, F1 and false alarms of detected boxes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from irstd.errors import InputError
from irstd.metrics.coco import Evaluation, Frame, evaluate
from irstd.metrics.protocols import DetectionProtocol, detection_protocol


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
        self._groups: dict[str | None, list[Frame]] = {}

    def update(
        self,
        boxes_N4: np.ndarray,
        scores_N: np.ndarray,
        target_boxes_M4: np.ndarray,
        group: str | None = None,
    ) -> None:
        """Add one labelled frame; without a target it is an empty one (an unlabelled frame must not be added).

        Boxes are (x, y, w, h) in px of the original frame, in any order; N and M may be 0. group: what resampling
        takes as one (the sequence, usually). Raises InputError (a ValueError) for other shapes, NaN or infinity, a
        detection of negative or a target of no size.
        """
        boxes_N4 = _boxes(boxes_N4, "detection")
        targets_M4 = _boxes(target_boxes_M4, "target")
        scores_N = np.asarray(scores_N, float)
        if scores_N.shape != (len(boxes_N4),):
            raise InputError(f"scores have shape {scores_N.shape}, and there are {len(boxes_N4)} boxes")
        if not np.isfinite(scores_N).all():
            raise InputError("the scores hold NaN or infinity")
        kept_N = scores_N >= self.protocol.min_score
        self._groups.setdefault(group, []).append(Frame(boxes_N4[kept_N], scores_N[kept_N], targets_M4))

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
        frames: list[Frame] = []
        for group in self._groups if groups is None else groups:
            if group not in self._groups:
                raise InputError(f"no frame of the group {group!r} was added")
            frames += self._groups[group]
        added = len(frames)
        if self.protocol.frames == "annotated":
            frames = [frame for frame in frames if len(frame.targets_M4)]
        targets = sum(len(frame.targets_M4) for frame in frames)
        evaluation = evaluate(frames, self.protocol) if targets else None

        average = "ap" if self.protocol.hit == "centroid" else "ap50"
        result: dict[str, Any] = {average: float(evaluation.precision_R.mean()) if evaluation else None}
        if self.protocol.point == "curve":
            result |= _curve_point(evaluation)
        else:
            result |= self._threshold_point(frames, targets, evaluation)
        result |= {"targets": targets, "frames": len(frames), "skipped": added - len(frames)}
        result["protocol"] = self.protocol.name
        if self.protocol.point == "threshold":
            result["threshold"] = self.threshold
        return result

    def _threshold_point(self, frames: list[Frame], targets: int, evaluation: Evaluation | None) -> dict[str, Any]:
        scores = np.concatenate([np.zeros(0), *(frame.scores_N for frame in frames)])
        detections = int(np.count_nonzero(scores > self.threshold))
        hits = int(np.count_nonzero(evaluation.hit_K[evaluation.scores_K > self.threshold])) if evaluation else 0
        false_alarms = detections - hits
        result: dict[str, Any] = {
            "precision": _ratio(hits, detections),
            "recall": _ratio(hits, targets),
            "f1": _ratio(2 * hits, detections + targets),
            "hits": hits,
            "false_alarms": false_alarms,
            "false_alarms_per_frame": _ratio(false_alarms, len(frames)),
        }
        if self.fps is not None:
            result["false_alarms_per_hour"] = _ratio(false_alarms * 3600 * self.fps, len(frames))
        return result

    def merge(self, other: DetectionMetrics) -> DetectionMetrics:
        """Add the frames of another part, measured the same way; InputError otherwise. Returns self."""
        if self._settings() != other._settings():
            raise InputError(f"parts measured differently cannot be merged: {self._settings()} and {other._settings()}")
        for group, frames in other._groups.items():
            self._groups.setdefault(group, []).extend(frames)
        return self

    def state(self) -> dict[str, Any]:
        """Everything accumulated, as JSON can hold it."""
        groups = [
            {"group": group, "frames": [[array.tolist() for array in frame] for frame in frames]}
            for group, frames in self._groups.items()
        ]
        return {**self._settings(), "groups": groups}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> DetectionMetrics:
        """The accumulator whose `state()` this is."""
        settings = dict(state)
        groups = settings.pop("groups")
        out = cls(**settings)
        for entry in groups:
            for boxes, scores, targets in entry["frames"]:
                out.update(boxes, scores, targets, entry["group"])
        return out

    def _settings(self) -> dict[str, Any]:
        return {"protocol": self.protocol.name, "threshold": self.threshold, "fps": self.fps}


def _curve_point(evaluation: Evaluation | None) -> dict[str, float | None]:
    if evaluation is None:
        return {"precision": None, "recall": None, "f1": None}
    recall = evaluation.recall
    # Truncated as the published code does, .29 * 100 to 28 included.
    below = evaluation.precision_R[: int(100 * recall)]
    precision = float(below.mean()) if len(below) else 0.0
    total = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / total if total else 0.0}


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
