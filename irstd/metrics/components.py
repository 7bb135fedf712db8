"""8-connected components of a binary mask, in raster order, labelled only where the mask is occupied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

# Above this many bands of occupied rows one call over all of them is cheaper than one call a band.
MAX_BANDS = 32
# Bounds the memory of the search for first pixels: this many components times the width, in int32.
_CHUNK = 1024


@dataclass(frozen=True)
class Band:
    """A labelled rectangle of the mask.

    labels: int32 [h, w]; top, left: its place; ids: its labels in raster order; first: the index of the first of them.
    """

    labels: np.ndarray
    top: int
    left: int
    first: int
    ids: Sequence[int]


@dataclass(frozen=True)
class Components:
    """N components, in the raster order of their first pixels.

    areas_N: int64, px. centroids_N2: float64 (row, column) of pixel centres, as in scikit-image. boxes_N4: int64
    (x, y, w, h). shape: (H, W) of the mask.
    """

    shape: tuple[int, int]
    areas_N: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    centroids_N2: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    boxes_N4: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    bands: tuple[Band, ...] = ()

    def __len__(self) -> int:
        return len(self.areas_N)

    def crop(self, index: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
        """bool [bottom - top, right - left]: the pixels of one component in a window inside the mask."""
        band = next(band for band in reversed(self.bands) if band.first <= index)
        out = np.zeros((bottom - top, right - left), bool)
        height, width = band.labels.shape
        y1, y2 = max(top, band.top), min(bottom, band.top + height)
        x1, x2 = max(left, band.left), min(right, band.left + width)
        if y1 < y2 and x1 < x2:
            window = band.labels[y1 - band.top : y2 - band.top, x1 - band.left : x2 - band.left]
            out[y1 - top : y2 - top, x1 - left : x2 - left] = window == band.ids[index - band.first]
        return out

    def areas_in(self, region_HW: np.ndarray) -> np.ndarray:
        """int64 [N]: how many pixels of each component lie in a region, a bool mask of the same shape."""
        found = np.zeros(len(self), np.int64)
        for band in self.bands:
            height, width = band.labels.shape
            inside = band.labels[region_HW[band.top : band.top + height, band.left : band.left + width]]
            ids = np.asarray(band.ids)
            counts = np.bincount(inside, minlength=int(ids.max()) + 1)
            found[band.first : band.first + len(ids)] = counts[ids]
        return found


def components(mask_HW: np.ndarray) -> Components:
    """Label a bool mask [H, W]: as `skimage.measure.label(mask, connectivity=2)` and `regionprops`, order included."""
    height, width = mask_HW.shape
    pixels_HW = np.ascontiguousarray(mask_HW).view(np.uint8)
    bands: list[Band] = []
    tables, centres, corners, first = [], [], [], 0
    for top, bottom in _occupied_rows(mask_HW):
        columns = np.flatnonzero(mask_HW[top:bottom].any(axis=0))
        left, right = int(columns[0]), int(columns[-1]) + 1
        count, labels, table, centre = cv2.connectedComponentsWithStatsWithAlgorithm(
            pixels_HW[top:bottom, left:right], 8, cv2.CV_32S, cv2.CCL_BBDT
        )
        ids = slice(1, 2) if count == 2 else _raster_order(labels, table)
        bands.append(Band(labels, top, left, first, (1,) if count == 2 else ids))
        tables.append(table[ids])
        centres.append(centre[ids])
        corners += [(left, top)] * (count - 1)
        first += count - 1
    if not bands:
        return Components((height, width))
    table_N5 = np.concatenate(tables, dtype=np.int64)
    corners_N2 = np.array(corners)
    boxes_N4 = table_N5[:, : cv2.CC_STAT_AREA]
    boxes_N4[:, :2] += corners_N2
    centroids_N2 = (np.concatenate(centres) + corners_N2)[:, ::-1]
    return Components((height, width), table_N5[:, cv2.CC_STAT_AREA], centroids_N2, boxes_N4, tuple(bands))


def _occupied_rows(mask_HW: np.ndarray) -> list[tuple[int, int]]:
    """Runs of rows that hold a pixel, as first and last + 1.

    A component never crosses an empty row, so each run is labelled by itself, and what is empty is not labelled at all.
    """
    rows = np.flatnonzero(mask_HW.any(axis=1))
    if not len(rows):
        return []
    ends = np.flatnonzero(np.diff(rows) > 1)
    if len(ends) >= MAX_BANDS:
        return [(int(rows[0]), int(rows[-1]) + 1)]
    tops = [rows[0], *rows[ends + 1]]
    bottoms = [*rows[ends], rows[-1]]
    return [(int(top), int(bottom) + 1) for top, bottom in zip(tops, bottoms, strict=True)]


def _raster_order(labels: np.ndarray, stats: np.ndarray) -> np.ndarray:
    """Labels sorted by first pixel. BBDT scans blocks of 2 x 2, so its own order is not that of the pixels, and greedy
    matching depends on the order."""
    ids = np.arange(1, len(stats))
    tops = stats[1:, cv2.CC_STAT_TOP]
    lefts = np.concatenate(
        [
            (labels[tops[start : start + _CHUNK]] == ids[start : start + _CHUNK, None]).argmax(axis=1)
            for start in range(0, len(ids), _CHUNK)
        ]
    )
    return ids[np.lexsort((lefts, tops))]
