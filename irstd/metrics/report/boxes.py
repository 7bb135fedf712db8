"""The report on boxes against boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from irstd.metrics.coco import Frame
from irstd.metrics.detection import DetectionMetrics, frame_of
from irstd.metrics.report.base import Key, Report

DETECTION = ("strict", "nnlab", "centroid")


class DetectionReport(Report):
    """Of boxes with scores against target boxes.

    threshold: a detection counts when its score is greater, where a protocol reads numbers at one. protocols: of each
    row; the first also gives bins, curves and rows of images and sequences, and keeps all labelled frames. fps: frames a
    second, for false alarms an hour.
    """

    task = "detection"

    def __init__(self, threshold: float = 0.5, protocols: Sequence[str] = DETECTION, fps: float | None = None) -> None:
        super().__init__(threshold)
        self.protocols = tuple(protocols)
        self.fps = fps
        self._metrics = [DetectionMetrics(name, threshold, fps) for name in self.protocols]

    def update(
        self,
        key: Key,
        boxes_N4: np.ndarray,
        scores_N: np.ndarray,
        targets_M4: np.ndarray,
        *,
        group: str | None = None,
        ignore_K4: np.ndarray | None = None,
        frame_HW: np.ndarray | None = None,
    ) -> None:
        """Add one labelled frame, an empty one with targets [0, 4].

        key: its sequence and number. The rest, and errors, as in `DetectionMetrics.update`. group: what the sequence belongs
        to; itself when not given.
        """
        frame: Frame = frame_of(boxes_N4, scores_N, targets_M4, ignore_K4)
        rows = self._enter(key, group)
        for metrics in self._metrics:
            metrics.add(frame, str(key[0]), frame_HW)
        rows[int(key[1])] = None

    def compute(self) -> dict[str, Any]:
        details = [m.resampled(self.group).report(details=not place) for place, m in enumerate(self._metrics)]
        bins, recall_at = details[0].pop("bins"), details[0].pop("recall_at")
        rows = [m.compute() | {"grid": None} | more for m, more in zip(self._metrics, details, strict=True)]
        return {
            "task": self.task,
            "frames": len(self),
            "sequences": len(self._frames),
            "groups": rows[0]["groups"],
            "threshold": self.threshold,
            "protocols": rows,
            "bins": {"protocol": self.protocols[0]} | bins,
            "recall_at": recall_at,
        }

    def samples(self) -> list[dict[str, np.ndarray]]:
        return [metrics.resampled(self.group).samples() for metrics in self._metrics]

    def images(self) -> list[dict[str, Any]]:
        found = []
        for sequence, frames in self._frames.items():
            counts = self._metrics[0].rows(sequence)
            for frame, row in zip(frames, counts, strict=True):
                found.append({"sequence": sequence, "group": self._groups[sequence], "frame": frame, **row})
        return found

    def sequences(self) -> list[dict[str, Any]]:
        left_out = ("protocol", "threshold", "skipped")
        found = []
        for sequence in self._frames:
            values = self._metrics[0].compute([sequence])
            row = {"sequence": sequence, "group": self._groups[sequence]}
            found.append(row | {name: value for name, value in values.items() if name not in left_out})
        return found

    def curves(self) -> dict[str, dict[str, list]]:
        values = self._metrics[0].resampled(self.group).curve()
        return {
            "froc": {name: values[name] for name in ("threshold", "false_alarms_per_frame", "recall")},
            "pr": {name: values[name] for name in ("threshold", "recall", "precision")},
        }

    def _parts(self) -> dict[str, list]:
        return {"metrics": self._metrics}

    def _settings(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "protocols": list(self.protocols), "fps": self.fps}
