"""Findings of `irstd doctor data` that someone accepts by name: `shard.waive`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from irstd.errors import nearest

# What each of them means, and what to do: irstd/data/doctor/findings.py and docs/DOCTOR.md.
WAIVABLE = (
    "border",
    "colour",
    "dim-targets",
    "duplicate-boxes",
    "eight-bits",
    "flat",
    "flat-targets",
    "frozen",
    "frozen-conflict",
    "jumps",
    "large",
    "lossy",
    "mask-mismatch",
    "no-empty-frames",
    "no-licence",
    "no-rate",
    "outside",
    "repeated-view",
    "same-recording",
    "saturated",
    "shifted-labels",
    "sizes",
    "squeezed",
    "static-area",
    "static-labels",
    "stuck-pixels",
    "tiny",
    "unlabelled",
    "whole-frame",
)


@dataclass(frozen=True)
class Waiver:
    """A kind of finding, in all sets, in one set, or in one sequence."""

    kind: str
    set: str | None = None
    sequence: str | None = None

    @classmethod
    def parse(cls, text: str) -> Waiver:
        """From KIND, SET:KIND or SET/SEQUENCE:KIND; `ValueError` with the nearest name where the kind is not known."""
        where, colon, kind = text.rpartition(":")
        if kind not in WAIVABLE:
            raise ValueError(f"{text!r}: {kind!r} is no kind of finding{nearest(kind, WAIVABLE)}; see docs/DOCTOR.md")
        match = re.fullmatch(r"([a-z0-9_-]+)(?:/([a-z0-9_-]+))?", where) if colon else None
        if colon and not match:
            raise ValueError(f"{text!r}: write KIND, SET:KIND or SET/SEQUENCE:KIND")
        return cls(kind, *match.groups()) if match else cls(kind)

    def covers(self, kind: str, set: str, sequence: str | None) -> bool:
        """Whether a finding of `kind` there is accepted; `sequence` None for one of the whole set."""
        return self.kind == kind and self.set in (None, set) and self.sequence in (None, sequence)
