"""Recordings, frame by frame, as the sensor's counts: videos, still images, folders of stills.

Frames come in order, from one pass, and are counted by decoding: what a container says of its length is an estimate,
and seeking is not exact. Sixteen bits stay sixteen (OpenCV's default turns every video into 8-bit BGR). Colour becomes
grey by a named rule:

| rule | recording | frame |
| --- | --- | --- |
| none | one channel | as stored |
| luma | YUV video | the Y plane, untouched (no change of range) |
| equal-channels | colour whose channels are equal | the first channel |
| bt601 | other colour | .299 R + .587 G + .114 B, rounded |
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

# FFmpeg reads it when the first video is opened; "quiet".
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
import cv2

from irstd.data import cptv, packets, raw, sidecar
from irstd.data.containers import declared_bytes
from irstd.data.stills import check_side, is_still, read_still, stills_in
from irstd.errors import InputError

SUFFIXES = frozenset({".mkv", ".mp4", ".avi", ".mov", cptv.SUFFIX, raw.SUFFIX})
DEPTHS = {"uint8": 8, "uint16": 16}
REMEDY = "convert it without loss to FFV1 in an mkv, pixel format gray or gray16le"

# The decoder's pixel formats, by FFmpeg's codes for raw video. Unconverted, OpenCV hands out the first plane with one
# byte a pixel, or GRAY16LE with two: right for grey and planar YUV of 8 bits, rubbish for anything else.
_GREY = (b"Y800", b"Y1\0\x10")
_LUMA = (b"I420", b"IYUV", b"Y42B", b"444P", b"Y41B", b"NV12", b"NV21", b"Y4\x0b\x08", b"Y4\x0a\x08", b"Y4\0\x08")
_COLOUR = (b"BGR\0", b"BGR\x18", b"RGB\0", b"RGB\x18", b"RGBA", b"BGRA", b"PAL\x08", b"G3\0\x08")
# Luma and chroma in turns, and where luma begins. Converted, it would be stretched from 16 to 235 over all of 8 bits; what
# is stored without compression can be had as it lies in the file.
_PACKED = {b"YUY2": 0, b"UYVY": 1}


class DepthError(InputError):
    """The bit depth that was declared does not fit the counts."""


def is_video(path: Path) -> bool:
    """Whether the name is that of a video file."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_recording(path: Path) -> bool:
    """Whether `path` names a video, a still image, or is a folder that holds still images and no video."""
    if path.is_dir():
        return bool(stills_in(path)) and not any(is_video(file) for file in path.iterdir())
    return is_video(path) or is_still(path)


def check_name(name: str) -> None:
    """`InputError` for a name that FFmpeg and JSON cannot take, or that would break the lines in which it is said."""
    if re.search(r"[\x00-\x1f\ud800-\udfff]", name):
        raise InputError(f"{name!a}: this name is no text in UTF-8 of one line: rename it")


def open_recording(
    path: Path, bit_depth: int | None = None, where: str | None = None, threads: int | None = None
) -> Recording:
    """Open a recording and decode its first frame.

    `bit_depth`: of the counts, where the container cannot say it (14 bits in a 16-bit file); default 8 or 16 by dtype.
    `where` names the recording in messages. `threads` of the decoder; default as many as OpenCV has. `InputError` where
    nothing can be decoded, or the depth does not fit.
    """
    return Recording(path, bit_depth, where or path.name, threads)


def frames_at(path: Path, indices: list[int], bit_depth: int | None = None) -> list[np.ndarray]:
    """Frames of a recording at about these indices; see `Recording.at`."""
    return open_recording(path, bit_depth).at(indices)


