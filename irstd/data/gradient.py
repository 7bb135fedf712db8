"""The gradient map of a frame: one definition for shards, loader and model.

    gx(i, j) = (right - left) / 2        gy(i, j) = (top - bottom) / 2        g = sqrt(gx² + gy²)

This is the gradient magnitude image of GGL-Net (Zhao et al. 2023, released code: central differences, no epsilon, no
normalisation). The other two operators smooth across the difference and are normalised as well, so that a ramp of one
count a pixel has the gradient 1 whichever is chosen. The released code pads with zeros; at the border of a frame that
is a step from the scene to nothing, tens to hundreds of times what the interior holds, so `replicate` is the default.

PyTorch is imported only by the function that needs it: building shards does not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from irstd.errors import InputError, nearest

if TYPE_CHECKING:
    import torch

Operator = Literal["central", "sobel", "scharr"]
Padding = Literal["replicate", "zero"]

VERSION = 1
"""Raised whenever the same frame would get another map; shards of another version are refused."""

# For each operator: the weights of the outer and of the middle line of differences, and the divisor that makes the
# result a slope a pixel. The divisors are powers of two, so dividing costs no accuracy.
_KERNELS: dict[str, tuple[int, int, int]] = {"central": (0, 1, 2), "sobel": (1, 2, 8), "scharr": (3, 10, 32)}

# float32 holds every whole number up to here, so sums of squares that stay below it are exact.
_FLOAT32_WHOLE = 2**24

# 8-bit frames, and deeper ones that span up to 362 counts, have central differences whose squares sum to less than
# this. A table of roots then replaces the root and the conversion to float16, which is the slowest step of all.
_TABLE_SIZE = 2**18

# Rows are taken together up to about so many pixels. Measured on 512 x 640: 0.6 ms a frame of 8 bits, against 1.0 when
# whole frames are taken (fresh memory for each intermediate) and 1.3 with 2**13 (too many short bands).
_BAND_PIXELS = 2**16


@dataclass(frozen=True)
class GradientSpec:
    """How a stored gradient map was computed; written into a shard's manifest and compared when it is read.

    Raises InputError (a ValueError) if the operator, the padding or the version is not one that this module computes.
    """

    operator: Operator = "central"
    padding: Padding = "replicate"
    version: int = VERSION

    def __post_init__(self) -> None:
        _check(self.operator, self.padding)
        if self.version != VERSION:
            raise InputError(f"gradient version {self.version!r} is not version {VERSION}: build the shards again")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GradientSpec:
        """The inverse of `to_dict`. Raises InputError if a field is missing, unknown or not supported."""
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise InputError(f"a gradient specification has the fields {sorted(names)}, got {sorted(values)}")
        return cls(**values)


def gradient_magnitude(
    frame_HW: np.ndarray, operator: Operator = "central", padding: Padding = "replicate", scale: float = 1.0
) -> np.ndarray:
    """Gradient magnitude of `frame_HW * scale`, in units of `scale` a pixel.

    Args:
        frame_HW: one whole frame, [H, W], H and W >= 1, any integer or floating type. Unsigned counts do not wrap.
        operator: "central" (3 taps), "sobel" or "scharr" (3 x 3), each normalised to a slope a pixel.
        padding: what lies beyond the border: the nearest pixel ("replicate") or 0 ("zero").
        scale: factor from counts to the units wanted; its sign does not matter.

    Returns:
        float32 [H, W]. For integers of up to 16 bits the sums are exact and the square root is correctly rounded;
        a `scale` other than a power of two then rounds once more.

    Raises:
        ValueError: not a two-dimensional, non-empty array of real numbers; unknown operator or padding; scale not
            finite.
    """
    _check(operator, padding)
    if frame_HW.ndim != 2 or not frame_HW.size:
        raise ValueError(f"a frame is a non-empty array [H, W], got shape {frame_HW.shape}")
    if frame_HW.dtype.kind not in "biuf":
        raise ValueError(f"a frame holds real numbers, got {frame_HW.dtype}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    magnitude_HW = np.empty(frame_HW.shape, np.float32)
    for rows, sums in _bands(frame_HW, operator, padding):
        magnitude_HW[rows] = np.sqrt(sums, out=sums)[:, : frame_HW.shape[1]]
    magnitude_HW *= np.float32(abs(scale) / _KERNELS[operator][2])
    return magnitude_HW


def gradient_map(frames_nHW: np.ndarray, operator: Operator = "central", padding: Padding = "replicate") -> np.ndarray:
    """Gradient maps as the shards store them: the exact magnitude in counts, correctly rounded to float16.

    Whole-number arithmetic and one correctly rounded root leave no room for a compiler or a processor to differ: the
    bytes are the same on every machine. The largest value, 46,341 for 16 bits, is within float16.

    Args:
        frames_nHW: uint8 or uint16 [n, H, W], the sensor's counts; n may be 0.
        operator: as in `gradient_magnitude`.
        padding: as in `gradient_magnitude`.

    Returns:
        float16 [n, H, W].

    Raises:
        ValueError: another type or shape; unknown operator or padding.
    """
    _check(operator, padding)
    if frames_nHW.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"gradient maps are stored for uint8 or uint16 counts, got {frames_nHW.dtype}")
    if frames_nHW.ndim != 3 or not all(frames_nHW.shape[1:]):
        raise ValueError(f"frames have the shape [n, H, W] with H and W >= 1, got {frames_nHW.shape}")
    width = frames_nHW.shape[2]
    maps_nHW = np.empty(frames_nHW.shape, np.float16)
    for frame_HW, map_HW in zip(frames_nHW, maps_nHW, strict=True):
        for rows, sums in _bands(frame_HW, operator, padding):
            if sums.max() < _TABLE_SIZE:
                map_HW[rows] = _root_table(operator).take(sums.astype(np.int32), mode="clip")[:, :width]
            else:
                # Rounding the root first to the working type and then to float16 gives what rounding once would: the
                # square of a midpoint between two float16 values is never so near a whole number without being one.
                # So the map does not depend on which of the three ways was taken.
                root = np.sqrt(sums, out=sums)
                root *= 1 / _KERNELS[operator][2]
                map_HW[rows] = root[:, :width]
    return maps_nHW


def gradient_magnitude_torch(
    image_BCHW: torch.Tensor, operator: Operator = "central", padding: Padding = "replicate"
) -> torch.Tensor:
    """Gradient magnitude of each channel of a batch, in the image's units a pixel, on the image's device.

    Always computed in float32, under autocast too: squared slopes are far below what half precision resolves. In
    backward the slope of the root at 0, infinite in truth, counts as 0, so flat regions give no NaN.

    Args:
        image_BCHW: [B, C, H, W], H and W >= 1, any real type.
        operator: as in `gradient_magnitude`.
        padding: as in `gradient_magnitude`.

    Returns:
        float32 [B, C, H, W]; agrees with `gradient_magnitude` to float32 rounding of the image's values.

    Raises:
        ValueError: not four dimensions; unknown operator or padding.
    """
    import torch
    import torch.nn.functional as F

    _check(operator, padding)
    if image_BCHW.ndim != 4:
        raise ValueError(f"an image has the shape [B, C, H, W], got {tuple(image_BCHW.shape)}")
    device = image_BCHW.device.type
    if torch.is_autocast_enabled(device):  # only then, which keeps autocast out of exported graphs
        with torch.autocast(device, enabled=False):
            return gradient_magnitude_torch(image_BCHW, operator, padding)

    outer, middle, divisor = _KERNELS[operator]
    mode = "replicate" if padding == "replicate" else "constant"
    padded = F.pad(image_BCHW.float(), (1, 1, 1, 1), mode=mode)
    # Differences of views rather than a convolution: exact to a rounding, and no TF32 on any device.
    gx = padded[..., :, 2:] - padded[..., :, :-2]
    gy = padded[..., :-2, :] - padded[..., 2:, :]
    if outer:
        gx = outer * (gx[..., :-2, :] + gx[..., 2:, :]) + middle * gx[..., 1:-1, :]
        gy = outer * (gy[..., :, :-2] + gy[..., :, 2:]) + middle * gy[..., :, 1:-1]
    else:
        gx, gy = gx[..., 1:-1, :], gy[..., :, 1:-1]
    sums = gx * gx + gy * gy
    if not sums.requires_grad:
        return torch.sqrt(sums) / divisor
    is_flat = sums == 0
    return torch.sqrt(sums.masked_fill(is_flat, 1)).masked_fill(is_flat, 0) / divisor


def _check(operator: str, padding: str) -> None:
    for what, name, known in (("operator", operator, get_args(Operator)), ("padding", padding, get_args(Padding))):
        if name not in known:
            hint = nearest(str(name), known)
            raise InputError(f"gradient {what} {name!r} is not known; known: {', '.join(known)}{hint}")


def _bands(frame_HW: np.ndarray, operator: str, padding: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield a few rows at a time and their sums of squares: what a band needs stays in the processor's cache."""
    height, width = frame_HW.shape
    count = max(1, _BAND_PIXELS // width)
    for start in range(0, height, count):
        stop = min(start + count, height)
        # One row more on either side; the sums of those rows, padded where the frame goes on, are dropped.
        above, below = max(start - 1, 0), min(stop + 1, height)
        sums = _sums_of_squares(frame_HW[above:below], operator, padding)
        yield slice(start, stop), sums[start - above : stop - above]


def _sums_of_squares(frame_HW: np.ndarray, operator: str, padding: str) -> np.ndarray:
    """gx² + gy² before any division, [H, W + 2]; the last two columns of each row mean nothing.

    Works on the padded frame as one long row: every neighbour is then a constant offset away, and NumPy runs one long
    loop where a window of a two-dimensional array would cost it a short one for each line.
    """
    outer, middle, _ = _KERNELS[operator]
    height, width = frame_HW.shape
    row = width + 2
    flat = np.empty((height + 2) * row + 2, _working_dtype(frame_HW, 2 * outer + middle, padding))
    padded = flat[:-2].reshape(height + 2, row)
    padded[1:-1, 1:-1] = frame_HW
    if padding == "replicate":
        padded[1:-1, 0] = frame_HW[:, 0]
        padded[1:-1, -1] = frame_HW[:, -1]
        padded[0] = padded[1]
        padded[-1] = padded[-2]
    else:
        padded[0] = padded[-1] = padded[:, 0] = padded[:, -1] = 0
    flat[-2:] = flat[-3]  # two values to spare give both derivatives the length height * row

    gx = _smooth(flat[2:] - flat[:-2], row, outer, middle)
    gy = _smooth(flat[: -2 * row] - flat[2 * row :], 1, outer, middle)
    np.multiply(gx, gx, out=gx)
    np.multiply(gy, gy, out=gy)
    gx += gy
    return gx.reshape(height, row)


def _smooth(difference: np.ndarray, step: int, outer: int, middle: int) -> np.ndarray:
    """outer * (before + after) + middle * here, where before and after lie `step` away."""
    here = difference[step:-step]
    if not outer:
        return here
    smooth = difference[: -2 * step] + difference[2 * step :]
    smooth *= outer
    smooth += middle * here
    return smooth


def _working_dtype(frame_HW: np.ndarray, weight: int, padding: str) -> type:
    """float32 where it holds every sum exactly, else float64; floating input, whose squares may be tiny, float64."""
    if frame_HW.dtype.kind == "f":
        return np.float64
    low, high = int(frame_HW.min()), int(frame_HW.max())
    if padding == "zero":
        low, high = min(low, 0), max(high, 0)
    # The frame's values have to be exact too, not only their differences.
    largest = max(2 * (weight * (high - low)) ** 2, abs(low), abs(high))
    return np.float32 if largest <= _FLOAT32_WHOLE else np.float64


@functools.lru_cache
def _root_table(operator: str) -> np.ndarray:
    """The float16 gradient for every sum of squares below `_TABLE_SIZE`: 512 KiB."""
    table = (np.sqrt(np.arange(_TABLE_SIZE)) / _KERNELS[operator][2]).astype(np.float16)
    table.setflags(write=False)
    return table
