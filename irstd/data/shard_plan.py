"""Which frames go into which sample, and which samples into which tar.

A *stretch* is a run of frames of one sequence in one split. It is cut into *chunks*: runs of key frames, each stored with
the T-1 frames before it (the halo), so that a frame is decoded once and serves every clip that contains it. Tars are cut
where the content says so (a hash of the sequence's name against its size), so adding a sequence moves the borders next to
it and leaves the other tars as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from irstd.data.sequence import Sequence
from irstd.files import canonical_json, sha256_text

TARGET_BYTES = 64 * 2**20  # raw counts in one tar, on average


@dataclass(frozen=True)
class Stretch:
    """Frames [start, stop) of a sequence, given to one split. A clip never reaches before `start`."""

    sequence: Sequence
    split: str
    start: int
    stop: int

    @property
    def label(self) -> str:
        """Name in the manifest's list of a split: the sequence, and the range where it is a part of it."""
        whole = self.start == 0 and self.stop == self.sequence.frames
        return self.sequence.name if whole else f"{self.sequence.name}[{self.start}:{self.stop}]"

    @property
    def bytes(self) -> int:
        return (
            (self.stop - self.start) * self.sequence.height * self.sequence.width * (1 + (self.sequence.bit_depth > 8))
        )


@dataclass(frozen=True)
class Chunk:
    """One sample of a shard: key frames [first, stop) and `halo` frames before them."""

    stretch: Stretch
    first: int
    stop: int
    halo: int

    @property
    def key(self) -> str:
        """Name in the tar; no dots, which WebDataset would read as the start of a member's name."""
        return f"{self.stretch.sequence.set}/{self.stretch.sequence.name}/{self.first:06d}"

    def inputs(self, build: dict) -> str:
        """Hash of all that decides this sample's bytes; equal inputs need no second build."""
        s = self.stretch.sequence
        return sha256_text(
            canonical_json(
                [build, s.set, s.name, s.source_sha256, s.annotations_sha256, s.bit_depth, s.intensity, s.grey_rule]
                + [self.stretch.start, self.first, self.stop, self.halo]
            )
        )


def chunks(stretch: Stretch, frames: int, length: int) -> list[Chunk]:
    """Cut a stretch into chunks of `length` key frames with halos for clips of `frames` frames."""
    return [
        Chunk(stretch, first, min(first + length, stretch.stop), min(frames - 1, first - stretch.start))
        for first in range(stretch.start, stretch.stop, length)
    ]


def tars(stretches: Iterable[Stretch], frames: int, length: int) -> list[list[Chunk]]:
    """Group the chunks of one split into tars. `stretches` in the order of the split."""
    found: list[list[Chunk]] = []
    current: list[Chunk] = []
    for stretch in stretches:
        pieces = chunks(stretch, frames, length)
        if stretch.bytes >= TARGET_BYTES:  # a long sequence has tars of its own
            found += [current] if current else []
            current = []
            each = max(1, len(pieces) * TARGET_BYTES // stretch.bytes)
            found += [pieces[i : i + each] for i in range(0, len(pieces), each)]
            continue
        if current and _cut(stretch):
            found.append(current)
            current = []
        current += pieces
    return found + ([current] if current else [])


def _cut(stretch: Stretch) -> bool:
    """Whether a new tar starts before this stretch: with a probability of its share of a tar, drawn from its name."""
    name = f"{stretch.sequence.set}/{stretch.label}".encode()
    draw = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64
    return draw < stretch.bytes / TARGET_BYTES