class Recording:
    """A recording: `fps` (frames a second or None), `height`, `width`, `dtype` ("uint8", "uint16"), `bit_depth`.

    `grey_rule` and `notes` (what was odd) are final once `frames()` has run to its end.
    """

    def __init__(self, path: Path, bit_depth: int | None, where: str, threads: int | None = None) -> None:
        check_name(path.name)
        self.path, self.where = path, where
        self.threads = threads or cv2.getNumThreads()
        self.fps: float | None = None
        self.grey_rule = "none"
        self.notes: list[str] = []
        self._luma: int | None = None
        if raw.is_raw(path) and not path.is_dir():
            said = sidecar.beside(path)
            self._layout, self.fps = _stated(said.raw, path, where), said.fps
            bit_depth = bit_depth or said.bit_depth
        images = self._raw()
        first = next(images, None)
        if first is None:
            raise InputError(f"{where}: no frame can be decoded: copy it again from its source, or {REMEDY}")
        self.height, self.width = first.shape[:2]
        self.dtype = str(first.dtype)
        if self.dtype not in DEPTHS:
            raise InputError(f"{where}: pixels are {self.dtype}: give unsigned counts of 8 or 16 bits")
        self.bit_depth = DEPTHS[self.dtype] if bit_depth is None else bit_depth
        if not 1 <= self.bit_depth <= DEPTHS[self.dtype]:
            raise DepthError(
                f"{where}: bit depth {bit_depth} does not fit its {self.dtype} pixels: "
                f"declare 1 to {DEPTHS[self.dtype]}"
            )
        self._opened: Iterator[np.ndarray] | None = chain([first], images)

    def frames(self) -> Iterator[np.ndarray]:
        """The frames in order: contiguous uint8 or uint16 [height, width] counts, one pass of decoding.

        `InputError` at a frame of another size or dtype, a count beyond the bit depth, or a video that ends early.
        """
        images, self._opened = self._opened or self._raw(), None
        shape, dtype, depth_full = (self.height, self.width), np.dtype(self.dtype), self.bit_depth == DEPTHS[self.dtype]
        for index, image in enumerate(images):
            if image.shape[:2] != shape or image.dtype != dtype:
                raise InputError(
                    f"{self.where}: frame {index} is {image.shape[1]}x{image.shape[0]} {image.dtype}, those before are "
                    f"{self.width}x{self.height} {self.dtype}: a recording has one size; cut it there"
                )
            frame_HW = np.ascontiguousarray(self._grey(image))
            if not depth_full and (highest := int(frame_HW.max())) >= 1 << self.bit_depth:
                raise DepthError(
                    f"{self.where}: frame {index} has a count of {highest}, {self.bit_depth} bits end at "
                    f"{(1 << self.bit_depth) - 1}: declare the right bit depth (--bit-depth, or bit_depth in a sidecar)"
                )
            yield frame_HW

    def _grey(self, image: np.ndarray) -> np.ndarray:
        if image.ndim == 2:
            return image
        channels = image.shape[2]
        if channels == 1:
            return image[:, :, 0]
        if channels not in (3, 4):
            raise InputError(f"{self.where}: {channels} channels: give grey images, or colour with 3 or 4 channels")
        blue = image[:, :, 0]
        if (blue == image[:, :, 1]).all() and (blue == image[:, :, 2]).all():
            if self.grey_rule == "none":
                self.grey_rule = "equal-channels"
            return blue
        self.grey_rule = "bt601"
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY if channels == 3 else cv2.COLOR_BGRA2GRAY)

    def _raw(self) -> Iterator[np.ndarray]:
        if self.path.is_dir():
            for path in stills_in(self.path):
                yield from read_still(path, f"{self.where}/{path.name}")
        elif is_still(self.path):
            yield from read_still(self.path, self.where)
        elif raw.is_raw(self.path):
            yield from raw.read_frames(self.path, self._layout, self.where)
        elif cptv.is_cptv(self.path):
            self.fps = cptv.read_header(self.path, self.where).fps
            yield from cptv.read_frames(self.path, self.where)
        else:
            yield from self._video()

    def _video(self) -> Iterator[np.ndarray]:
        capture = self._opened_video()
        try:
            count = 0
            while True:
                good, image = capture.read()
                if not good:
                    break
                if count == 1:  # not for who only wants the first one
                    self._check_changes()
                yield image if self._luma is None else self._unpacked(image, capture)
                count += 1
            self._check_count(count, capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()

    def _opened_video(self) -> cv2.VideoCapture:
        _check_whole(self.path, self.where)
        capture = _capture(self.path, self.threads, convert=False)
        code = packets.pixel_format(capture)
        if code in _COLOUR:
            capture.release()
            capture = _capture(self.path, self.threads, convert=True)
        elif code in _PACKED:
            capture.release()
            capture, self._luma = _capture(self.path, self.threads, convert=False, stored=True), _PACKED[code]
        try:
            if not capture.isOpened():
                raise InputError(
                    f"{self.where}: cannot be opened as a video: it is damaged, truncated or no video; "
                    "copy it again from its source"
                )
            if code not in (*_GREY, *_LUMA, *_COLOUR, *_PACKED):
                raise InputError(
                    f"{self.where}: its pixel format {code!r} cannot be read without changing the counts: {REMEDY}"
                )
            check_side(
                int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), self.where
            )
        except InputError:
            capture.release()
            raise
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = round(fps, 4) if math.isfinite(fps) and fps > 0 else None
        if code in (*_LUMA, *_PACKED):
            self.grey_rule = "luma"
        return capture

    def _unpacked(self, stored: np.ndarray, capture: cv2.VideoCapture) -> np.ndarray:
        """The luma plane of a frame's bytes as they are stored."""
        shape = tuple(int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        if stored.size != 2 * shape[0] * shape[1]:
            raise InputError(
                f"{self.where}: its packed YUV is compressed: convert it without loss to FFV1 in an mkv, pixel format yuv422p"
            )
        return stored.reshape(*shape, 2)[:, :, self._luma]

    def at(self, indices: list[int]) -> list[np.ndarray]:
        """Frames at about `indices` (ascending), without decoding all before them: to look at, not to measure.

        Seeking in a video is not exact; what lies beyond its end is left out.
        """
        found = []
        if indices[0] == 0:
            found.append(next(self.frames()))  # it is decoded already
            indices = indices[1:]
        if not indices:
            return found
        if self.path.is_dir():
            files = stills_in(self.path)
            return found + [self._grey(next(read_still(files[i], self.where))) for i in indices if i < len(files)]
        if raw.is_raw(self.path):
            return found + list(raw.read_frames(self.path, self._layout, self.where, indices))
        if is_still(self.path) or cptv.is_cptv(self.path) or self._luma is not None:
            wanted = set(indices)
            return found + [self._grey(image) for i, image in enumerate(self._raw()) if i in wanted]
        capture = self._opened_video()
        try:
            for index in indices:
                capture.set(cv2.CAP_PROP_POS_FRAMES, index)
                good, image = capture.read()
                if good:
                    found.append(np.ascontiguousarray(self._grey(image)))
        finally:
            capture.release()
        return found

    def _check_changes(self) -> None:
        for index, new, old in packets.changes(self.path):
            if (new.width, new.height) != (old.width, old.height):
                raise InputError(
                    f"{self.where}: frame {index} is {new.width}x{new.height}, those before are {old.width}x{old.height}: "
                    "a recording has one size; cut it there"
                )
            if (new.code in _LUMA) != (old.code in _LUMA):
                raise InputError(
                    f"{self.where}: frame {index} has the pixel format {new.code!r}, those before {old.code!r}: a recording "
                    "has one depth; cut it there"
                )

    def _check_count(self, count: int, declared: float) -> None:
        missing = declared - count
        if not math.isfinite(missing) or declared <= 0 or not missing:
            return
        # mp4 and mov list every frame; a few at the end may be undecodable in files that play well.
        if self.path.suffix.lower() in (".mp4", ".mov") and missing > 2 and missing > 0.02 * declared:
            raise InputError(
                f"{self.where}: truncated: {count} of {declared:.0f} frames decode: copy it again from its source, "
                "or cut it to its sound part"
            )
        note = f"the container declares {declared:.0f} frames, {count} decode"
        if note not in self.notes:
            self.notes.append(note)


def _stated(layout: raw.Layout | None, path: Path, where: str) -> raw.Layout:
    if layout is None:
        raise InputError(
            f"{where}: headerless, and no sidecar says its layout: write {path.with_suffix(sidecar.ENDING).name} beside "
            "it with raw: {width: 640, height: 512, dtype: uint16}"
        )
    return layout


def _capture(path: Path, threads: int, convert: bool, stored: bool = False) -> cv2.VideoCapture:
    # FFmpeg would decode with a thread a core, whatever OpenCV was told: processes side by side need their share.
    options = [cv2.CAP_PROP_CONVERT_RGB, int(convert), cv2.CAP_PROP_N_THREADS, threads]
    if stored:
        options += [cv2.CAP_PROP_FORMAT, -1]  # the bytes of each frame, not decoded
    return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, options)


def _check_whole(path: Path, where: str) -> None:
    try:
        size = path.stat().st_size
        need = declared_bytes(path)
    except OSError as error:
        raise InputError(
            f"{where}: cannot be read ({error.strerror}): check that it exists and its permissions"
        ) from None
    if not size:
        raise InputError(f"{where}: the file is empty (0 bytes): copy it again from its source, or remove it")
    if need is not None and size < need:
        raise InputError(
            f"{where}: truncated: {size} of {need} bytes are there: copy it again from its source, or remove it"
        )
