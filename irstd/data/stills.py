"""Still images as counts: png, bmp, jpeg, tiff; 8 or 16 bits; a tiff with several pages is several frames."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from natsort import natsorted

from irstd.errors import InputError

SUFFIXES = frozenset({".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff"})
LARGEST_SIDE = 16384  # pixels; beyond it a small file can ask for all of the memory
PAGES_AT_ONCE = 16

# OpenCV prints what it thinks of every file; what matters to the user is raised as an error here.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def is_still(path: Path) -> bool:
    """Whether the name is that of a still image."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def stills_in(folder: Path) -> list[Path]:
    """The still images directly in a folder in natural order: 2.png before 10.png."""
    # Sorted first, since 1.png and 01.png are equal in natural order.
    return natsorted(sorted(path for path in folder.iterdir() if is_still(path)), key=lambda path: path.name)


def check_side(width: int, height: int, where: str) -> None:
    """`InputError` where an image is larger than any sensor's."""
    if width > LARGEST_SIDE or height > LARGEST_SIDE:
        raise InputError(
            f"{where}: {width}x{height} pixels, at most {LARGEST_SIDE} a side are read: cut the image into smaller ones"
        )


def read_still(path: Path, where: str | None = None) -> Iterator[np.ndarray]:
    """The pages of an image as stored: [H, W] or [H, W, channels (BGR, BGRA)], any dtype.

    `where` names the file in messages. `InputError` where it is empty, cut, too large, or cannot be decoded.
    """
    where = where or path.name
    pages = 1
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise InputError(f"{where}: the file is empty (0 bytes): copy it again from its source, or remove it")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                pages = _check_header(data, where)
    except OSError as error:
        raise InputError(
            f"{where}: cannot be read ({error.strerror}): check that it exists and its permissions"
        ) from None
    except (struct.error, IndexError):
        raise _broken(where) from None
    if pages == 1:
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise _broken(where)
        yield image
        return
    for start in range(0, pages, PAGES_AT_ONCE):
        count = min(PAGES_AT_ONCE, pages - start)
        good, images = cv2.imreadmulti(str(path), start=start, count=count, flags=cv2.IMREAD_UNCHANGED)
        if not good or len(images) != count:
            raise InputError(f"{where}: page {start + len(images)} of {pages} cannot be decoded: copy the file again")
        yield from images


def _broken(where: str) -> InputError:
    return InputError(f"{where}: damaged, truncated or not an image: copy it again from its source, or remove it")


def _check_header(data: mmap.mmap, where: str) -> int:
    """Check the size without decoding, and that a jpeg is whole; returns the number of pages."""
    sizes: list[tuple[int, int]] = []
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        sizes = [struct.unpack(">II", data[16:24])]
    elif data[:2] == b"BM":
        old = struct.unpack("<I", data[14:18])[0] == 12
        sizes = [struct.unpack("<HH", data[18:22]) if old else struct.unpack("<ii", data[18:26])]
    elif data[:2] == b"\xff\xd8":
        sizes = [_jpeg(data, where)]
    elif data[:4] in (b"II*\0", b"MM\0*"):
        sizes = _tiff(data)
    if not sizes:
        raise _broken(where)
    for width, height in sizes:
        check_side(abs(width), abs(height), where)
    return len(sizes)


def _jpeg(data: mmap.mmap, where: str) -> tuple[int, int]:
    """Width and height. The decoder fills a cut image with grey, so the end marker must be there."""
    at, size = 2, None
    while True:
        marker, length = struct.unpack(">HH", data[at : at + 4])
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            size = width, height
        if marker == 0xFFDA:  # start of scan: from here FF D9 can only be the end
            if size is None or data.find(b"\xff\xd9", at + 2 + length) < 0:
                raise _broken(where)
            return size
        if marker == 0xFFFF:  # a fill byte
            at += 1
        elif marker >> 8 != 0xFF:
            raise _broken(where)
        else:
            at += 2 + length


def _tiff(data: mmap.mmap) -> list[tuple[int, int]]:
    """Width and height of every page: the tags 256 and 257 of each directory."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack(order + "I", data[4:8])[0]
    sizes, seen = [], set()
    while at and at not in seen:
        seen.add(at)
        entries = struct.unpack(order + "H", data[at : at + 2])[0]
        tags = {}
        for i in range(entries):
            entry = data[at + 2 + 12 * i : at + 14 + 12 * i]
            tag, kind = struct.unpack(order + "HH", entry[:4])
            if tag in (256, 257):
                tags[tag] = struct.unpack(order + ("H" if kind == 3 else "I"), entry[8 : 10 if kind == 3 else 12])[0]
        sizes.append((tags.get(256, 0), tags.get(257, 0)))
        at = struct.unpack(order + "I", data[at + 2 + 12 * entries : at + 6 + 12 * entries])[0]
    return sizes
