"""Frames that a sensor did not take: repeats of the one before (frozen), and frames of one count (a closed shutter).

They are found in the pass that decodes a recording anyway. Whole frames are compared only where every eighth line is
equal: of a sound recording that is seldom, even where a codec repeats what stands still.
"""

from __future__ import annotations

import numpy as np

FROZEN, FLAT = "frozen", "flat"
EVERY = 8  # lines
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
        self._lines = b""

    def add(self, frame_HW: np.ndarray) -> None:
        """Look at the next frame, uint8 or uint16 [H, W]. It is kept until the next one comes: leave it as it is."""
        lines = frame_HW[::EVERY].tobytes()
        if lines == self._lines and (frame_HW == self._before_HW).all():
            self._extend(FROZEN)
        pixel = lines[: frame_HW.itemsize]
        if lines[: len(pixel) * frame_HW.shape[1]] == pixel * frame_HW.shape[1] and (frame_HW == frame_HW[0, 0]).all():
            self._extend(FLAT)
        self._before_HW, self._lines = frame_HW, lines
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


def described(marks: Marks, most: int = 3) -> str:
    """One line: "all pixels of frame 4 are equal (flat); frames 120-133 repeat the one before (frozen)"."""
    parts = []
    for kind, runs in sorted(marks.items()):
        shown = [f"{first}-{last}" if last > first else str(first) for first, last in runs[:most]]
        more = sum(last - first + 1 for first, last in runs[most:])
        many = len(runs) > 1 or runs[0][1] > runs[0][0]
        text = ", ".join(shown) + (f" and {more} more" if more else "")
        parts.append(f"{_SAYS[kind][many].format(text)} ({kind})")
    return "; ".join(parts)
