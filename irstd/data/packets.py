"""A change of size or depth in the middle of a video, seen in its packets before they are decoded.

FFmpeg's decoders follow such a change, OpenCV does not: it hands out every frame in the size of the container, cut off or
with whatever lay in memory beyond. Which size a packet has stands in its first bytes: of MJPEG and JPEG-LS in the start of
the frame, of PNG in the header, of H.264 and H.265 in the sequence parameter set (SPS) before a key frame.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

HEAD = 1 << 16  # bytes of a packet that are looked at; radiometric JPEG begins with much else
_SPS_264, _SPS_265 = 7, 33


@dataclass(frozen=True)
class Picture:
    """`width`, `height` in pixels; `code` of the pixel format, see `pixel_format`."""

    width: int
    height: int
    code: bytes


def changes(path: Path) -> Iterator[tuple[int, Picture, Picture]]:
    """(index, picture, the one before) of each packet from which on pictures are others, in the order of decoding.

    Videos of codecs of which it is not known how they say their size are not looked at.
    """
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    try:
        code = letters(capture, cv2.CAP_PROP_FOURCC).lower()
        header, suffix = _CODECS.get(code, (None, ""))
        if header is None:
            return
        before: tuple[bytes, bytes] | None = None
        index = 0
        while True:
            good, packet = capture.read()
            if not good:
                return
            found = header(packet[0, :HEAD].tobytes())
            if found and before and found != before[0]:
                # The headers may differ in other things: what they say of the picture, the decoder knows best.
                old, new = (_picture(each, suffix) for each in (before[1], packet.tobytes()))
                if old != new and old.width and new.width:
                    yield index, new, old
            if found and (not before or found != before[0]):
                before = found, packet.tobytes()
            index += 1
    finally:
        capture.release()


def _picture(packet: bytes, suffix: str) -> Picture:
    """What FFmpeg sees in a packet alone; zeros where it sees nothing."""
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(packet)
        file.flush()
        capture = cv2.VideoCapture(file.name, cv2.CAP_FFMPEG)
        try:
            width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
            return Picture(width, height, pixel_format(capture))
        finally:
            capture.release()


def pixel_format(capture: cv2.VideoCapture) -> bytes:
    """FFmpeg's code of the decoder's pixel format; b"" where nothing is open."""
    return letters(capture, cv2.CAP_PROP_CODEC_PIXEL_FORMAT) if capture.isOpened() else b""


def letters(capture: cv2.VideoCapture, what: int) -> bytes:
    """A code of four letters; OpenCV gives it as a number, signed where the last letter is none of ASCII."""
    return (int(capture.get(what)) & 0xFFFFFFFF).to_bytes(4, "little")


def _jpeg(head: bytes) -> bytes | None:
    """The start of the frame."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", head, at + 1)
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return head[at : at + 9]
        at += 2 + length
    return None


def _png(head: bytes) -> bytes | None:
    return head[12:24] if head[12:16] == b"IHDR" else None


def _h264(head: bytes) -> bytes | None:
    return _unit(head, lambda first: first & 31, _SPS_264, (1, 5))


def _h265(head: bytes) -> bytes | None:
    return _unit(head, lambda first: first >> 1 & 63, _SPS_265, range(32))


def _unit(head: bytes, kind_of: Callable[[int], int], wanted: int, pictures: range | tuple[int, ...]) -> bytes | None:
    """The last unit of the kind `wanted` before those of the kinds `pictures`: the container's may come before the stream's."""
    found = None
    for unit in head.split(b"\0\0\1")[1:]:
        kind = kind_of(unit[0]) if unit else None
        if kind == wanted:
            found = unit.rstrip(b"\0")
        if kind in pictures:
            break
    return found


_CODECS: dict[bytes, tuple[Callable[[bytes], bytes | None], str]] = {
    b"mjpg": (_jpeg, ".jpg"),
    b"mjls": (_jpeg, ".jls"),
    b"mpng": (_png, ".png"),
    **dict.fromkeys((b"h264", b"avc1", b"x264"), (_h264, ".h264")),
    **dict.fromkeys((b"hevc", b"hev1", b"hvc1", b"h265"), (_h265, ".h265")),
}
