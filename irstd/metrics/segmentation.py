"""IoU, nIoU, Pd and Fa of predicted masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

from irstd.errors import InputError
from irstd.metrics.components import components
from irstd.metrics.matching import match_frame
from irstd.metrics.protocols import SegmentationProtocol, segmentation_protocol

# The sum of the images' IoU is kept as an integer in this unit: adding is then exact, so that parts merged in any
# order give the same number to the last bit.
_NIOU_UNIT = 2**60

_COUNTS = (
    "images",
    "pixels",
    "intersection",
    "union",
    "niou_images",
    "niou_sum",
    "targets",
    "hits",
    "false_alarms",
    "false_alarm_pixels",
    "surplus_pixels",
)


class SegmentationMetrics:
    """Accumulates frames; `compute` gives the numbers of all of them.

    protocol: `strict`, `basicirstd`, `dnanet` or `msda` (see `irstd.metrics.protocols`).
    threshold: a pixel is predicted when its probability is greater (not equal).
    grid: None scores on the native grid; an int resizes probability (bilinear) and mask (nearest) to grid x grid px, on
        which the 3 px of a hit are then measured.
    any_range: accept scores outside [0, 1], in whose units the threshold then is.
    """

    def __init__(
        self,
        protocol: str | SegmentationProtocol = "strict",
        threshold: float = 0.5,
        grid: int | None = None,
        *,
        any_range: bool = False,
    ) -> None:
        self.protocol = segmentation_protocol(protocol)
        self.threshold = float(threshold)
        self.grid = grid
        self.any_range = any_range
        self._groups: dict[str | None, Counter] = {}

    def update(self, probability_HW: np.ndarray, mask_HW: np.ndarray, group: str | None = None) -> None:
        """Add one labelled frame.

        probability_HW: real numbers in [0, 1]. With a grid it may already have the grid's shape (a network that was
        run on the resized image, as DNA-Net's tables are made); otherwise it has the shape of the mask. mask_HW: bool,
        or numbers that are 0 or 1. group: what resampling takes as one (the sequence, usually).

        Raises InputError (a ValueError) for other shapes or values, NaN included.
        """
        probability_HW, mask_HW = checked_pair(probability_HW, mask_HW, self.grid, self.any_range)
        predicted_HW = probability_HW > self.threshold
        predicted, target = components(predicted_HW), components(mask_HW)
        match = match_frame(predicted, target, self.protocol)
        intersection = int(np.count_nonzero(predicted_HW & mask_HW))
        union = int(predicted.areas_N.sum() + target.areas_N.sum()) - intersection
        counts = self._groups.setdefault(group, Counter(dict.fromkeys(_COUNTS, 0)))
        counts["images"] += 1
        counts["pixels"] += mask_HW.size
        counts["intersection"] += intersection
        counts["union"] += union
        if len(target) or self.protocol.empty_niou == "zero":
            counts["niou_images"] += 1
            counts["niou_sum"] += (_NIOU_UNIT * intersection + union // 2) // union if union else 0
        counts["targets"] += match.targets
        counts["hits"] += match.hits
        counts["false_alarms"] += match.false_alarms
        counts["false_alarm_pixels"] += match.false_alarm_pixels
        counts["surplus_pixels"] += match.surplus_pixels

    @property
    def groups(self) -> list[str | None]:
        """Names of the groups seen, in order of appearance."""
        return list(self._groups)

    def compute(self, groups: Iterable[str | None] | None = None) -> dict[str, Any]:
        """The numbers, pooled over all frames, or over the named groups (a name given twice counts twice: bootstrap).

        iou: foreground IoU of all pixels together; None when nothing was predicted and nothing was there.
        niou: mean of the images' IoU; None without an image that counts.
        pd: fraction of targets that were hit; None without any target.
        fa: false-alarm pixels as a fraction of all pixels; the tables of the field print it times 1e6. None without an
        image.
        fa_surplus: only where the protocol has it, the pixels of matched blobs far from their target, as a fraction;
            not part of `fa`.
        targets, hits, false_alarms (unmatched blobs), images, pixels: counts. protocol, grid, threshold: as given.
        """
        total = Counter(dict.fromkeys(_COUNTS, 0))
        for group in self._groups if groups is None else groups:
            if group not in self._groups:
                raise InputError(f"no frame of the group {group!r} was added")
            total.update(self._groups[group])
        niou = _ratio(total["niou_sum"], total["niou_images"] * _NIOU_UNIT)
        result: dict[str, Any] = {
            "iou": _ratio(total["intersection"], total["union"]),
            "niou": niou,
            "pd": _ratio(total["hits"], total["targets"]),
            "fa": _ratio(total["false_alarm_pixels"], total["pixels"]),
        }
        if self.protocol.surplus:
            result["fa_surplus"] = _ratio(total["surplus_pixels"], total["pixels"])
        result |= {name: total[name] for name in ("targets", "hits", "false_alarms", "images", "pixels")}
        return result | {"protocol": self.protocol.name, "grid": self.grid, "threshold": self.threshold}

    def merge(self, other: SegmentationMetrics) -> SegmentationMetrics:
        """Add the frames of another part, measured the same way; InputError otherwise. Returns self."""
        if self._settings() != other._settings():
            raise InputError(f"parts measured differently cannot be merged: {self._settings()} and {other._settings()}")
        for group, counts in other._groups.items():
            self._groups.setdefault(group, Counter(dict.fromkeys(_COUNTS, 0))).update(counts)
        return self

    def state(self) -> dict[str, Any]:
        """Everything accumulated, as JSON can hold it."""
        groups = [{"group": group, **counts} for group, counts in self._groups.items()]
        return {**self._settings(), "groups": groups}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> SegmentationMetrics:
        """The accumulator whose `state()` this is."""
        settings = dict(state)
        groups = settings.pop("groups")
        out = cls(**settings)
        for entry in groups:
            out._groups[entry["group"]] = Counter({name: int(entry[name]) for name in _COUNTS})
        return out

    def _settings(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.name,
            "threshold": self.threshold,
            "grid": self.grid,
            "any_range": self.any_range,
        }


def checked_pair(
    probability_HW: np.ndarray, mask_HW: np.ndarray, grid: int | None = None, any_range: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The pair on the grid: real numbers [h, w] and bool [h, w]. InputError with one line for what cannot be scored."""
    probability_HW, mask_HW = np.asarray(probability_HW), np.asarray(mask_HW)
    for name, array in (("probability", probability_HW), ("mask", mask_HW)):
        if array.ndim != 2 or not array.size:
            raise InputError(f"{name} has shape {array.shape}: expected [H, W], not empty")
    shape, expected = probability_HW.shape, mask_HW.shape
    if shape != expected and (grid is None or shape != (grid, grid)):
        raise InputError(f"probability is {shape[0]} x {shape[1]}, its mask {expected[0]} x {expected[1]}")
    if probability_HW.dtype.kind not in "fuib":
        raise InputError(f"the probability has dtype {probability_HW.dtype}: expected real numbers")
    # Minimum and maximum carry NaN along.
    low, high = probability_HW.min(), probability_HW.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("the probability holds NaN or infinity")
    if not any_range and (low < 0 or high > 1):
        raise InputError(f"probabilities lie in [{low:g}, {high:g}]: expected [0, 1] (logits, or 0 to 255?)")
    if mask_HW.dtype != bool:
        valid = mask_HW.max() <= 1 and mask_HW.min() >= 0
        if not valid or (mask_HW.dtype.kind not in "ui" and not np.isin(mask_HW, (0, 1)).all()):
            raise InputError(f"the mask holds values up to {mask_HW.max():g}: expected 0 and 1 (binarise it first)")
        mask_HW = mask_HW != 0
    if grid is not None:
        if probability_HW.shape != (grid, grid):
            as_float = probability_HW.astype(np.result_type(probability_HW, np.float32), copy=False)
            probability_HW = cv2.resize(as_float, (grid, grid), interpolation=cv2.INTER_LINEAR)
        if mask_HW.shape != (grid, grid):
            # The exact variant samples at pixel centres, as Pillow does in the field's loaders.
            pixels = np.ascontiguousarray(mask_HW).view(np.uint8)
            resized = cv2.resize(pixels, (grid, grid), interpolation=cv2.INTER_NEAREST_EXACT)
            mask_HW = resized.view(bool)
    return probability_HW, mask_HW


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
