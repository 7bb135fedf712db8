"""Pd, Fa, precision and recall over thresholds, in one pass over the frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from irstd.errors import InputError
from irstd.metrics import bootstrap
from irstd.metrics.components import components
from irstd.metrics.ignore import region_mask
from irstd.metrics.matching import match_frame, scored_targets
from irstd.metrics.protocols import SegmentationProtocol, segmentation_protocol
from irstd.metrics.segmentation import checked_pair, checked_regions

# What is counted at each threshold.
_COUNTS = ("hits", "false_alarms", "false_alarm_pixels", "intersection", "predicted_pixels")
_TOTALS = ("targets", "images", "pixels", "target_pixels")

# Networks press probabilities to both ends: there a hundredth is a wide step.
FINE = sorted(
    {i / 100 for i in range(1, 100)}
    | {value for tail in (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3) for value in (tail, 1 - tail)}
    | {1 - 1e-5, 1 - 2e-5, 1 - 5e-5, 1.0}
)
"""Thresholds of a report's curve: hundredths, and finer towards 0 and 1."""


class OperatingCurve:
    """Pd and Fa at many thresholds in one pass over the frames.

    thresholds: increasing; default 0, .01, ..., 1. protocol, grid: as in `SegmentationMetrics`, whose Pd and Fa at each
    threshold these are. Memory: five integers a threshold and group, whatever the number and size of the frames.
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
        self.hits, self.false_alarms, self.false_alarm_pixels, self.intersection, self.predicted_pixels = np.zeros(
            (len(_COUNTS), len(self.thresholds)), np.int64
        )
        self.targets = self.images = self.pixels = self.target_pixels = 0
        # The same by group: counts [5, thresholds] and totals [4].
        self._groups: dict[str | None, tuple[np.ndarray, np.ndarray]] = {}

    def update(
        self,
        probability_HW: np.ndarray,
        mask_HW: np.ndarray,
        group: str | None = None,
        *,
        ignore_K4: np.ndarray | None = None,
    ) -> None:
        """Add one labelled frame; arguments and errors as in `SegmentationMetrics.update`."""
        native = np.shape(mask_HW)
        probability_HW, mask_HW = checked_pair(probability_HW, mask_HW, self.grid, self.any_range)
        ignored_HW = region_mask(checked_regions(ignore_K4), native, mask_HW.shape)
        if probability_HW.dtype.kind != "f":
            probability_HW = probability_HW.astype(np.float64)
        target = components(mask_HW)
        # In the map's own precision, as comparison with a Python float is.
        thresholds = self.thresholds.astype(probability_HW.dtype)
        values, above = _above(probability_HW, thresholds)
        inner_HW = mask_HW if ignored_HW is None else mask_HW & ~ignored_HW
        counted = above if ignored_HW is None else _above(probability_HW[~ignored_HW], thresholds)[1]
        # Surplus pixels are no part of the curve, and take longer than the matching.
        protocol = replace(self.protocol, surplus=False)
        # Where nothing exceeds a threshold there is one empty match for it and all above.
        counts = np.zeros((len(_COUNTS), len(thresholds)), np.int64)
        counts[3] = _above(probability_HW[inner_HW], thresholds)[1]
        counts[4] = counted
        before, row = 0, np.zeros(3, np.int64)
        for index in range(len(thresholds) - 1, -1, -1):
            if above[index] != before:  # otherwise the same pixels as at the threshold above
                match = match_frame(components(probability_HW > thresholds[index]), target, protocol, ignored_HW)
                row = np.array([match.hits, match.false_alarms, match.false_alarm_pixels])
                before = above[index]
            counts[:3, index] = row
        pixels = mask_HW.size if ignored_HW is None else int(np.count_nonzero(~ignored_HW))
        self._add(
            group,
            counts,
            np.array([len(scored_targets(target, ignored_HW)), 1, pixels, np.count_nonzero(inner_HW)], np.int64),
        )

    def _add(self, group: str | None, counts: np.ndarray, totals: np.ndarray) -> None:
        for name, values in zip(_COUNTS, counts, strict=True):
            getattr(self, name)[:] += values
        for name, value in zip(_TOTALS, totals.tolist(), strict=True):
            setattr(self, name, getattr(self, name) + value)
        old = self._groups.get(group, (0, 0))
        self._groups[group] = (old[0] + counts, old[1] + totals)

    def compute(self) -> dict[str, Any]:
        """Lists over `thresholds`: `pd`, `precision` and `false_alarms_per_frame` of blobs, `fa` (fraction of pixels),
        `iou`, `pixel_recall` and `pixel_precision`; None where nothing is divided. And the counts of what was seen.
        """
        predicted, inner, there = self.predicted_pixels, self.intersection, self.target_pixels
        return {
            "thresholds": self.thresholds.tolist(),
            "pd": (self.hits / self.targets).tolist() if self.targets else None,
            "fa": (self.false_alarm_pixels / self.pixels).tolist() if self.pixels else None,
            "precision": _shares(self.hits, self.hits + self.false_alarms),
            "false_alarms_per_frame": _shares(self.false_alarms, self.images),
            "iou": _shares(inner, predicted + there - inner),
            "pixel_recall": _shares(inner, there),
            "pixel_precision": _shares(inner, predicted),
            "targets": self.targets,
            "images": self.images,
            "pixels": self.pixels,
            "protocol": self.protocol.name,
            "grid": self.grid,
        }

    def pd_at(self, rates: Iterable[float], cluster: bootstrap.Cluster | None = None) -> list[dict[str, Any]]:
        """Pd at the lowest threshold of the curve from which upwards Fa is never above each rate.

        [{"fa", "threshold", "pd", "interval"}]; threshold and pd are None where no threshold keeps to the rate, and where
        fewer than 10 / fa pixels were seen ("insufficient" then says so). In each resample of groups the threshold is found
        anew. cluster: as in `SegmentationMetrics.intervals`.
        """
        groups, group_N = bootstrap.gather(self._groups, cluster)
        sums = None
        if self.targets and not bootstrap.insufficient(groups):
            weights_RG = bootstrap.draws(groups)
            counts = np.array([counts[[0, 2]] for counts, _ in self._groups.values()])
            totals = np.array([totals[[0, 2]] for _, totals in self._groups.values()])
            sums = (bootstrap.weighted(values, weights_RG, group_N) for values in (counts, totals))
            sums = tuple(sums)
        found = []
        for rate in rates:
            row: dict[str, Any] = {"fa": rate, "threshold": None, "pd": None, "interval": None}
            found.append(row)
            if too_few := too_few_pixels(self.pixels, rate):
                row["insufficient"] = too_few
                continue
            place = int(first_within(self.false_alarm_pixels[None], np.array([self.pixels]), rate)[0])
            if place == len(self.thresholds) or not self.targets:
                continue
            row |= {"threshold": float(self.thresholds[place]), "pd": float(self.hits[place] / self.targets)}
            if sums is not None:
                (hits_RT, false_RT), totals_R2 = np.moveaxis(sums[0], 1, 0), sums[1]
                places_R = first_within(false_RT, totals_R2[:, 1], rate)
                padded_RT = np.pad(hits_RT, ((0, 0), (0, 1)))
                hits_R = padded_RT[np.arange(len(padded_RT)), places_R]
                row["interval"] = bootstrap.interval(bootstrap.quotient(hits_R, totals_R2[:, 0]))
        return found

    def merge(self, other: OperatingCurve) -> OperatingCurve:
        """Add the frames of another part, measured the same way; InputError otherwise. Returns self."""
        if self._settings() != other._settings():
            raise InputError("curves with other thresholds, protocol or grid cannot be merged")
        for group, (counts, totals) in other._groups.items():
            self._add(group, counts, totals)
        return self

    def state(self) -> dict[str, Any]:
        """Everything accumulated, as JSON can hold it."""
        groups = [
            {"group": group, "counts": counts.tolist(), "totals": totals.tolist()}
            for group, (counts, totals) in self._groups.items()
        ]
        return {**self._settings(), "groups": groups}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> OperatingCurve:
        """The accumulator whose `state()` this is."""
        settings = dict(state)
        groups = settings.pop("groups")
        out = cls(**settings)
        for entry in groups:
            out._add(entry["group"], np.array(entry["counts"], np.int64), np.array(entry["totals"], np.int64))
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


# Fa is a count over a count: the product with the count of pixels must come back to the integer that it was.
ROUNDING = 1e-6


def too_few_pixels(pixels: int, fa: float) -> str | None:
    """Why a Fa cannot be told from so few pixels; None where it can: 10 / fa, so that ten false pixels make it up."""
    if pixels >= 10 / fa:
        return None
    return f"too little to tell: Fa {fa:g} needs {10 / fa:.3g} pixels, and there are {pixels}"


def first_within(false_RT: np.ndarray, pixels_R: np.ndarray, fa: float) -> np.ndarray:
    """int [R]: the first threshold from which upwards Fa never exceeds `fa`; T where it does at the last."""
    exceeded_RT = false_RT > fa * pixels_R[:, None] + ROUNDING
    from_the_top_R = exceeded_RT[:, ::-1].argmax(axis=1)
    return np.where(exceeded_RT.any(axis=1), false_RT.shape[1] - from_the_top_R, 0)


def _above(values: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values above the lowest threshold, sorted, and how many exceed each threshold."""
    values = np.sort(values[values > thresholds[0]])
    return values, len(values) - np.searchsorted(values, thresholds, side="right")


def _shares(numerator: np.ndarray, denominator: np.ndarray | int) -> list[float | None]:
    found = bootstrap.quotient(numerator, np.asarray(denominator))
    return [None if np.isnan(value) else float(value) for value in found]
