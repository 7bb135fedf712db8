"""Checks of marked frames (`irstd.data.marks`) against the labels: what repeats, and what shows nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.doctor.findings import Finding, many
from irstd.data.sequence import Sequence

Runs = Mapping[str, list[list[int]]]  # {"frozen" or "flat": [[first, last], ...]}
APART = 3.0  # px between centres beyond which a hit no longer counts, as in the metrics


def of_marks(sequence: Sequence, annotations: Annotations, marks: Runs) -> list[Finding]:
    """All findings of this file."""
    return [*frozen(sequence, marks), *flat(sequence, marks), *certain(sequence, annotations, marks)]


def certain(sequence: Sequence, annotations: Annotations, marks: Runs) -> list[Finding]:
    """Those that stop `irstd shard`."""
    return [*frozen_conflict(sequence, annotations, marks), *flat_targets(sequence, annotations, marks)]


def frozen(sequence: Sequence, marks: Runs) -> Iterator[Finding]:
    runs = _without(marks.get("frozen", []), marks.get("flat", []))
    if runs:
        count = sum(last - first + 1 for first, last in runs)
        longest = max(last - first + 1 for first, last in runs)
        message = f"{count} of {sequence.frames} frames repeat the one before; {longest} in a row at most"
        yield Finding("frozen", sequence.set, sequence.name, runs[0][0], message, count)


def flat(sequence: Sequence, marks: Runs) -> Iterator[Finding]:
    runs = marks.get("flat", [])
    if runs:
        count = sum(last - first + 1 for first, last in runs)
        yield Finding(
            "flat", sequence.set, sequence.name, runs[0][0], f"{many(count, 'frame')} of one count only", count
        )


def flat_targets(sequence: Sequence, annotations: Annotations, marks: Runs) -> Iterator[Finding]:
    frames = [
        i for first, last in marks.get("flat", []) for i in range(first, last + 1) if annotations.frames[i].has_target
    ]
    if frames:
        message = f"{many(len(frames), 'frame')} without any contrast, labelled with targets"
        yield Finding("flat-targets", sequence.set, sequence.name, frames[0], message, len(frames))


def frozen_conflict(sequence: Sequence, annotations: Annotations, marks: Runs) -> Iterator[Finding]:
    """Repeats whose targets are others than in the frame that they repeat: one of the two is wrong.

    Labels that were interpolated move by less than a hit is wide; that is left alone, and so are frames with ignore boxes:
    a target may lie in one of them.
    """
    found = []
    for first, last in _without(marks.get("frozen", []), marks.get("flat", [])):
        labelled = [f for f in annotations.frames[max(0, first - 1) : last + 1] if f.labelled and not len(f.ignore)]
        found += [frame.index for frame in labelled[1:] if not _same(labelled[0], frame)]
    if found:
        message = f"{many(len(found), 'frame')} equal to the one before byte for byte, with other targets"
        yield Finding("frozen-conflict", sequence.set, sequence.name, found[0], message, len(found))


def _same(one: FrameTargets, other: FrameTargets) -> bool:
    """Whether two frames have as many targets, each within `APART` (or half its own size) of one of the other's."""
    if one.has_target != other.has_target:
        return False
    for a_N2, b_M2, reach_N in (
        (_centres(one), _centres(other), one.boxes[:, 2:].max(axis=1, initial=0)),
        (one.points, other.points, np.zeros(len(one.points))),
    ):
        if len(a_N2) != len(b_M2):
            return False
        if len(a_N2):
            nearest_N = np.hypot(*(a_N2[:, None] - b_M2).transpose(2, 0, 1)).min(axis=1)
            if (nearest_N > np.maximum(APART, reach_N / 2)).any():
                return False
    return True


def _centres(frame: FrameTargets) -> np.ndarray:
    return frame.boxes[:, :2] + frame.boxes[:, 2:] / 2


def _without(runs: list[list[int]], others: list[list[int]]) -> list[list[int]]:
    """The runs that lie in none of the others: flat frames repeat each other, and are flat first of all."""
    return [run for run in runs if not any(a <= run[0] and run[1] <= b for a, b in others)]
