"""Bytes that a client sends, as frames of counts. What they are is told by their first bytes, never by a name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irstd.data.stills import check_side
from irstd.data.video import open_recording
from irstd.errors import InputError
from irstd.inference import domain
from irstd.service.limits import Refused

TAKEN = "send npy (uint8 or uint16, [T, H, W] or [H, W]), png, tiff, bmp, jpeg, mkv, mp4, mov, avi or cptv"
_MAGIC = (
    (0, b"\x93NUMPY", ".npy"),
    (0, b"\x89PNG\r\n\x1a\n", ".png"),
    (0, b"II*\0", ".tif"),
    (0, b"MM\0*", ".tif"),
    (0, b"BM", ".bmp"),
    (0, b"\xff\xd8", ".jpg"),
    (0, b"\x1a\x45\xdf\xa3", ".mkv"),
    (4, b"ftyp", ".mp4"),
    (4, b"moov", ".mov"),
    (8, b"AVI ", ".avi"),
    (0, b"\x1f\x8b", ".cptv"),
    (0, b"CPTV", ".cptv"),
)


@dataclass
class Upload:
    """Frames in order, of `dtype`, [height, width] and `bit_depth`."""

    frames: Iterator[np.ndarray]
    bit_depth: int
    height: int
    width: int
    fps: float | None = None


def opened(path: Path, content: dict[str, Any], bit_depth: int | None) -> Upload:
    """The frames in a file without a suffix; it gets one. `content`: of the model's package.

    Raises: Refused for what cannot be read at all, InputError for what is damaged or no counts.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise Refused(400, f"the body is empty: {TAKEN}")
    suffix = next((s for at, magic, s in _MAGIC if head[at : at + len(magic)] == magic), None)
    if suffix is None:
        raise Refused(415, f"not a format that is read: {TAKEN}")
    named = path.with_name(f"upload{suffix}")
    path.rename(named)
    if suffix == ".npy":
        return _array(named, content, bit_depth)
    # A 16-bit file may hold 14 bits, which it cannot say: then the model's own depth is the likely one, as for arrays.
    recording = open_recording(named, bit_depth)
    if bit_depth is None and recording.dtype == "uint16":
        recording = open_recording(named, domain.depth_of(content, np.dtype(np.uint16)))
    return Upload(recording.frames(), recording.bit_depth, recording.height, recording.width, recording.fps)


def _array(path: Path, content: dict[str, Any], bit_depth: int | None) -> Upload:
    try:
        # Mapped: what the header says of its size is not believed beyond the file's.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"not readable as NPY ({error}): send one array as numpy.save writes it") from None
    if array.ndim == 2:
        array = array[None]
    frames_THW = domain.counts(array)
    depth = bit_depth or domain.depth_of(content, frames_THW.dtype)
    check_side(frames_THW.shape[2], frames_THW.shape[1], "the array")
    if depth > frames_THW.dtype.itemsize * 8:
        raise InputError(f"bit_depth {depth} does not fit {frames_THW.dtype} counts")
    return Upload(_checked(frames_THW, depth), depth, *frames_THW.shape[1:])


def _checked(frames_THW: np.ndarray, depth: int) -> Iterator[np.ndarray]:
    for index, frame_HW in enumerate(frames_THW):
        if (highest := int(frame_HW.max())) >= 1 << depth:
            raise InputError(
                f"frame {index} has a count of {highest}, {depth} bits end at {(1 << depth) - 1}: say the right bit_depth"
            )
        yield np.ascontiguousarray(frame_HW)
