"""How long a video file should be by its own headers: a copy that was cut short is seen before it is decoded.

FFmpeg decodes what is left of a cut file and says nothing, so a truncated recording would pass as a shorter one. Every
container states the length of its outermost parts. Sources: ISO/IEC 14496-12 (mp4, mov), RFC 8794 and RFC 9559 (mkv,
webm), Microsoft's RIFF and OpenDML (avi).
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_MP4_FIRST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


def declared_bytes(path: Path) -> int | None:
    """The least length in bytes that the headers of an mp4, mov, mkv, webm or avi file call for; None: they do not say.

    A complete file is at least that long. Errors: `OSError` where the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        size = path.stat().st_size
        if head[4:8] in _MP4_FIRST:
            return _mp4(file, size)
        if head[:4] == _EBML.to_bytes(4, "big"):
            return _matroska(file, size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _avi(file, size)
    return None


def _mp4(file: BinaryIO, size: int) -> int | None:
    """Boxes follow one another: 32-bit length and type; a length of 1 means 64 bits follow, 0 means to the end."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:
            return None
        at += length
    return at


def _matroska(file: BinaryIO, size: int) -> int | None:
    """The segment holds everything after the first header; live recordings leave its length open."""
    while file.tell() < size:
        identity, length = _vint(file, keep_marker=True), _vint(file, keep_marker=False)
        if identity is None or length is None:
            return None
        if identity == _SEGMENT:
            return file.tell() + length
        file.seek(length, 1)
    return None


def _vint(file: BinaryIO, keep_marker: bool) -> int | None:
    """An EBML number: the leading zero bits of its first byte count the bytes that follow; all ones: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    raw = int.from_bytes(first + file.read(extra), "big")
    if keep_marker:
        return raw
    ones = (1 << (7 * (extra + 1))) - 1
    return None if raw & ones == ones else raw & ones


def _avi(file: BinaryIO, size: int) -> int | None:
    """One RIFF chunk after another (large files have several); a writer that died leaves a length of 0."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or not length:
            break
        at += 8 + length
    return at or None
