"""One pass over a recording: its frames are decoded once, and everything that is asked of them is answered on the way.

Memory: a few frames and pictures, and a few numbers a target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from irstd.data import appearance
from irstd.data.annotations import Annotations
from irstd.data.appearance import View
from irstd.data.doctor import labels, repeats
from irstd.data.doctor.contrast import ContrastMeter, Offsets, targets_in
from irstd.data.doctor.findings import Finding, many
from irstd.data.doctor.integrity import altered
from irstd.data.doctor.pictures import Drawn, FramePictures, Picture, cut_out, drawn_of, spare
from irstd.data.doctor.pixels import PixelStatistics, of_pixels
from irstd.data.marks import FrameMarks
from irstd.data.sequence import Sequence
from irstd.errors import IrstdError

DIM = 0.1  # SCR below which nobody sees a target
CUTS = 8  # cut-outs of a sequence at the most
CUT_SHARE = 0.35  # of the allowance
Tick = Callable[[], None]


@dataclass(eq=False)
class Survey:
    """What was found in one sequence.

    `sizes` [N] px (nan for points), `scr` [N]; frames by kind of label; `views` and `spares`: {frame: ...} of the first, a
    middle and the last.
    """

    sequence: Sequence
    findings: list[Finding]
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    scr: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    empty: int = 0
    unlabelled: int = 0
    ignored: int = 0
    offsets: Offsets = field(default_factory=Offsets)
    pictures: list[Picture] = field(default_factory=list)
    cuts: list[Picture] = field(default_factory=list)
    views: dict[int, View] = field(default_factory=dict)
    spares: dict[int, Picture] = field(default_factory=dict)

    def picture(self, frame: int) -> Picture | None:
        """The picture of a frame, where there is one."""
        return next((p for p in self.pictures if p.frame == frame), None)


def survey(sequence: Sequence, frames: int, allowance: int, tick: Tick | None = None) -> Survey:
    """Decode `sequence` and look at all of it; `frames` pictures of it, and those of findings, in about `allowance` bytes.

    `tick` is called after each frame. A recording or labels that cannot be read are a finding, what was seen until then stays.
    """
    wrong = altered(sequence)
    findings = [_unreadable(sequence, wrong)] if wrong else []
    try:
        annotations = sequence.annotations()
        findings += labels.of_labels(sequence, annotations)
    except IrstdError as error:
        findings = findings or [_unreadable(sequence, str(error))]
        annotations = Annotations.build({}, sequence.frames, sequence.name, others_labelled=False)
    return _Pass(sequence, annotations, frames, allowance).run(tick, findings)


def _unreadable(sequence: Sequence, why: str) -> Finding:
    return Finding("unreadable", sequence.set, sequence.name, None, why)


class _Pass:
    """The state of one pass."""

    def __init__(self, sequence: Sequence, annotations: Annotations, frames: int, allowance: int) -> None:
        self.sequence, self.annotations = sequence, annotations
        self.sheet = _spread([f.index for f in annotations.frames if f.has_target] or [*range(sequence.frames)], frames)
        self.viewed = {0, sequence.frames // 2, sequence.frames - 1}
        self.allowance = allowance
        self.pictures = FramePictures(int(allowance * (1 - CUT_SHARE)))
        self.pixels, self.marks = PixelStatistics(sequence), FrameMarks()
        self.meter, self.offsets = ContrastMeter(sequence.height, sequence.width), Offsets()
        self.sizes: list[float] = []
        self.scr: list[float] = []
        self.cuts: list[Picture] = []
        self.views: dict[int, View] = {}
        self.spares: dict[int, Picture] = {}
        self.dimmest: tuple[float, int, np.ndarray, Drawn] | None = None
        self.dim = 0

    def run(self, tick: Tick | None, findings: list[Finding]) -> Survey:
        sequence, frames = self.sequence, self.annotations.frames
        wanted = {*self.sheet} | {f.frame for f in findings if f.frame is not None}
        try:
            for index, frame_HW in enumerate(sequence.read()):
                self._look(index, frame_HW, index in wanted)
                if tick:
                    tick()
        except IrstdError as error:
            if all(finding.kind != "unreadable" for finding in findings):
                findings.append(_unreadable(sequence, str(error)))
        findings = [f for f in findings if f.kind != "static-labels" or self.pixels.moves()]
        findings += repeats.of_marks(sequence, self.annotations, self.marks.found())
        if self.pixels.frames:
            findings += of_pixels(sequence, self.pixels)
        findings += [*self._dim_targets(), *shifted(sequence.set, sequence.name, self.offsets, self.sheet[:1])]
        self._show(findings)
        return Survey(
            sequence,
            findings,
            np.array(self.sizes, np.float32),
            np.array(self.scr, np.float32),
            sum(f.labelled and not f.has_target for f in frames),
            sum(not f.labelled for f in frames),
            sum(bool(len(f.ignore)) for f in frames),
            self.offsets,
            self.pictures.encoded(sequence.height, sequence.width),
            self.cuts,
            self.views,
            self.spares,
        )

    def _look(self, index: int, frame_HW: np.ndarray, wanted: bool) -> None:
        self.pixels.add(frame_HW)
        self.marks.add(frame_HW)
        truth = self.annotations.frames[index]
        if index in self.viewed:
            self.views[index] = appearance.view(frame_HW)
            self.spares[index] = spare(index, frame_HW, drawn_of(truth, []))
        if not truth.has_target:
            if wanted:
                self.pictures.keep(index, frame_HW, Drawn(ignore=truth.ignore.tolist()))
            return
        targets = targets_in(truth, self.sequence.height, self.sequence.width)
        scr = self.meter.measure(frame_HW, targets, truth.ignore, self.offsets)
        self.scr += scr
        self.sizes += [target.size for target in targets]
        least = min((value for value in scr if value == value), default=1.0)
        self.dim += sum(value < DIM for value in scr)
        dimmest = least < DIM and (self.dimmest is None or least < self.dimmest[0])
        if wanted or dimmest:
            drawn = drawn_of(truth, targets)
            if wanted:
                self.pictures.keep(index, frame_HW, drawn)
            if dimmest:
                self.dimmest = least, index, frame_HW.copy(), drawn
            order = sorted(range(len(targets)), key=scr.__getitem__)[:2]
            if len(self.cuts) < CUTS or dimmest:
                for i in order[: 1 if dimmest else 2]:
                    caption = f"{_said(targets[i].size, scr[i])}"
                    self.cuts.append(cut_out(index, frame_HW, targets[i], drawn, caption))
                if dimmest and not wanted:  # only the dimmest of all is shown
                    self.cuts = [c for c in self.cuts if c.frame in (index, *self.sheet)]

    def _dim_targets(self) -> list[Finding]:
        if self.dimmest is None:
            return []
        least, index, frame_HW, drawn = self.dimmest
        self.pictures.keep(index, frame_HW, drawn)
        message = f"{many(self.dim, 'target')} of {len(self.scr):,} with an SCR below {DIM}, the least {least:.2f}"
        return [Finding("dim-targets", self.sequence.set, self.sequence.name, index, message, self.dim)]

    def _show(self, findings: list[Finding]) -> None:
        """Every finding that names a frame has its picture; a frame that was let pass is decoded again."""
        missing = {f.frame for f in findings if f.frame is not None} - {*self.pictures.kept}
        if not missing:
            return
        try:
            for index, frame_HW in enumerate(self.sequence.read()):
                if index in missing:
                    truth = self.annotations.frames[index]
                    targets = targets_in(truth, self.sequence.height, self.sequence.width)
                    self.pictures.keep(index, frame_HW, drawn_of(truth, targets))
                if index == max(missing):
                    return
        except IrstdError:  # said already
            return


def shifted(set: str, name: str | None, offsets: Offsets, frames: list[int]) -> list[Finding]:
    """What `offsets` say of the labels of a sequence, or of a whole set."""
    found = offsets.found()
    if not found:
        return []
    x, y, gain, share = found
    message = (
        f"{share:.0%} of {many(offsets.count, 'target')} stand out better {_offset(x, y)} of the label; "
        f"contrast at the label is lower by {gain:.0%} of the best"
    )
    return [Finding("shifted-labels", set, name, frames[0] if frames else None, message, offsets.count)]


def _offset(x: int, y: int) -> str:
    parts = [f"{abs(x)} px {'right' if x > 0 else 'left'}"] if x else []
    parts += [f"{abs(y)} px {'below' if y > 0 else 'above'}"] if y else []
    return " and ".join(parts)


def _said(size: float, scr: float) -> str:
    area = "" if size != size else f"{size:.0f} px, " if size >= 10 else f"{size:.2g} px, "
    return f"{area}SCR {scr:.1f}" if scr == scr and scr != float("inf") else f"{area}SCR -"


def _spread(indices: list[int], count: int) -> list[int]:
    """`count` of the indices, evenly over all of them."""
    if len(indices) <= count:
        return indices
    return [indices[round(i * (len(indices) - 1) / max(1, count - 1))] for i in range(count)]
