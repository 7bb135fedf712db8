"""Segmentations of COCO files: polygons and run lengths, made masks by pycocotools, as the format defines them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

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
    from pycocotools import mask as coco

    if isinstance(segment, dict):
        if list(segment.get("size", [])) != [height, width]:
            raise InputError(
                f"{where}: a segmentation is {segment.get('size')} (height, width), the image {[height, width]}: "
                "encode it at the image's size"
            )
        counts = segment.get("counts")
        if isinstance(counts, list):
            if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != height * width:
                raise InputError(f"{where}: the run lengths of a segmentation do not fill the image: encode it again")
            values = np.arange(len(counts)) % 2
            return np.repeat(values, counts).astype(bool).reshape((height, width), order="F")
        try:
            found = coco.decode({"size": [height, width], "counts": counts})
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(f"{where}: a segmentation cannot be decoded: encode it again") from None
        return np.asarray(found, bool)
    for polygon in segment:
        if not (
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(_finite, polygon))
        ):
            raise InputError(f"{where}: a polygon is no list of three or more points x, y: correct the segmentation")
    merged = coco.merge(coco.frPyObjects(segment, height, width))
    return np.asarray(coco.decode(merged), bool)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
