"""What every report shares: frames by sequence and group, parts that add up, the files."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from irstd.errors import InputError
from irstd.files import write_atomic, write_json, writing
from irstd.metrics import pictures

Key = tuple[str, int]


class Report(ABC):
    """Frames by (sequence, frame), each given once; sequences by the group that resampling draws.

    Two reports made the same way add up (`merge`); `state` and `from_state` carry one between processes.
    """

    task: str

    def __init__(self, threshold: float) -> None:
        self.threshold = float(threshold)
        self._groups: dict[str, str] = {}
        self._frames: dict[str, dict[int, Any]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._frames.values()))

    def _enter(self, key: Key, group: str | None) -> dict[int, Any]:
        """The frames of the key's sequence, of which this is a new one."""
        sequence, frame = str(key[0]), int(key[1])
        group = sequence if group is None else str(group)
        if frame in self._frames.get(sequence, {}):
            raise InputError(f"frame {frame} of {sequence} was given twice: each frame is scored once")
        if self._groups.setdefault(sequence, group) != group:
            raise InputError(f"{sequence} was in the group {self._groups[sequence]}, and is now in {group}")
        return self._frames.setdefault(sequence, {})

    def group(self, sequence: str | None) -> str:
        """The group of a sequence."""
        return self._groups[str(sequence)]

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """The numbers, as JSON can hold them (see docs/METRICS.md)."""

    @abstractmethod
    def samples(self) -> list[dict[str, np.ndarray]]:
        """Of each protocol the numbers in each resample of groups, [R] (see `irstd.metrics.bootstrap.over_seeds`)."""

    @abstractmethod
    def images(self) -> list[dict[str, Any]]:
        """One row a frame, under the first protocol."""

    @abstractmethod
    def sequences(self) -> list[dict[str, Any]]:
        """One row a sequence, under the first protocol."""

    @abstractmethod
    def curves(self) -> dict[str, dict[str, list]]:
        """The columns of each curve by its name."""

    @abstractmethod
    def _parts(self) -> dict[str, list]:
        """The accumulators, by name."""

    def write(self, folder: Path, found: dict[str, Any]) -> list[Path]:
        """Write report.json (`found`), images.csv, sequences.csv, and each curve as CSV and as a picture; their paths.

        found: what `compute` gave, with what the caller knows of the frames: split, digests, how the checkpoint was chosen.
        Files of the same names are replaced, each whole.
        """
        curves = self.curves()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "report.json", found)
            paths = [folder / "report.json"]
            tables = {"images": _columns(self.images()), "sequences": _columns(self.sequences())} | curves
            for name, columns in tables.items():
                write_atomic(folder / f"{name}.csv", csv_text(columns))
                paths.append(folder / f"{name}.csv")
            for name, columns in curves.items():
                write_atomic(folder / f"{name}.png", pictures.curve(name, columns, found))
                paths.append(folder / f"{name}.png")
        return paths

    def merge(self, other: Report) -> Report:
        """Add the frames of another part, measured the same way; InputError otherwise. Returns self."""
        if self._settings() != other._settings():
            raise InputError(f"parts measured differently cannot be merged: {self._settings()} and {other._settings()}")
        for sequence, frames in other._frames.items():
            for frame, row in frames.items():
                self._enter((sequence, frame), other._groups[sequence])[frame] = row
        mine, theirs = self._parts(), other._parts()
        for name, parts in mine.items():
            for part, more in zip(parts, theirs[name], strict=True):
                part.merge(more)
        return self

    def state(self) -> dict[str, Any]:
        """Everything accumulated, as JSON can hold it."""
        frames = [
            {"sequence": sequence, "group": self._groups[sequence], "frames": list(rows.items())}
            for sequence, rows in self._frames.items()
        ]
        parts = {name: [part.state() for part in parts] for name, parts in self._parts().items()}
        return {"settings": self._settings(), "frames": frames, "parts": parts}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Report:
        """The report whose `state()` this is."""
        out = cls(**state["settings"])
        for entry in state["frames"]:
            for frame, row in entry["frames"]:
                out._enter((entry["sequence"], frame), entry["group"])[frame] = row
        for name, parts in out._parts().items():
            parts[:] = [type(part).from_state(s) for part, s in zip(parts, state["parts"][name], strict=True)]
        return out

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The arguments that make such a report."""


def _columns(rows: Iterable[dict[str, Any]]) -> dict[str, list]:
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def csv_text(columns: dict[str, list]) -> str:
    """Numbers in full, None as nothing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue()
