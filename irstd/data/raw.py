"""Headerless recordings: frames of one size, one after another, and a sidecar that says what the file cannot.

    raw:
      width: 640
      height: 512
      dtype: uint16          # or uint8
      byte_order: little     # or big; little where it is left out
      header: 0              # bytes before the first frame
      frame_header: 0        # bytes before the pixels of each frame
      frame_footer: 0        # and after them

Cameras that write a line of telemetry before or after each image (FLIR Tau and Boson do), and files of fixed frame
headers such as PTW, are read with the last two. Packed pixels (three bytes for two of 12 bits) are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import yaml

from irstd.data.stills import LARGEST_SIDE
from irstd.errors import InputError, nearest

SUFFIX = ".raw"
SUFFIXES = frozenset({SUFFIX, ".bin"})
_BYTES = {"uint8": 1, "uint16": 2}
_ORDERS = {"little": "<", "big": ">"}


@dataclass(frozen=True)
class Layout:
    """Where the counts lie in a file: `width`, `height` in pixels; `header`, `frame_header`, `frame_footer` in bytes."""

    width: int
    height: int
    dtype: str
    byte_order: str = "little"
    header: int = 0
    frame_header: int = 0
    frame_footer: int = 0

    @property
    def image(self) -> int:
        """Bytes of the pixels of a frame."""
        return self.width * self.height * _BYTES[self.dtype]

    @property
    def stride(self) -> int:
        """Bytes from one frame to the next."""
        return self.frame_header + self.image + self.frame_footer

    def text(self) -> str:
        """As a sidecar, all keys written out."""
        return yaml.safe_dump({"raw": asdict(self)}, sort_keys=False)


def is_raw(path: PurePath) -> bool:
    """Whether the name is that of a headerless recording."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def layout(tree: Any, where: str) -> Layout:
    """The layout that a sidecar says under `raw`; `InputError` naming the key that is wrong."""
    known = tuple(Layout.__dataclass_fields__)
    if not isinstance(tree, Mapping):
        raise InputError(f"{where}: raw is {tree!r}: give width, height and dtype under it")
    for key, value in tree.items():
        if key in ("width", "height"):
            good, say = _whole(value) and 1 <= value <= LARGEST_SIDE, f"pixels from 1 to {LARGEST_SIDE}"
        elif key == "dtype":
            good, say = isinstance(value, str) and value in _BYTES, "uint8 or uint16"
        elif key == "byte_order":
            good, say = isinstance(value, str) and value in _ORDERS, "little or big"
        elif key in known:
            good, say = _whole(value) and value >= 0, "a number of bytes"
        else:
            raise InputError(f"{where}: unknown key raw.{key}{nearest(str(key), known)}; known: {', '.join(known)}")
        if not good:
            raise InputError(f"{where}: raw.{key} is {value!r}: give {say}")
    if missing := [key for key in ("width", "height", "dtype") if key not in tree]:
        raise InputError(f"{where}: raw.{missing[0]} is missing: give it")
    return Layout(**tree)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def read_frames(path: Path, found: Layout, where: str, indices: Iterable[int] | None = None) -> Iterator[np.ndarray]:
    """The frames in order, or those at `indices` (what lies beyond the end is left out): uint8 or uint16 [H, W] counts.

    A frame is read where it lies, whatever comes before it. `InputError` where the file is no whole number of frames.
    """
    stored = np.dtype(found.dtype).newbyteorder(_ORDERS[found.byte_order])
    try:
        total = _count(path.stat().st_size, found, where)
        with path.open("rb") as file:
            for index in range(total) if indices is None else indices:
                if index >= total:
                    continue
                file.seek(found.header + index * found.stride + found.frame_header)
                frame_HW = np.empty((found.height, found.width), stored)
                if file.readinto(frame_HW.data.cast("B")) < found.image:
                    raise InputError(
                        f"{where}: frame {index} is cut: the file was shortened while it was read; try again"
                    )
                yield frame_HW.astype(found.dtype, copy=False)
    except OSError as error:
        raise InputError(
            f"{where}: cannot be read ({error.strerror}): check that it exists and its permissions"
        ) from None


def _count(size: int, found: Layout, where: str) -> int:
    """Frames in a file of `size` bytes."""
    if not size:
        raise InputError(f"{where}: the file is empty (0 bytes): copy it again from its source, or remove it")
    bare = max(size - found.header, 0)
    frames, rest = divmod(bare, found.stride)
    if not frames or rest:
        raise InputError(
            f"{where}: {bare} bytes{' after its header' if found.header else ''} are no whole number of frames of "
            f"{found.stride} bytes ({found.width}x{found.height} {found.dtype}), but {frames} and {rest} bytes over: "
            "correct its sidecar, or copy it again from its source"
        )
    return frames
