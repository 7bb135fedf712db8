"""CPTV recordings (Cacophony Project Thermal Video): 16-bit counts of thermal cameras, compressed without loss.

The whole file is one gzip stream; numbers are little-endian. After the letters `CPTV` and a version (1 or 2) come a header
section and one section a frame: a letter (`H`, `F`), the number of fields, and the fields, each a length, a code and that
many bytes. The pixels of a frame follow its fields. Unknown fields are skipped, as the format asks.

Compression 1, the one in use: the pixels are put in a row that runs right on even lines and left on odd ones; of this row
the frame before is subtracted (zeros for the first); the first value of what is left is stored as int32, then the
difference of each value to the one before it, in `w` bits, two's complement, highest bit first.

Source: SPECv2.md of github.com/TheCacophonyProject/go-cptv, and for the compression the files that its cameras write.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from irstd.data.stills import check_side
from irstd.errors import InputError

SUFFIX = ".cptv"
VERSIONS = (1, 2)
WIDEST = 24  # bits of a packed difference; that of two differences of 16-bit counts needs 19

Fields = dict[bytes, bytes]


@dataclass(frozen=True)
class CptvHeader:
    """`height`, `width` in pixels; `fps` frames a second, None where the file does not say (older cameras do not)."""

    version: int
    height: int
    width: int
    fps: float | None


def is_cptv(path: Path) -> bool:
    """Whether the name is that of a CPTV recording."""
    return path.suffix.lower() == SUFFIX and not path.name.startswith(".")


def read_header(path: Path, where: str | None = None) -> CptvHeader:
    """The header alone. Errors as of `read_frames`."""
    with _opened(path, where or path.name) as file:
        return _header(file, where or path.name)


def read_frames(path: Path, where: str | None = None) -> Iterator[np.ndarray]:
    """The frames in order, one pass: uint16 [H, W] counts.

    The background that some cameras put before a recording is no frame of it and is left out. `where` names the file in
    messages. `InputError` where it is empty, cut, damaged (the gzip stream carries a checksum), of another version or
    compression, too large, or holds no frame.
    """
    where = where or path.name
    with _opened(path, where) as file:
        header = _header(file, where)
        shape = header.height, header.width
        row_N = np.zeros(header.height * header.width, np.int64)
        count, index = 0, 0
        while letter := file.read(1):
            if letter != b"F":
                raise InputError(f"{where}: frame {index}: a section {letter!r} where a frame should be: {_REMEDY}")
            fields = _fields(file)
            row_N += _differences(file, fields, row_N.size, f"{where}: frame {index}")
            if row_N.min() < 0 or row_N.max() > 65535:
                raise InputError(f"{where}: frame {index}: counts outside 16 bits: {_REMEDY}")
            index += 1
            if any(fields.get(b"g", b"")):
                continue
            frame_HW = row_N.astype(np.uint16).reshape(shape)
            frame_HW[1::2] = frame_HW[1::2, ::-1].copy()
            yield frame_HW
            count += 1
    if not count:
        raise InputError(f"{where}: holds no frame: {_REMEDY}")


_REMEDY = "damaged or truncated; copy it again from its source"


@contextmanager
def _opened(path: Path, where: str) -> Iterator[BinaryIO]:
    """The unpacked stream; whatever is wrong with it comes out as one line."""
    try:
        if not path.stat().st_size:
            raise InputError(f"{where}: the file is empty (0 bytes): copy it again from its source, or remove it")
        with gzip.open(path, "rb") as file:
            yield file
    except gzip.BadGzipFile as error:
        raise InputError(f"{where}: not readable as gzip, which CPTV is ({error}): {_REMEDY}") from None
    except (EOFError, zlib.error):
        raise InputError(f"{where}: {_REMEDY}") from None
    except OSError as error:
        raise InputError(
            f"{where}: cannot be read ({error.strerror}): check that it exists and its permissions"
        ) from None


def _header(file: BinaryIO, where: str) -> CptvHeader:
    if _take(file, 4) != b"CPTV":
        raise InputError(f"{where}: no CPTV recording: its first letters are others; give its true suffix")
    version = _take(file, 1)[0]
    if version not in VERSIONS:
        raise InputError(f"{where}: CPTV of version {version}, read are 1 and 2: convert it to FFV1 in an mkv")
    if _take(file, 1) != b"H":
        raise InputError(f"{where}: has no header: {_REMEDY}")
    fields = _fields(file)
    width, height = (_number(fields, code, where) for code in (b"X", b"Y"))
    check_side(width, height, where)
    if not width or not height:
        raise InputError(f"{where}: frames of {width}x{height} pixels: {_REMEDY}")
    compression = _number(fields, b"C", where)
    if compression != 1:
        raise InputError(f"{where}: CPTV with compression {compression}, read is 1: convert it to FFV1 in an mkv")
    return CptvHeader(version, height, width, float(_number(fields, b"Z", where, 0)) or None)


def _fields(file: BinaryIO) -> Fields:
    found: Fields = {}
    for _ in range(_take(file, 1)[0]):
        length, code = _take(file, 2)
        found[bytes([code])] = _take(file, length)
    return found


def _number(fields: Fields, code: bytes, where: str, default: int | None = None) -> int:
    if code not in fields and default is None:
        raise InputError(f"{where}: the field {code.decode()!r} is missing: {_REMEDY}")
    return int.from_bytes(fields[code], "little") if code in fields else default or 0


def _differences(file: BinaryIO, fields: Fields, pixels: int, where: str) -> np.ndarray:
    """int64 [pixels]: what is added to the row of the frame before."""
    bits, size = (_number(fields, code, where) for code in (b"w", b"f"))
    need = 4 + ((pixels - 1) * bits + 7) // 8
    if not 1 <= bits <= WIDEST or not need <= size <= need + 8:  # writers may round up to whole words
        raise InputError(f"{where}: {size} bytes of {bits} bits a pixel for {pixels} pixels: {_REMEDY}")
    data = _take(file, size)
    steps_N = np.empty(pixels, np.int64)
    steps_N[0] = int.from_bytes(data[:4], "little", signed=True)
    packed = np.unpackbits(np.frombuffer(data, np.uint8, offset=4), count=(pixels - 1) * bits)
    # Whole numbers below 2^24 are exact in float32, whose product with a vector is the fast one.
    weights = 2.0 ** np.arange(bits - 1, -1, -1, dtype=np.float32)
    weights[0] = -weights[0]
    steps_N[1:] = packed.reshape(-1, bits).astype(np.float32) @ weights
    return np.cumsum(steps_N)


def _take(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
