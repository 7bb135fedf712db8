"""What the classical detectors accept."""

from __future__ import annotations

import numpy as np

from irstd.errors import InputError

DTYPES = ("uint8", "uint16", "float32")


def checked_frame(frame_HW: np.ndarray) -> np.ndarray:
    """The frame as a contiguous array; InputError (a ValueError) unless it is a finite [H, W] of `DTYPES`."""
    frame_HW = np.asarray(frame_HW)
    if frame_HW.ndim != 2 or not frame_HW.size:
        raise InputError(f"the frame has shape {frame_HW.shape}: expected [H, W], not empty")
    if frame_HW.dtype.name not in DTYPES:
        raise InputError(f"the frame has dtype {frame_HW.dtype}: expected one of {', '.join(DTYPES)}")
    if frame_HW.dtype.kind == "f" and not np.isfinite(frame_HW).all():
        raise InputError("the frame holds NaN or infinity")
    return np.ascontiguousarray(frame_HW)
