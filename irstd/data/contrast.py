"""How far a target stands out of what surrounds it: its signal-to-clutter ratio (SCR)."""

from __future__ import annotations

import math

import numpy as np

RING = 20
"""px of background around a target."""


def scr(frame_HW: np.ndarray, target: np.ndarray, others: np.ndarray | None = None) -> float:
    """SCR of one target: |mean of the target - mean of the background| / standard deviation of the background.

    The background is the target's box grown by 20 px on each side and cut at the frame's border, without the pixels of any
    target.

    Args:
        frame_HW: counts, any real dtype.
        target: pixels of this target as a mask [H, W], or its box [4] (x, y, w, h, edges in px), of which every pixel
            counts whose centre lies inside, and at least one. A box holds background too, so its SCR is lower than
            that of the mask.
        others: all targets, which the background leaves out (this one may be among them): a mask [H, W] or boxes
            [K, 4]; this target alone when not given.

    Returns:
        The SCR; inf before a background without any deviation, 0 where target and background are one flat value, and
        nan where there is nothing to measure: no pixel of the target in the frame, or none of the background.
    """
    target = np.asarray(target)
    edges = edges_of(target) if target.shape == (4,) else _mask_edges(target)
    height, width = frame_HW.shape
    x1, y1, x2, y2 = edges
    top, left = max(y1 - RING, 0), max(x1 - RING, 0)
    bottom, right = min(y2 + RING, height), min(x2 + RING, width)
    if top >= bottom or left >= right:
        return math.nan
    window = np.s_[top:bottom, left:right]
    part_hw = frame_HW[window].astype(np.float64)
    if target.shape == (4,):
        own_hw = np.zeros(part_hw.shape, bool)
        own_hw[max(y1 - top, 0) : max(y2 - top, 0), max(x1 - left, 0) : max(x2 - left, 0)] = True
    else:
        own_hw = target[window] != 0
    clutter_hw = ~own_hw
    if others is not None and len(others):
        others = np.asarray(others)
        if others.shape == frame_HW.shape:
            clutter_hw &= others[window] == 0
        else:
            for a1, b1, a2, b2 in map(edges_of, others):
                clutter_hw[max(b1 - top, 0) : max(b2 - top, 0), max(a1 - left, 0) : max(a2 - left, 0)] = False
    signal, clutter = part_hw[own_hw], part_hw[clutter_hw]
    if not len(signal) or not len(clutter):
        return math.nan
    contrast, deviation = abs(signal.mean() - clutter.mean()), clutter.std()
    if deviation > 0:
        return float(contrast / deviation)
    return math.inf if contrast > 0 else 0.0


def edges_of(box: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 (exclusive) of the pixels whose centres lie in a box (x, y, w, h), and of at least one pixel."""
    x, y, w, h = (float(value) for value in box)
    x1, y1 = math.ceil(x - 0.5), math.ceil(y - 0.5)
    x2, y2 = math.ceil(x + w - 0.5), math.ceil(y + h - 0.5)
    if x2 <= x1:
        x1 = math.floor(x + w / 2)
        x2 = x1 + 1
    if y2 <= y1:
        y1 = math.floor(y + h / 2)
        y2 = y1 + 1
    return x1, y1, x2, y2


def box_of(mask_HW: np.ndarray) -> list[float]:
    """Tight edges of a mask that is not empty: [x, y, w, h] in pixels, w = x2 - x1."""
    x1, y1, x2, y2 = _mask_edges(mask_HW)
    return [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]


def ring_of(mask_HW: np.ndarray, targets_HW: np.ndarray) -> np.ndarray:
    """bool [H, W]: the box of a target grown by 20 px on each side, without the pixels of any target."""
    x1, y1, x2, y2 = _mask_edges(mask_HW)
    ring_HW = np.zeros(mask_HW.shape, dtype=bool)
    ring_HW[max(y1 - RING, 0) : y2 + RING, max(x1 - RING, 0) : x2 + RING] = True
    return ring_HW & ~targets_HW.astype(bool)


def _mask_edges(mask_HW: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
