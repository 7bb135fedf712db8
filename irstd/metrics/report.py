"""Everything that an evaluation says, gathered frame by frame: numbers by protocol, intervals, bins, curves, and files.

A report knows nothing of models: what it is fed may come from a network, or from files made anywhere.
"""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irstd.errors import InputError
from irstd.files import write_atomic, write_json, writing
from irstd.metrics import pictures
from irstd.metrics.coco import Frame
from irstd.metrics.curve import FINE, OperatingCurve
from irstd.metrics.detection import DetectionMetrics, frame_of
from irstd.metrics.segmentation import SegmentationMetrics, pair_of

SEGMENTATION: tuple[tuple[str, int | None], ...] = (
    ("strict", None),
    ("basicirstd", None),
    ("dnanet", 256),
    ("msda", 512),
)
"""Each protocol on the grid that its tables use."""
DETECTION = ("strict", "nnlab", "centroid")
RATES = (1e-6, 1e-5, 1e-4)
"""Fa at which reports state the Pd."""

Key = tuple[str, int]


class Report(ABC):
    """Frames by (sequence, frame), each given once; sequences by the group that resampling draws.

    Two reports made the same way add up (`merge`); `state` and `from_state` carry one between processes.
    """

    task: str

    def __init__(self, threshold: float) -> None:
        self.threshold = float(threshold)
        self._groups: dict[str, str] = {}
        self._frames: dict[str, dict[int, Any]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._frames.values()))

    def _enter(self, key: Key, group: str | None) -> dict[int, Any]:
        """The frames of the key's sequence, of which this is a new one."""
        sequence, frame = str(key[0]), int(key[1])
        group = sequence if group is None else str(group)
        if frame in self._frames.get(sequence, {}):
            raise InputError(f"frame {frame} of {sequence} was given twice: each frame is scored once")
        if self._groups.setdefault(sequence, group) != group:
            raise InputError(f"{sequence} was in the group {self._groups[sequence]}, and is now in {group}")
        return self._frames.setdefault(sequence, {})

    def group(self, sequence: str | None) -> str:
        """The group of a sequence."""
        return self._groups[str(sequence)]

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """The numbers, as JSON can hold them (see docs/METRICS.md)."""

    @abstractmethod
    def images(self) -> list[dict[str, Any]]:
        """One row a frame, under the first protocol."""

    @abstractmethod
    def sequences(self) -> list[dict[str, Any]]:
        """One row a sequence, under the first protocol."""

    @abstractmethod
    def curves(self) -> dict[str, dict[str, list]]:
        """The columns of each curve by its name."""

    @abstractmethod
    def _parts(self) -> dict[str, list]:
        """The accumulators, by name."""

    def write(self, folder: Path, found: dict[str, Any]) -> list[Path]:
        """Write report.json (`found`), images.csv, sequences.csv, and each curve as CSV and as a picture; their paths.

        found: what `compute` gave, with what the caller knows of the frames: split, digests, how the checkpoint was chosen.
        Files of the same names are replaced, each whole.
        """
        curves = self.curves()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "report.json", found)
            paths = [folder / "report.json"]
            tables = {"images": _columns(self.images()), "sequences": _columns(self.sequences())} | curves
            for name, columns in tables.items():
                write_atomic(folder / f"{name}.csv", _csv(columns))
                paths.append(folder / f"{name}.csv")
            for name, columns in curves.items():
                write_atomic(folder / f"{name}.png", pictures.curve(name, columns, found))
                paths.append(folder / f"{name}.png")
        return paths

    def merge(self, other: Report) -> Report:
        """Add the frames of another part, measured the same way; InputError otherwise. Returns self."""
        if self._settings() != other._settings():
            raise InputError(f"parts measured differently cannot be merged: {self._settings()} and {other._settings()}")
        for sequence, frames in other._frames.items():
            for frame, row in frames.items():
                self._enter((sequence, frame), other._groups[sequence])[frame] = row
        mine, theirs = self._parts(), other._parts()
        for name, parts in mine.items():
            for part, more in zip(parts, theirs[name], strict=True):
                part.merge(more)
        return self

    def state(self) -> dict[str, Any]:
        """Everything accumulated, as JSON can hold it."""
        frames = [
            {"sequence": sequence, "group": self._groups[sequence], "frames": list(rows.items())}
            for sequence, rows in self._frames.items()
        ]
        parts = {name: [part.state() for part in parts] for name, parts in self._parts().items()}
        return {"settings": self._settings(), "frames": frames, "parts": parts}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Report:
        """The report whose `state()` this is."""
        out = cls(**state["settings"])
        for entry in state["frames"]:
            for frame, row in entry["frames"]:
                out._enter((entry["sequence"], frame), entry["group"])[frame] = row
        for name, parts in out._parts().items():
            parts[:] = [type(part).from_state(s) for part, s in zip(parts, state["parts"][name], strict=True)]
        return out

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The arguments that make such a report."""


class SegmentationReport(Report):
    """Of probability maps against masks.

    threshold: a pixel is predicted when its probability is greater. protocols: (name, grid) of each row; the first also
    gives bins, curves and rows of images and sequences. pseudo_masks: how the masks were made where they are
    pseudo-masks: no number of their shape (IoU, nIoU, of pixels) is then reported.
    """

    task = "segmentation"

    def __init__(
        self,
        threshold: float = 0.5,
        protocols: Sequence[tuple[str, int | None]] = SEGMENTATION,
        pseudo_masks: str | None = None,
    ) -> None:
        super().__init__(threshold)
        self.protocols = tuple((name, grid) for name, grid in protocols)
        self.pseudo_masks = pseudo_masks
        self._metrics = [SegmentationMetrics(name, threshold, grid) for name, grid in self.protocols]
        name, grid = self.protocols[0]
        self._curves = [OperatingCurve(sorted({*FINE, self.threshold}), name, grid)]

    def update(
        self,
        key: Key,
        probability_HW: np.ndarray,
        mask_HW: np.ndarray,
        *,
        group: str | None = None,
        ignore_K4: np.ndarray | None = None,
        frame_HW: np.ndarray | None = None,
    ) -> None:
        """Add one labelled frame.

        key: its sequence and number. probability_HW in [0, 1], mask_HW of {0, 1}, ignore_K4 (boxes x, y, w, h that are not
        scored) and frame_HW (counts, for bins of SCR) as in `SegmentationMetrics.update`, with its errors. group: what the
        sequence belongs to; itself when not given.
        """
        pairs = {
            grid: pair_of(probability_HW, mask_HW, self.threshold, grid, False, ignore_K4, frame_HW)
            for grid in dict.fromkeys(grid for _, grid in self.protocols)
        }
        rows, sequence = self._enter(key, group), str(key[0])
        matches = [metrics.add(pairs[metrics.grid], sequence) for metrics in self._metrics]
        self._curves[0].update(probability_HW, mask_HW, self._groups[sequence], ignore_K4=ignore_K4)
        first, pair = matches[0], pairs[self.protocols[0][1]]
        rows[int(key[1])] = [
            first.targets,
            first.hits,
            first.false_alarms,
            first.false_alarm_pixels,
            pair.pixels,
            pair.intersection,
            pair.union,
        ]

    def compute(self) -> dict[str, Any]:
        first = self._metrics[0]
        rows = [reported(m.compute() | m.intervals(self.group), self.pseudo_masks) for m in self._metrics]
        return {
            "task": self.task,
            "frames": len(self),
            "sequences": len(self._frames),
            "groups": rows[0]["groups"],
            "threshold": self.threshold,
            "protocols": rows,
            "bins": {"protocol": first.protocol.name, "grid": first.grid} | first.bins(self.group),
            "pd_at_fa": self._curves[0].pd_at(RATES),
        }

    def images(self) -> list[dict[str, Any]]:
        names = ("targets", "hits", "false_alarms", "false_alarm_pixels", "pixels", "intersection", "union")
        found = []
        for sequence, frames in self._frames.items():
            for frame, values in frames.items():
                row = {"sequence": sequence, "group": self._groups[sequence], "frame": frame}
                row |= dict(zip(names, values, strict=True))
                row["iou"] = row["intersection"] / row["union"] if row["union"] else None
                if self.pseudo_masks:
                    row |= dict.fromkeys(("intersection", "union", "iou"))
                found.append(row)
        return found

    def sequences(self) -> list[dict[str, Any]]:
        names = ("images", "targets", "hits", "pd", "false_alarms", "false_alarms_per_frame", "fa", "iou", "niou")
        found = []
        for sequence in self._frames:
            values = reported(self._metrics[0].compute([sequence]), self.pseudo_masks)
            row = {"sequence": sequence, "group": self._groups[sequence]}
            found.append(row | {name: values[name] for name in names})
        return found

    def curves(self) -> dict[str, dict[str, list]]:
        values = self._curves[0].compute()
        thresholds = values["thresholds"]
        none = [None] * len(thresholds)
        pd, fa = values["pd"] or none, values["fa"] or none
        pixels = {
            name: none if self.pseudo_masks else values[name] for name in ("pixel_recall", "pixel_precision", "iou")
        }
        return {
            "roc": {"threshold": thresholds, "fa": fa, "pd": pd},
            "froc": {
                "threshold": thresholds,
                "false_alarms_per_frame": values["false_alarms_per_frame"],
                "recall": pd,
            },
            "pr": {"threshold": thresholds, "recall": pd, "precision": values["precision"], **pixels},
        }

    def _parts(self) -> dict[str, list]:
        return {"metrics": self._metrics, "curves": self._curves}

    def _settings(self) -> dict[str, Any]:
        protocols = [list(protocol) for protocol in self.protocols]
        return {"threshold": self.threshold, "protocols": protocols, "pseudo_masks": self.pseudo_masks}


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


def reported(found: dict[str, Any], pseudo_masks: str | None) -> dict[str, Any]:
    """Computed metrics as they may be shown: where masks are pseudo-masks, IoU and nIoU are None and `withheld` says why.

    Whether a target was found, and how many false alarms there are, a pseudo-mask can tell; its shape is a guess.
    """
    if pseudo_masks is None:
        return found
    withheld: dict[str, Any] = {name: None for name in found if name.startswith(("iou", "niou"))}
    if found.get("intervals"):
        withheld["intervals"] = {k: v for k, v in found["intervals"].items() if k not in withheld}
    return found | withheld | {"withheld": f"no IoU: the masks are pseudo-masks ({pseudo_masks})"}


def _columns(rows: Iterable[dict[str, Any]]) -> dict[str, list]:
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _csv(columns: dict[str, list]) -> str:
    """Numbers in full, None as nothing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue()
