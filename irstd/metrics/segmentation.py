"""IoU, nIoU, Pd and Fa of predicted masks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from irstd.data.contrast import RING, scr
from irstd.errors import InputError
from irstd.metrics import bootstrap
from irstd.metrics.bins import BINNINGS, SCR, SIZE
from irstd.metrics.components import Components, components
from irstd.metrics.ignore import region_mask
from irstd.metrics.matching import FrameMatch, match_frame
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
# Targets and hits of each bin; what is not there is 0.
_BINNED = tuple(
    f"{what}/{binning.name}/{label}" for binning in BINNINGS for label in binning.labels for what in ("targets", "hits")
)
NUMBERS = {
    "iou": ("intersection", "union"),
    "niou": ("niou_sum", "niou_images"),
    "pd": ("hits", "targets"),
    "fa": ("false_alarm_pixels", "pixels"),
    "fa_surplus": ("surplus_pixels", "pixels"),
    "false_alarms_per_frame": ("false_alarms", "images"),
}
"""Each number as numerator and denominator; the sum of the images' IoU is in a unit of its own."""


@dataclass(frozen=True)
class Pair:
    """A labelled frame on a grid: what was predicted and what is there, for any number of protocols.

    intersection, union, pixels: counts outside the ignored pixels. scr_M: of each target component, where it was measured.
    """

    predicted: Components
    target: Components
    intersection: int
    union: int
    pixels: int
    ignored_HW: np.ndarray | None
    scr_M: list[float] | None


def pair_of(
    probability_HW: np.ndarray,
    mask_HW: np.ndarray,
    threshold: float = 0.5,
    grid: int | None = None,
    any_range: bool = False,
    ignore_K4: np.ndarray | None = None,
    frame_HW: np.ndarray | None = None,
) -> Pair:
    """The components of a frame; arguments and errors as in `SegmentationMetrics.update`."""
    native = np.shape(mask_HW)
    probability_HW, mask_HW = checked_pair(probability_HW, mask_HW, grid, any_range)
    ignored_HW = region_mask(checked_regions(ignore_K4), native, mask_HW.shape)
    predicted_HW = probability_HW > threshold
    predicted, target = components(predicted_HW), components(mask_HW)
    if ignored_HW is None:
        intersection = int(np.count_nonzero(predicted_HW & mask_HW))
        union = int(predicted.areas_N.sum() + target.areas_N.sum()) - intersection
        pixels = mask_HW.size
    else:
        counted_HW = ~ignored_HW
        intersection = int(np.count_nonzero(predicted_HW & mask_HW & counted_HW))
        union = int(np.count_nonzero((predicted_HW | mask_HW) & counted_HW))
        pixels = int(np.count_nonzero(counted_HW))
    scr_M = None
    if frame_HW is not None and grid is None:
        if np.shape(frame_HW) != native:
            raise InputError(f"the frame has shape {np.shape(frame_HW)}, its mask {native}")
        scr_M = [_scr(frame_HW, mask_HW, target, index) for index in range(len(target))]
    return Pair(predicted, target, intersection, union, pixels, ignored_HW, scr_M)


