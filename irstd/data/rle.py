"""Run lengths of binary masks, uncompressed, in COCO's order.

The counts alternate between zeros and ones along the columns (column-major order) and begin with the zeros, so a mask
whose first pixel is set begins with a count of 0. Source: the "uncompressed RLE" of the COCO annotation format.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def encode(mask_HW: np.ndarray) -> list[int]:
    """Run lengths of a mask.

    Args:
        mask_HW: [H, W], any dtype; every value other than 0 counts as set.

    Returns:
        The counts, zeros first; their sum is H * W. An empty mask gives ``[H * W]``.

    Raises:
        ValueError: the mask does not have two axes.
    """
    mask_HW = np.asarray(mask_HW)
    if mask_HW.ndim != 2:
        raise ValueError(f"a mask has two axes [H, W], this one has shape {mask_HW.shape}")
    pixels = (mask_HW != 0).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(np.concatenate(([0], changes, [pixels.size]))).tolist()
    if pixels.size and pixels[0]:
        counts.insert(0, 0)
    return counts


def decode(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask that ``encode`` was given.

    Args:
        counts: run lengths in column-major order, zeros first.
        height, width: size of the mask in pixels.

    Returns:
        uint8 [height, width] of 0 and 1.

    Raises:
        ValueError: a count is negative or no integer, or the counts do not add up to height * width.
    """
    runs = np.asarray(counts)
    if runs.size == 0:
        runs = runs.astype(np.int64)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any():
        raise ValueError("run lengths are a flat list of integers that are not negative")
    if int(runs.sum()) != height * width:
        raise ValueError(f"run lengths add up to {int(runs.sum())}, the mask has {height} x {width} = {height * width}")
    # Pixel by pixel for those that are set: targets are small, and most of a mask is never touched.
    starts, lengths = np.cumsum(runs)[:-1:2], runs[1::2]
    before = np.cumsum(lengths) - lengths
    columns, rows = np.divmod(np.repeat(starts - before, lengths) + np.arange(lengths.sum()), height)
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[rows, columns] = 1
    return mask_HW
