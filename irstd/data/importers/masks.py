"""Targets from a mask image: what is above 127 is target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from irstd.data import rle
from irstd.data.annotations import FrameTargets
from irstd.data.derive import targets_of
from irstd.data.importers.base import Listing
from irstd.data.stills import read_still
from irstd.errors import InputError

# (height, width) -> (bool mask [H, W], points (x, y) of its targets, grey pixels of the file)
Masked = Callable[[int, int], tuple[np.ndarray, Any, int]]

THRESHOLD = 127
MOST_BETWEEN = 0.25  # of a frame's pixels may be neither 0 nor 255: more is a picture, no mask


def read_mask(path: Path, where: str, image: str, height: int, width: int) -> tuple[np.ndarray, int]:
    """(bool [H, W], how many pixels are neither 0 nor 255). `InputError` where it is no mask of that image."""
    mask_HW = next(read_still(path, where))
    if mask_HW.ndim == 3:
        colours = mask_HW[:, :, :3]
        if (colours != colours[:, :, :1]).any():
            raise InputError(f"{where}: the mask has colour: give one channel with 0 and 255, or three equal ones")
        mask_HW = np.ascontiguousarray(colours[:, :, 0])
    if mask_HW.shape != (height, width):
        raise InputError(
            f"{where}: the mask is {mask_HW.shape[1]}x{mask_HW.shape[0]} pixels, its image {image} {width}x{height}: "
            "give a mask of the image's size, or take the image out"
        )
    highest = int(mask_HW.max())
    if mask_HW.dtype != np.uint8 or 0 < highest <= THRESHOLD:
        raise InputError(f"{where}: values up to {highest} ({mask_HW.dtype}): give a mask of 0 and 255 in 8 bits")
    between = int(np.count_nonzero((mask_HW > 0) & (mask_HW < 255)))
    if between > MOST_BETWEEN * mask_HW.size:
        raise InputError(
            f"{where}: {between} of {mask_HW.size} pixels are neither 0 nor 255: this is a picture, no mask: give the mask"
        )
    return mask_HW > THRESHOLD, between


def mask_file(listing: Listing, path: PurePosixPath, image: PurePosixPath) -> Masked:
    """The mask of an image, from a file, when the image's size is known."""

    def make(height: int, width: int) -> tuple[np.ndarray, Any, int]:
        target_HW, grey = read_mask(listing.path(path), str(path), str(image), height, width)
        return target_HW, targets_of(target_HW)[1], grey

    return make


def frame_of(index: int, target_HW: np.ndarray) -> FrameTargets:
    """A labelled frame with box and point of each component of a mask, and the mask."""
    boxes, points = targets_of(target_HW)
    return FrameTargets(index, True, boxes, points=points, mask=rle.encode(target_HW))


def note(grey: int) -> tuple[str, ...]:
    """What is said of masks with grey pixels, for `Annotations.notes`."""
    return (f"{grey} mask pixels are neither 0 nor 255: target is what is above {THRESHOLD}",) if grey else ()
