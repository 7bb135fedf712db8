"""Which predicted blob answers which target, and what is left over as false alarm."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from irstd.data.regions import SHARE
from irstd.metrics.components import Components
from irstd.metrics.protocols import SegmentationProtocol

HIT_DISTANCE = 3.0
"""px between centroids; a hit lies strictly below."""

# Centroids are ratios of integers, rounded; without this margin a distance of exactly 3 px between thirds is sometimes
# a hit.
ROUNDING = 1e-9

_SURPLUS_RADIUS = 3
_offsets = np.arange(-_SURPLUS_RADIUS, _SURPLUS_RADIUS + 1)
_DISC = (_offsets[:, None] ** 2 + _offsets**2 <= _SURPLUS_RADIUS**2).astype(np.uint8)


@dataclass(frozen=True)
class FrameMatch:
    """What one frame adds: counts of targets and blobs, and pixels.

    scored_M: int, indices of the target components that are scored (all without an ignore region). hit_M: bool, which of
    them were hit. alarm_N: bool, which blobs answered no target and count as false alarms.
    """

    targets: int
    hits: int
    false_alarms: int
    false_alarm_pixels: int
    surplus_pixels: int
    scored_M: np.ndarray
    hit_M: np.ndarray
    alarm_N: np.ndarray


def match_frame(
    predicted: Components,
    target: Components,
    protocol: SegmentationProtocol,
    ignored_HW: np.ndarray | None = None,
) -> FrameMatch:
    """Match the blobs of one frame to its targets and count, by the rules of the protocol.

    ignored_HW: bool, pixels that do not count (see `irstd.metrics.ignore`). A target that has at least half of its pixels
    there is left out before the matching, a blob after it, where it answered no target.
    """
    match = greedy_match if protocol.matching == "greedy" else optimal_match
    scored_M, counted_N = scored_targets(target, ignored_HW), predicted.areas_N
    if ignored_HW is not None:
        counted_N = predicted.areas_N - predicted.areas_in(ignored_HW)
    targets_K, blobs_K = match(target.centroids_N2[scored_M], predicted.centroids_N2)
    free_N = np.ones(len(predicted), bool)
    if ignored_HW is not None:
        free_N = counted_N > (1 - SHARE) * predicted.areas_N
    free_N[blobs_K] = False
    alarm_N = free_N.copy()
    if protocol.false_alarm == "membership":
        free_N &= ~np.isin(predicted.areas_N, predicted.areas_N[blobs_K])
    surplus = 0
    if protocol.surplus:
        pairs = zip(scored_M[targets_K].tolist(), blobs_K.tolist(), strict=True)
        surplus = sum(_surplus(predicted, blob, target, index, ignored_HW) for index, blob in pairs)
    hit_M = np.zeros(len(scored_M), bool)
    hit_M[targets_K] = True
    pixels = int(counted_N[free_N].sum())
    false_alarms = int(np.count_nonzero(alarm_N))
    return FrameMatch(len(scored_M), len(blobs_K), false_alarms, pixels, surplus, scored_M, hit_M, alarm_N)


def scored_targets(target: Components, ignored_HW: np.ndarray | None) -> np.ndarray:
    """int [M]: the targets that have more than half of their pixels outside what is ignored."""
    if ignored_HW is None:
        return np.arange(len(target))
    return np.flatnonzero(target.areas_in(ignored_HW) < SHARE * target.areas_N)


def greedy_match(targets_M2: np.ndarray, blobs_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each target, in order, the first unused blob less than 3 px away: first, not nearest.

    Centroids (row, column) in raster order of the components. Returns the indices of the matched targets and of their
    blobs, each [K].
    """
    targets, blobs, _ = _near_pairs(targets_M2, blobs_N2)
    taken: dict[int, int] = {}
    used: set[int] = set()
    for target, blob in zip(targets.tolist(), blobs.tolist(), strict=True):
        if target not in taken and blob not in used:
            taken[target] = blob
            used.add(blob)
    return np.array(list(taken), np.intp), np.array(list(taken.values()), np.intp)


def optimal_match(targets_M2: np.ndarray, blobs_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The one-to-one matching of pairs less than 3 px apart with the most pairs and, among those, the least total
    distance.

    Arguments and result as in `greedy_match`.
    """
    targets, blobs, distances = _near_pairs(targets_M2, blobs_N2)
    if len(set(targets.tolist())) == len(set(blobs.tolist())) == len(targets):
        return targets, blobs  # every pair stands alone: nothing to choose
    rows, row_of = np.unique(targets, return_inverse=True)
    columns, column_of = np.unique(blobs, return_inverse=True)

    from scipy.optimize import linear_sum_assignment

    # One pair that is too far costs more than all near pairs of any assignment together, so the count of pairs comes
    # first.
    far = HIT_DISTANCE * (min(len(rows), len(columns)) + 1)
    cost = np.full((len(rows), len(columns)), far)
    cost[row_of, column_of] = distances
    chosen_rows, chosen_columns = linear_sum_assignment(cost)
    near = cost[chosen_rows, chosen_columns] < far
    return rows[chosen_rows[near]], columns[chosen_columns[near]]


def _near_pairs(targets_M2: np.ndarray, blobs_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of targets and blobs, and their distances, of all pairs less than 3 px apart; by target, then by blob."""
    difference_MN2 = targets_M2[:, None] - blobs_N2[None]
    distance_MN = np.hypot(difference_MN2[..., 0], difference_MN2[..., 1])
    targets, blobs = np.nonzero(distance_MN < HIT_DISTANCE - ROUNDING)
    return targets, blobs, distance_MN[targets, blobs]


def _surplus(predicted: Components, blob: int, target: Components, index: int, ignored_HW: np.ndarray | None) -> int:
    """Pixels of a blob farther than 3 px from every pixel of its target, and not ignored."""
    height, width = target.shape
    x, y, w, h = target.boxes_N4[index].tolist()
    top, left = max(y - _SURPLUS_RADIUS, 0), max(x - _SURPLUS_RADIUS, 0)
    bottom, right = min(y + h + _SURPLUS_RADIUS, height), min(x + w + _SURPLUS_RADIUS, width)
    near = cv2.dilate(target.crop(index, top, left, bottom, right).view(np.uint8), _DISC).view(bool)
    if ignored_HW is None:
        inside = np.count_nonzero(predicted.crop(blob, top, left, bottom, right) & near)
        return int(predicted.areas_N[blob]) - int(inside)
    far_HW = predicted.crop(blob, 0, 0, height, width) & ~ignored_HW
    far_HW[top:bottom, left:right] &= ~near
    return int(np.count_nonzero(far_HW))
