"""Checks of a recording's counts: range, levels, saturation, pixels that never change, loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from irstd.data import packets
from irstd.data.doctor.findings import Finding, many
from irstd.data.sequence import Sequence
from irstd.data.stills import is_still, read_still

LINES = 4  # every fourth line is counted: enough for levels and shares
SATURATED = 1e-3  # share of the pixels at the highest count
PILE = 4.0  # times as many as at the next lower counts together
NEXT = 3  # of those
LEVELS = 32  # distinct counts at least, before their spacing means anything
USED = 0.5  # share of the counts between the percentiles that occur; a histogram stretched by two has half
STILL_FRAMES = 30  # before a pixel that never changes is odd
MOVES = 4  # counts that an ordinary pixel varies by
STUCK = 4  # px, the largest area of a defect
STANDS_OUT = 6.0  # times the deviation around a stuck pixel
AREA = 30  # px, the least of a burnt-in text
LOSSY_SUFFIXES = {".jpg", ".jpeg"}
# FFmpeg's codes of codecs that lose nothing, in capitals.
LOSSLESS = {
    "FFV1",
    "HFYU",
    "FFVH",
    "MJLS",
    "PNG ",
    "MPNG",
    "RAW ",
    "Y800",
    "GREY",
    "Y16 ",
    "DIB ",
    "BGR ",
    "I420",
    "YV12",
    "\0\0\0\0",
}


class PixelStatistics:
    """What is gathered of a recording's pixels; `add` all frames, uint8 or uint16 [H, W]."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.counts = np.zeros(256 if sequence.dtype == "uint8" else 65536, np.int64)
        self.frames = 0
        self.top = sequence.intensity["max"]
        self.worst = 0, 0  # pixels at the highest count among the counted lines, frame
        self.low_HW: np.ndarray | None = None
        self.high_HW: np.ndarray | None = None

    def add(self, frame_HW: np.ndarray) -> None:
        lines_hW = np.ascontiguousarray(frame_HW[:: min(LINES, -(-frame_HW.shape[0] // 16))])
        if frame_HW.dtype == np.uint8:
            self.counts += cv2.calcHist([lines_hW], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        else:
            found = np.bincount(lines_hW.ravel())
            self.counts[: len(found)] += found
        at_top = cv2.countNonZero(cv2.compare(lines_hW, float(self.top), cv2.CMP_EQ))
        if at_top > self.worst[0]:
            self.worst = at_top, self.frames
        if self.low_HW is None or self.high_HW is None:
            self.low_HW, self.high_HW = frame_HW.copy(), frame_HW.copy()
        else:
            cv2.min(self.low_HW, frame_HW, self.low_HW)
            cv2.max(self.high_HW, frame_HW, self.high_HW)
        self.frames += 1

    def moves(self) -> bool:
        """Whether the picture changes by more than a few counts anywhere near its middle pixel."""
        return self.high_HW is not None and bool(np.median(self.high_HW - self.low_HW) >= MOVES)


def of_pixels(sequence: Sequence, found: PixelStatistics) -> list[Finding]:
    return [finding for check in CHECKS for finding in check(sequence, found)]


def saturated(sequence: Sequence, found: PixelStatistics) -> Iterator[Finding]:
    top, total = found.top, int(found.counts.sum())
    if not total or top <= sequence.intensity["min"]:
        return
    share = found.counts[top] / total
    below = found.counts[max(0, top - NEXT) : top].sum()
    if share >= SATURATED and found.counts[top] >= PILE * below:
        message = f"{share:.2%} of the pixels are at the highest count, {top}"
        yield Finding("saturated", sequence.set, sequence.name, found.worst[1], message, found.frames)


def squeezed(sequence: Sequence, found: PixelStatistics) -> Iterator[Finding]:
    """Counts that all keep one distance, or of which most between the percentiles do not occur."""
    used = np.flatnonzero(found.counts)
    if len(used) < LEVELS:
        return
    step = int(np.gcd.reduce(np.diff(used)))
    low, high = (int(sequence.intensity[name]) for name in ("p005", "p995"))
    between = used[(used >= low) & (used <= high)]
    share = len(between) / (high - low + 1)
    if step > 1:
        message = (
            f"all counts keep a distance of {step} or a multiple of it: {len(used)} levels from {used[0]} to {used[-1]}"
        )
    elif len(between) >= LEVELS and len(used) <= 256 and share <= USED:
        message = f"only {len(between)} of the {high - low + 1} counts from {low} to {high} occur"
    else:
        return
    yield Finding("squeezed", sequence.set, sequence.name, 0, message, found.frames)


def eight_bits(sequence: Sequence, found: PixelStatistics) -> Iterator[Finding]:
    if sequence.bit_depth > 8 and sequence.intensity["max"] < 256:
        message = f"declared {sequence.bit_depth} bits, the highest count is {sequence.intensity['max']}"
        yield Finding("eight-bits", sequence.set, sequence.name, 0, message, found.frames)


def still_pixels(sequence: Sequence, found: PixelStatistics) -> Iterator[Finding]:
    """Pixels that keep one count: small ones that stand out are stuck, large areas are burnt in."""
    if found.frames < STILL_FRAMES or found.low_HW is None or found.high_HW is None or not found.moves():
        return
    still_HW = (found.low_HW == found.high_HW).astype(np.uint8)
    if not still_HW.any():
        return
    _, labels_HW, stats_N5, centroids_N2 = cv2.connectedComponentsWithStats(still_HW, connectivity=8)
    areas_N = stats_N5[1:, cv2.CC_STAT_AREA]
    burnt = int(areas_N[areas_N >= AREA].sum())
    if burnt:
        message = f"{many(burnt, 'pixel')} without any change, in {many(int((areas_N >= AREA).sum()), 'area')}"
        yield Finding("static-area", sequence.set, sequence.name, 0, message, burnt)
    stuck = []
    middle_HW = cv2.medianBlur(found.low_HW, 3).astype(np.float32)
    for number in np.flatnonzero(areas_N <= STUCK) + 1:
        x, y, w, h, _ = stats_N5[number].tolist()
        around = np.s_[max(0, y - 8) : y + h + 8, max(0, x - 8) : x + w + 8]
        own = float(found.low_HW[labels_HW == number].mean())
        if abs(own - float(middle_HW[around].mean())) > STANDS_OUT * max(1.0, float(middle_HW[around].std())):
            stuck.append(centroids_N2[number])
    if stuck:
        x, y = stuck[0]
        message = f"{many(len(stuck), 'pixel')} without any change, the first at x {x:.0f}, y {y:.0f}"
        yield Finding("stuck-pixels", sequence.set, sequence.name, 0, message, len(stuck))


def lossy(sequence: Sequence, found: PixelStatistics) -> Iterator[Finding]:
    codec = codec_of(sequence)
    if codec:
        yield Finding("lossy", sequence.set, sequence.name, None, f"compressed with loss: {codec}", sequence.frames)


def colour(sequence: Sequence, found: PixelStatistics) -> Iterator[Finding]:
    """Colour whose channels differ; of images also how far, in the first one."""
    if sequence.grey_rule != "bt601":
        return
    path, message = sequence.folder / sequence.source[0], "its colour channels differ"
    if is_still(path):
        channels = cv2.split(next(read_still(path)))[:3]
        spread_HW = np.maximum(*(cv2.absdiff(channels[0], other) for other in channels[1:]))
        spread_HW = np.maximum(spread_HW, cv2.absdiff(channels[1], channels[2]))
        message += f" in {np.mean(spread_HW > 0):.0%} of the pixels of its first image, by up to {spread_HW.max()}"
    yield Finding("colour", sequence.set, sequence.name, 0, message, sequence.frames)


def codec_of(sequence: Sequence) -> str | None:
    """The name of a codec that loses counts; None for those that do not, and for what is no compressed video.

    H.264 and H.265 can be told to lose nothing, which hardly any camera does: they count as lossy.
    """
    path = Path(sequence.source[0])
    suffix = path.suffix.lower()
    if suffix in LOSSY_SUFFIXES:
        return "JPEG"
    if suffix not in (".mkv", ".mp4", ".avi", ".mov"):
        return None
    capture = cv2.VideoCapture(str(sequence.folder / path), cv2.CAP_FFMPEG)
    try:
        code = packets.letters(capture, cv2.CAP_PROP_FOURCC).decode("latin-1")
    finally:
        capture.release()
    return None if code.upper() in LOSSLESS else code.strip("\0 ") or None


CHECKS = (saturated, squeezed, eight_bits, still_pixels, lossy, colour)
