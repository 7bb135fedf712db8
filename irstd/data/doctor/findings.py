"""The kinds of findings: what each means, whether it stops `irstd shard`, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from irstd.config import Waiver

SEVERITIES = ("bad", "warn", "note")
"""`bad` stops `irstd shard` and makes `irstd doctor data` end with status 1; `warn` is to be looked at; `note` is to be known."""


@dataclass(frozen=True)
class Kind:
    """`meaning` completes "here ..."; `remedy` is what to do."""

    severity: str
    meaning: str
    remedy: str


KINDS: dict[str, Kind] = {
    "unreadable": Kind(
        "bad",
        "the recording or its labels cannot be read, or are not what was ingested",
        "restore them (dvc checkout data.dvc), or ingest the recording again with --update",
    ),
    "across-splits": Kind(
        "bad",
        "sequences in different splits show the same view; in the splits of a published list that is a warning",
        "ingest them as one group (--group-by), or accept the pair with shard.split.allow_duplicates",
    ),
    "frozen-conflict": Kind(
        "bad",
        "frames are equal byte for byte, and their labels contradict each other",
        "mark the repeated frames as unlabelled (in a CSV: labelled: listed in the sidecar), or cut the recording there",
    ),
    "flat-targets": Kind(
        "bad",
        "a target is labelled in a frame whose pixels are all equal",
        "mark these frames as unlabelled: there is nothing to learn or to find in them",
    ),
    "whole-frame": Kind(
        "bad",
        "a box covers the whole frame, as placeholders do",
        "remove the box, or mark the frame as unlabelled",
    ),
    "duplicate-boxes": Kind(
        "bad",
        "the same box stands twice in a frame, so one of the two is always counted as missed",
        "remove the second one",
    ),
    "shifted-labels": Kind(
        "warn",
        "the targets stand out clearly better at a constant offset from their labels",
        "look at the cut-outs; where they are shifted, correct the labels by the offset (0-based or 1-based, corner or centre)",
    ),
    "dim-targets": Kind(
        "warn",
        "labelled targets do not stand out from their background (SCR below 0.1)",
        "look at the cut-outs: the label may be shifted, late, or of a target out of sight",
    ),
    "jumps": Kind(
        "warn",
        "the target jumps as if frames or labels were not in the order of time",
        "check that frames are numbered in order (2 before 10) and that labels name the right frames",
    ),
    "static-labels": Kind(
        "warn",
        "all frames with targets have the same boxes while the picture moves",
        "check that the labels were not copied from one frame to all",
    ),
    "mask-mismatch": Kind(
        "warn",
        "masks and boxes of a frame do not name the same targets",
        "make them agree: networks learn from masks, moving-target detectors from boxes",
    ),
    "outside": Kind(
        "warn",
        "the centre of a box lies outside the frame",
        "remove the box, or end the track where the target leaves",
    ),
    "tiny": Kind(
        "warn",
        "a target is smaller than one pixel",
        "check the unit of the labels (relative instead of pixels?)",
    ),
    "large": Kind(
        "warn",
        "a target covers more than a tenth of the frame",
        "check the labels; such a target is not small, and the field's methods are not made for it",
    ),
    "frozen": Kind(
        "warn",
        "frames repeat the one before byte for byte",
        "check the grabber; repeats show no motion, and count twice in training and in numbers",
    ),
    "flat": Kind(
        "warn",
        "all pixels of a frame are equal (a closed shutter, a lost frame)",
        "cut them out, or mark them as unlabelled",
    ),
    "saturated": Kind(
        "warn",
        "pixels pile up at the highest count",
        "lower gain or integration time at the next recording; what is cut off cannot be had back",
    ),
    "squeezed": Kind(
        "warn",
        "counts leave out most values between them: fewer bits than the recording declares were stretched over it",
        "ingest the recording as the sensor gave it, if that still exists",
    ),
    "eight-bits": Kind(
        "warn",
        "16-bit pixels hold counts that fit into 8 bits",
        "declare the true depth (--bit-depth 8), or find the recording from before it was cut to 8 bits",
    ),
    "stuck-pixels": Kind(
        "warn",
        "single pixels keep one count while all others change, and stand out as small targets do",
        "replace them by a neighbour before ingest (bad-pixel correction)",
    ),
    "same-recording": Kind(
        "warn",
        "two sets hold the same recording, in different splits",
        "do not train on one of these sets and test on the other",
    ),
    "repeated-view": Kind(
        "note",
        "sequences within one split show the same view and are not in one group",
        "ingest them as one group (--group-by), so that intervals are not too narrow",
    ),
    "unlabelled": Kind(
        "note",
        "a recording has no labels",
        "nothing, if it is meant so: it is kept out of the splits",
    ),
    "border": Kind(
        "note",
        "targets are cut by the border of the frame",
        "nothing, if they are as they should be; filters that pad with zeros see an edge there",
    ),
    "static-area": Kind(
        "note",
        "an area never changes while the rest does: burnt-in text, a logo, a mask",
        "false alarms come from there; lay an ignore box over it",
    ),
    "colour": Kind(
        "note",
        "colour channels differ; grey is made by the rule bt601",
        "nothing, if numbers are compared with the same rule: reading one channel gives other counts",
    ),
    "lossy": Kind(
        "note",
        "the recording was compressed with loss",
        "use the sensor's own file where there is one: blocks and ringing bury targets of a few pixels",
    ),
    "sizes": Kind(
        "note",
        "sequences of a set differ in size",
        "nothing: smaller frames are padded; resized ones change the size of targets by different factors",
    ),
    "no-rate": Kind(
        "note",
        "videos have no frame rate",
        "state fps: in a sidecar; false alarms an hour cannot be computed without",
    ),
    "no-licence": Kind(
        "note",
        "no licence is stated",
        "state it with --licence or in a sidecar before anything is passed on",
    ),
    "no-empty-frames": Kind(
        "note",
        "nearly every labelled frame has a target, so false alarms on empty frames cannot be measured",
        "add recordings without targets, with an empty CSV",
    ),
}
NOT_WAIVABLE = ("unreadable", "across-splits")
"""The first stops whatever reads the recording; the second has a list of its own, `shard.split.allow_duplicates`."""


@dataclass(frozen=True)
class Finding:
    """One finding. `sequence` None: of the whole set; `frame` None: of the whole sequence.

    `count`: how many frames, targets or sequences it holds for. `severity` and `remedy` are those of the kind, unless
    `milder` says otherwise.
    """

    kind: str
    set: str
    sequence: str | None
    frame: int | None
    message: str
    count: int = 1
    milder: str | None = None
    waived: bool = False
    also: tuple[str, int] | None = None  # another sequence of the set, and its frame, that the finding is about as well

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of finding")

    @property
    def severity(self) -> str:
        return self.milder or KINDS[self.kind].severity

    @property
    def remedy(self) -> str:
        return KINDS[self.kind].remedy

    @property
    def place(self) -> str:
        """SET, or SET/SEQUENCE, and the frame."""
        name = self.set if self.sequence is None else f"{self.set}/{self.sequence}"
        return name if self.frame is None else f"{name} frame {self.frame}"

    @property
    def stops(self) -> bool:
        """Whether `irstd shard` stops here, and `irstd doctor data` ends with status 1."""
        return self.severity == "bad" and not self.waived


def many(count: int, what: str) -> str:
    """ "1 frame", "12,000 frames"."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def waive(findings: Iterable[Finding], waivers: Iterable[Waiver]) -> list[Finding]:
    """The findings in the order of their severity, those that `waivers` cover marked as waived."""
    waivers = [*waivers]
    marked = [
        replace(each, waived=each.waived or any(w.covers(each.kind, each.set, each.sequence) for w in waivers))
        for each in findings
    ]
    return sorted(marked, key=lambda each: SEVERITIES.index(each.severity))
