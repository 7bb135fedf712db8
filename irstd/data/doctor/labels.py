"""Checks of a sequence's labels by themselves: no frame is decoded.

Each check is a function (sequence, annotations) -> findings. One finding holds for a whole sequence: it names the first frame
and says how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.doctor.contrast import targets_in
from irstd.data.doctor.findings import Finding, many
from irstd.data.sequence import Sequence

Check = Callable[[Sequence, Annotations], Iterator[Finding]]
PLACEHOLDER = 0.95  # share of the frame that a box of "somewhere in here" covers
LARGE = 0.1  # share of the frame
ONE_PIXEL = 1.0  # px^2
STATIC_FRAMES = 10  # as many frames with targets at least before equal labels are odd
JUMP, JUMP_TIMES = 20.0, 8.0  # px, and times the median step: what no target does from frame to frame
JUMP_SHARE = 0.05  # of the steps; fewer are cuts in the scene or a change of target
TRACK = 10  # steps of a single target at least


def of_labels(sequence: Sequence, annotations: Annotations) -> list[Finding]:
    """All findings of this file."""
    return [finding for check in CHECKS for finding in check(sequence, annotations)]


def _first(kind: str, sequence: Sequence, frames: list[int], message: str) -> Iterator[Finding]:
    """One finding of the first of `frames`, if there is any; `message` says {frames} where their number goes."""
    if frames:
        count = len(frames)
        yield Finding(kind, sequence.set, sequence.name, frames[0], message.format(frames=many(count, "frame")), count)


def unlabelled(sequence: Sequence, annotations: Annotations) -> Iterator[Finding]:
    if not sequence.labelled_frames:
        yield Finding("unlabelled", sequence.set, sequence.name, None, "no frame is labelled", sequence.frames)


def duplicate_boxes(sequence: Sequence, annotations: Annotations) -> Iterator[Finding]:
    found = [f.index for f in annotations.frames if len(f.boxes) > 1 and len(np.unique(f.boxes, axis=0)) < len(f.boxes)]
    yield from _first("duplicate-boxes", sequence, found, "{frames} with a box twice")


def whole_frame(sequence: Sequence, annotations: Annotations) -> Iterator[Finding]:
    yield from _first(
        "whole-frame",
        sequence,
        _frames_with(sequence, annotations, lambda share, _: share >= PLACEHOLDER),
        "{frames} with a box as large as the frame",
    )


def large(sequence: Sequence, annotations: Annotations) -> Iterator[Finding]:
    yield from _first(
        "large",
        sequence,
        _frames_with(sequence, annotations, lambda share, _: (share > LARGE) & (share < PLACEHOLDER)),
        f"{{frames}} with a target of more than {LARGE:.0%} of the frame",
    )


def tiny(sequence: Sequence, annotations: Annotations) -> Iterator[Finding]:
    found = [f.index for f in annotations.frames if len(f.boxes) and (f.boxes[:, 2] * f.boxes[:, 3] < ONE_PIXEL).any()]
    yield from _first("tiny", sequence, found, "{frames} with a box of less than one square pixel")


def outside(sequence: Sequence, annotations: Annotations) -> Iterator[Finding]:
    def beyond(_: np.ndarray, boxes_N4: np.ndarray) -> np.ndarray:
        centres_N2 = boxes_N4[:, :2] + boxes_N4[:, 2:] / 2
        return ((centres_N2 < 0) | (centres_N2 > (sequence.width, sequence.height))).any(axis=1)

    found = _frames_with(sequence, annotations, beyond)
    yield from _first("outside", sequence, found, "{frames} with a box whose centre lies outside the frame")


def border(sequence: Sequence, annotations: Annotations) -> Iterator[Finding]:
    def touches(_: np.ndarray, boxes_N4: np.ndarray) -> np.ndarray:
        ends_N2 = boxes_N4[:, :2] + boxes_N4[:, 2:]
        return (boxes_N4[:, :2] <= 0).any(axis=1) | (ends_N2 >= (sequence.width, sequence.height)).any(axis=1)

    found = _frames_with(sequence, annotations, touches)
    yield from _first("border", sequence, found, "{frames} with a target that reaches the border")


def _frames_with(
    sequence: Sequence, annotations: Annotations, odd: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> list[int]:
    """Frames of which `odd`(share of the frame [N], boxes [N, 4]) holds for a box."""
    pixels = sequence.height * sequence.width
    return [f.index for f in annotations.frames if len(f.boxes) and odd(_visible(f, sequence) / pixels, f.boxes).any()]


def _visible(frame: FrameTargets, sequence: Sequence) -> np.ndarray:
    """[N]: area in px^2 of the part of each box that lies in the frame."""
    starts_N2 = np.maximum(frame.boxes[:, :2], 0)
    ends_N2 = np.minimum(frame.boxes[:, :2] + frame.boxes[:, 2:], (sequence.width, sequence.height))
    return np.clip(ends_N2 - starts_N2, 0, None).prod(axis=1)


def static_labels(sequence: Sequence, annotations: Annotations) -> Iterator[Finding]:
    """Whether the picture moves is for the caller to see: `irstd.data.doctor.survey` drops it for a still scene."""
    boxed = [f for f in annotations.frames if len(f.boxes)]
    if len(boxed) >= STATIC_FRAMES and all(np.array_equal(f.boxes, boxed[0].boxes) for f in boxed):
        message = f"all {len(boxed)} frames with targets have the same boxes"
        yield Finding("static-labels", sequence.set, sequence.name, boxed[0].index, message, len(boxed))


def jumps(sequence: Sequence, annotations: Annotations) -> Iterator[Finding]:
    """Steps of a single target, from frame to frame, that are out of all proportion to the others."""
    places = {f.index: f.boxes[0, :2] + f.boxes[0, 2:] / 2 for f in annotations.frames if len(f.boxes) == 1}
    places |= {f.index: f.points[0] for f in annotations.frames if len(f.points) == 1 and not len(f.boxes)}
    later = [index for index in places if index - 1 in places]
    if len(later) < TRACK:
        return
    steps_N = np.array([np.hypot(*(places[index] - places[index - 1])) for index in later])
    far_N = steps_N > max(JUMP, JUMP_TIMES * float(np.median(steps_N)))
    if far_N.mean() > JUMP_SHARE:
        index = later[int(far_N.argmax())]
        message = (
            f"the target jumps by {steps_N[far_N].min():.0f} px or more in {int(far_N.sum())} of {len(later)} steps "
            f"(median step {np.median(steps_N):.1f} px)"
        )
        yield Finding("jumps", sequence.set, sequence.name, index, message, int(far_N.sum()))


def mask_mismatch(sequence: Sequence, annotations: Annotations) -> Iterator[Finding]:
    found = []
    for frame in annotations.frames if annotations.masks else ():
        if frame.mask is None or not len(frame.boxes):
            continue
        parts = targets_in(frame, sequence.height, sequence.width)
        edges_M4 = np.array([(t.left, t.top, t.right, t.bottom) for t in parts if t.mask_hw is not None]).reshape(-1, 4)
        centres_M2 = (edges_M4[:, :2] + edges_M4[:, 2:]) / 2
        inside_MN = (
            (centres_M2[:, None] >= frame.boxes[:, :2])
            & (centres_M2[:, None] <= frame.boxes[:, :2] + frame.boxes[:, 2:])
        ).all(axis=2)
        if not inside_MN.any(axis=0).all() or not inside_MN.any(axis=1).all():
            found.append(frame.index)
    yield from _first(
        "mask-mismatch", sequence, found, "{frames} in which a box has no part of the mask, or a part no box"
    )


CHECKS: tuple[Check, ...] = (
    unlabelled,
    duplicate_boxes,
    whole_frame,
    large,
    tiny,
    outside,
    border,
    static_labels,
    jumps,
    mask_mismatch,
)
CERTAIN: tuple[Check, ...] = (duplicate_boxes, whole_frame)
"""Those that stop `irstd shard`: they cannot be wrong, and cost nothing but reading the labels."""
