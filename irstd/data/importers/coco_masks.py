"""Segmentations of COCO files: run lengths, and polygons, which pycocotools fills as the format defines it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from irstd.data import rle
from irstd.data.importers.masks import Masked
from irstd.errors import InputError


def has_outline(segmentation: Any, box: tuple[float, ...]) -> bool:
    """Whether a segmentation says more than the box. Converters write [], [[]], or the box as a polygon."""
    if isinstance(segmentation, dict):
        return True
    if not isinstance(segmentation, list) or not any(segmentation):
        return False
    x, y, w, h = box
    corners = {(px, py) for px in (x, x + w) for py in (y, y + h)}
    flat = segmentation[0]
    if len(segmentation) > 1 or not isinstance(flat, list) or len(flat) not in (8, 10):
        return True
    return {(a, b) for a, b in zip(flat[::2], flat[1::2], strict=True)} != corners


def masked(segments: list[Any], where: str) -> Masked:
    """The mask of an image's segmentations, and the centroid of each."""

    def make(height: int, width: int) -> tuple[np.ndarray, list[tuple[float, float]], int]:
        union_HW = np.zeros((height, width), bool)
        points = []
        for segment in segments:
            mask_HW = _decode(segment, height, width, where)
            rows, columns = np.nonzero(mask_HW)
            if not len(rows):
                raise InputError(f"{where}: a segmentation covers no pixel: correct or remove the annotation")
            points.append((float(columns.mean()), float(rows.mean())))
            union_HW |= mask_HW
        return union_HW, points, 0

    return make


def _decode(segment: Any, height: int, width: int, where: str) -> np.ndarray:
    if isinstance(segment, dict):
        if list(segment.get("size", [])) != [height, width]:
            raise InputError(
                f"{where}: a segmentation is {segment.get('size')} (height, width), the image {[height, width]}: "
                "encode it at the image's size"
            )
        counts = segment.get("counts")
    else:
        from pycocotools import mask

        for polygon in segment:
            good = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
            if not (good and all(map(_finite, polygon))):
                raise InputError(
                    f"{where}: a polygon is no list of three or more points x, y: correct the segmentation"
                )
        counts = mask.merge(mask.frPyObjects(segment, height, width))["counts"].decode("ascii")
    runs = unpack(counts) if isinstance(counts, str) else counts
    try:
        return rle.decode(runs, height, width).astype(bool)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{where}: the run lengths of a segmentation do not fill the image: encode it again") from None


def unpack(text: str) -> list[int]:
    """Run lengths from COCO's text for them.

    A number is written in groups of five bits, lowest first, as characters from "0" on; the sixth bit says that another
    group follows, and the highest of the last group is the sign. From the fourth on, numbers are the difference to the
    one two places before.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - ord("0")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
