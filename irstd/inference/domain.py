"""What a model is given, against what it saw: what is adapted by which rule, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from irstd.data import intensity
from irstd.errors import InputError


def counts(frames: Any) -> np.ndarray:
    """`frames` as counts [T, H, W]; `InputError` for other types and shapes, colour among them."""
    found = np.asarray(frames)
    if found.ndim == 3 and found.dtype in (np.uint8, np.uint16):
        if not found.size:
            raise InputError(f"no pixels in frames of shape {list(found.shape)}")
        return found
    hint = ""
    if found.ndim == 4 and found.shape[-1] in (3, 4):
        hint = "; a model takes one grey channel: give the sensor's counts, or one plane of the colours"
    elif found.ndim == 2:
        hint = "; one frame is frames[None]"
    elif found.ndim == 3:
        hint = "; counts are whole numbers as the sensor gave them, not scaled: astype(numpy.uint16) if they are so already"
    raise InputError(f"expected sensor counts uint8 or uint16 [T, H, W], got {found.dtype} {list(found.shape)}{hint}")


def depth_of(content: Mapping[str, Any], dtype: np.dtype) -> int:
    """The bit depth that an array of counts is taken for where nobody says: the model's own where the type can hold it."""
    whole = dtype.itemsize * 8
    own = content["bit_depth"]
    return own if 8 < own <= whole else whole


def check(content: Mapping[str, Any], bit_depth: int, height: int | None = None, width: int | None = None) -> list[str]:
    """What differs from what the model saw, and by which rule it is adapted; one line each.

    `content`: of the package. Raises: InputError for a bit depth that the model's intensity rule cannot take.
    """
    rule = intensity.resolve(content["intensity"]["rule"], bit_depth)
    seen = content.get("input") or {}
    depths = seen.get("bit_depths") or [content["bit_depth"]]
    shown = " and ".join(f"{depth}" for depth in depths)
    if rule == "full_scale" and bit_depth > 8:
        raise InputError(
            f"a {bit_depth}-bit recording, and the model takes 8 bits (its intensity rule full_scale divides by 255); train one "
            "with data.intensity=frame, or give an 8-bit recording"
        )
    if rule == "dataset" and bit_depth not in depths:
        raise InputError(
            f"a {bit_depth}-bit recording, and the model takes {shown} bits: its intensity rule dataset holds offset and scale "
            "of those counts; train one with data.intensity=frame or sequence"
        )
    notes = []
    if bit_depth not in depths:
        notes.append(f"{bit_depth} bits, the model saw {shown}: adapted by its intensity rule {rule}")
    sizes = seen.get("sizes")
    if height is not None and sizes and [height, width] not in sizes:
        resize = content["config"]["data"]["resize"]
        how = "taken as they are (data.resize=native)" if resize == "native" else f"adapted by data.resize={resize}"
        few = ", ".join(f"{h} x {w}" for h, w in sizes[:4]) + (", ..." if len(sizes) > 4 else "")
        notes.append(f"frames of {height} x {width}, the model saw {few}: {how}")
    return notes
