"""Frames that a sensor did not take: repeats of the one before (frozen), and frames of one count (a closed shutter).

They are found in the pass that decodes a recording anyway. A frame is compared with the one before from its middle line on;
whole frames are compared only where that line is equal, so sound recordings pay for a line a frame.
"""

from __future__ import annotations

import numpy as np

FROZEN, FLAT = "frozen", "flat"
_SAYS = {
    FROZEN: ("frame {} repeats the one before", "frames {} repeat the one before"),
    FLAT: ("all pixels of frame {} are equal", "all pixels of frames {} are equal"),
}

Marks = dict[str, list[list[int]]]
"""{"frozen" or "flat": runs [first, last] of frame indices, both included}; only what there is."""


class FrameMarks:
    """`add` the frames of a recording in order, then ask what was `found`."""

    def __init__(self) -> None:
        self._runs: Marks = {FROZEN: [], FLAT: []}
        self._count = 0
        self._before_HW: np.ndarray | None = None

    def add(self, frame_HW: np.ndarray) -> None:
        """Look at the next frame, uint8 or uint16 [H, W]. It is kept until the next one comes: leave it as it is."""
        if self._before_HW is not None and _equal(frame_HW, self._before_HW):
            self._extend(FROZEN)
        if _equal(frame_HW, frame_HW[:1, :1]):
            self._extend(FLAT)
        self._before_HW = frame_HW
        self._count += 1

    def found(self) -> Marks:
        """`frozen`: the frame equals the one before byte for byte (the run holds the repeats); `flat`: one count only."""
        return {kind: [list(run) for run in runs] for kind, runs in self._runs.items() if runs}

    def _extend(self, kind: str) -> None:
        runs = self._runs[kind]
        if runs and runs[-1][1] == self._count - 1:
            runs[-1][1] = self._count
        else:
            runs.append([self._count, self._count])


def _equal(frame_HW: np.ndarray, other_HW: np.ndarray) -> bool:
    """Whether all pixels are equal; `other_HW` has the same size, or is one pixel."""
    middle = frame_HW.shape[0] // 2
    line_W = other_HW[middle] if len(other_HW) > 1 else other_HW[0]
    return bool((frame_HW[middle] == line_W).all() and (frame_HW == other_HW).all())


def described(marks: Marks, most: int = 3) -> str:
    """One line: "frames 120-133 repeat the one before (frozen); all pixels of frame 4 are equal (flat)"."""
    parts = []
    for kind, runs in marks.items():
        shown = [f"{first}-{last}" if last > first else str(first) for first, last in runs[:most]]
        more = sum(last - first + 1 for first, last in runs[most:])
        many = len(runs) > 1 or runs[0][1] > runs[0][0]
        text = ", ".join(shown) + (f" and {more} more" if more else "")
        parts.append(f"{_SAYS[kind][many].format(text)} ({kind})")
    return "; ".join(parts)