def _scr(frame_HW: np.ndarray, mask_HW: np.ndarray, target: Components, index: int) -> float:
    """SCR of one target, from the part of the frame that holds its background."""
    x, y, w, h = target.boxes_N4[index].tolist()
    top, left = max(y - RING, 0), max(x - RING, 0)
    bottom, right = min(y + h + RING, target.shape[0]), min(x + w + RING, target.shape[1])
    window = np.s_[top:bottom, left:right]
    return scr(frame_HW[window], target.crop(index, top, left, bottom, right), mask_HW[window])


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

    def update(
        self,
        probability_HW: np.ndarray,
        mask_HW: np.ndarray,
        group: str | None = None,
        *,
        ignore_K4: np.ndarray | None = None,
        frame_HW: np.ndarray | None = None,
    ) -> None:
        """Add one labelled frame.

        probability_HW: real numbers in [0, 1]. With a grid it may already have the grid's shape (a network that was
        run on the resized image, as DNA-Net's tables are made); otherwise it has the shape of the mask. mask_HW: bool,
        or numbers that are 0 or 1. group: what resampling takes as one (the sequence, usually). ignore_K4: boxes
        (x, y, w, h) in px of the mask that are not scored (see `irstd.metrics.ignore`). frame_HW: the frame's counts,
        for bins of SCR on the native grid.

        Raises InputError (a ValueError) for other shapes or values, NaN included.
        """
        self.add(
            pair_of(probability_HW, mask_HW, self.threshold, self.grid, self.any_range, ignore_K4, frame_HW), group
        )

    def add(self, pair: Pair, group: str | None = None) -> FrameMatch:
        """Add a frame whose components are known, of this threshold and grid."""
        match = match_frame(pair.predicted, pair.target, self.protocol, pair.ignored_HW)
        counts = self._groups.setdefault(group, Counter(dict.fromkeys(_COUNTS, 0)))
        counts["images"] += 1
        counts["pixels"] += pair.pixels
        counts["intersection"] += pair.intersection
        counts["union"] += pair.union
        if match.targets or self.protocol.empty_niou == "zero":
            counts["niou_images"] += 1
            counts["niou_sum"] += (_NIOU_UNIT * pair.intersection + pair.union // 2) // pair.union if pair.union else 0
        counts["targets"] += match.targets
        counts["hits"] += match.hits
        counts["false_alarms"] += match.false_alarms
        counts["false_alarm_pixels"] += match.false_alarm_pixels
        counts["surplus_pixels"] += match.surplus_pixels
        if match.targets and self.grid is None:
            ratios = [math.nan] * match.targets if pair.scr_M is None else [pair.scr_M[i] for i in match.scored_M]
            for binning, values in ((SCR, ratios), (SIZE, pair.target.areas_N[match.scored_M])):
                for place, hit in zip(binning.of(values).tolist(), match.hit_M.tolist(), strict=True):
                    counts[f"targets/{binning.name}/{binning.labels[place]}"] += 1
                    counts[f"hits/{binning.name}/{binning.labels[place]}"] += hit
        return match

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
        false_alarms_per_frame: unmatched blobs over images.
        targets, hits, false_alarms (unmatched blobs), images, pixels: counts. protocol, grid, threshold: as given.
        """
        total = self._total(groups)
        result: dict[str, Any] = {}
        for name in self._numbers():
            numerator, denominator = NUMBERS[name]
            unit = _NIOU_UNIT if name == "niou" else 1
            result[name] = total[numerator] / (total[denominator] * unit) if total[denominator] else None
        result |= {name: total[name] for name in ("targets", "hits", "false_alarms", "images", "pixels")}
        return result | {"protocol": self.protocol.name, "grid": self.grid, "threshold": self.threshold}

    def intervals(self, cluster: bootstrap.Cluster | None = None) -> dict[str, Any]:
        """{"groups": n, "intervals": {number: [low, high] or None}}: 95 % by bootstrap over groups.

        cluster: the group of each name that frames were added under; by default each is one. Under 10 groups "intervals"
        is None, and "insufficient" says why.
        """
        groups, _ = bootstrap.gather(self._groups, cluster)
        if why := bootstrap.insufficient(groups):
            return {"groups": groups, "intervals": None, "insufficient": why}
        return {"groups": groups, "intervals": bootstrap.intervals(self.samples(cluster))}

    def samples(self, cluster: bootstrap.Cluster | None = None) -> dict[str, np.ndarray]:
        """Each number in each resample of groups, [R]: what intervals are made of. cluster: as in `intervals`."""
        groups, group_N = bootstrap.gather(self._groups, cluster)
        numbers = {name: NUMBERS[name] for name in self._numbers()}
        columns = {c: [group[c] for group in self._groups.values()] for pair in numbers.values() for c in pair}
        columns["niou_sum"] = [value / _NIOU_UNIT for value in columns["niou_sum"]]
        return bootstrap.ratios(columns, numbers, bootstrap.draws(groups), group_N)

    def bins(self, cluster: bootstrap.Cluster | None = None) -> dict[str, list[dict[str, Any]]]:
        """Pd by bin of SCR and of size: {"scr": [{"bin", "targets", "hits", "pd", "interval"}], "size": [...]}.

        Bins without a target are left out. cluster: as in `intervals`; "interval" is None under 10 groups.
        """
        total = self._total(None)
        groups, group_N = bootstrap.gather(self._groups, cluster)
        weights_RG = None if bootstrap.insufficient(groups) else bootstrap.draws(groups)
        found: dict[str, list[dict[str, Any]]] = {}
        for binning in BINNINGS:
            rows = found[binning.name] = []
            for label in binning.labels:
                targets, hits = f"targets/{binning.name}/{label}", f"hits/{binning.name}/{label}"
                if not total[targets]:
                    continue
                row = {"bin": label, "targets": total[targets], "hits": total[hits]}
                row |= {"pd": total[hits] / total[targets], "interval": None}
                if weights_RG is not None:
                    columns = {c: [group[c] for group in self._groups.values()] for c in (targets, hits)}
                    found_R = bootstrap.ratios(columns, {"pd": (hits, targets)}, weights_RG, group_N)
                    row["interval"] = bootstrap.interval(found_R["pd"])
                rows.append(row)
        return found

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
            counts = {name: int(entry[name]) for name in _COUNTS}
            out._groups[entry["group"]] = Counter(counts | {n: int(entry[n]) for n in _BINNED if n in entry})
        return out

    def _total(self, groups: Iterable[str | None] | None) -> Counter:
        total = Counter(dict.fromkeys(_COUNTS, 0))
        for group in self._groups if groups is None else groups:
            if group not in self._groups:
                raise InputError(f"no frame of the group {group!r} was added")
            total.update(self._groups[group])
        return total

    def _numbers(self) -> list[str]:
        return [name for name in NUMBERS if name != "fa_surplus" or self.protocol.surplus]

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


def checked_regions(ignore_K4: np.ndarray | None) -> np.ndarray | None:
    """Ignore regions as float [K, 4], or None. InputError for other shapes, NaN, infinity or a side that is negative."""
    if ignore_K4 is None or not np.size(ignore_K4):
        return None
    boxes_K4 = np.asarray(ignore_K4, float)
    if boxes_K4.ndim != 2 or boxes_K4.shape[1] != 4:
        raise InputError(f"ignore regions have shape {boxes_K4.shape}: expected [K, 4] as x, y, w, h")
    if not np.isfinite(boxes_K4).all() or boxes_K4[:, 2:].min() < 0:
        raise InputError("an ignore region holds NaN, infinity or a negative side: boxes are x, y, w, h")
    return boxes_K4
