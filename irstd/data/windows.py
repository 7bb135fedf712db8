"""Key frames in shards, and the arrays around them, mapped from the tars without unpacking.

`Windows` is the index of a split over one or several sets: for every key frame, which tar, which sample, which row. It
maps each tar once; a clip is then T rows of an array that lies in the page cache.
"""

from __future__ import annotations

import json
import mmap
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irstd.data.manifest import Manifest
from irstd.errors import InputError, WorkError
from irstd.files import canonical_json


@dataclass(frozen=True)
class Sample:
    """One chunk: its arrays' places in a mapped tar, and what the manifest says of it."""

    set: str
    sequence: str
    tar: int
    first: int
    halo: int
    members: dict[str, list[Any]]
    crc32: list[int]
    targets_crc32: int | None
    labelled: str


class Windows:
    """Index of the key frames of `split` in `manifests`.

    `sample_N`, `row_N`: for each key frame the number of its sample and its row in that sample's arrays (halo counted).
    `labelled_only` leaves out key frames without a label, which are unknown, not background.
    """

    def __init__(self, manifests: list[Manifest], split: str, labelled_only: bool = True) -> None:
        self.manifests = {m.set: m for m in manifests}
        self.samples: list[Sample] = []
        self.paths: list[Path] = []
        self.needs: list[int] = []  # bytes that each tar must have
        self.maps: dict[int, mmap.mmap] = {}
        self.checked: set[tuple[int, int]] = set()
        sample_N: list[np.ndarray] = []
        row_N: list[np.ndarray] = []
        for manifest in manifests:
            for shard in manifest.shards(split):
                self.paths.append(manifest.folder / shard["file"])
                ends = (m[0] + m[1] for s in shard["samples"] for m in s["members"].values())
                self.needs.append(max(ends, default=0))
                for s in shard["samples"]:
                    item = Sample(
                        manifest.set,
                        s["sequence"],
                        len(self.paths) - 1,
                        s["first_frame"],
                        s["halo"],
                        s["members"],
                        s["crc32"],
                        s.get("targets_crc32"),
                        s["labelled"],
                    )
                    keep = np.flatnonzero(np.frombuffer(item.labelled.encode(), np.uint8) == ord("1"))
                    if not labelled_only:
                        keep = np.arange(len(item.labelled))
                    row_N.append(keep + item.halo)
                    sample_N.append(np.full(len(keep), len(self.samples)))
                    self.samples.append(item)
        self.sample_N = np.concatenate(sample_N) if sample_N else np.empty(0, int)
        self.row_N = np.concatenate(row_N) if row_N else np.empty(0, int)

    def __len__(self) -> int:
        return len(self.sample_N)

    def key(self, index: int) -> tuple[str, int]:
        """("<set>/<sequence>", frame index) of a key frame."""
        sample = self.samples[self.sample_N[index]]
        return f"{sample.set}/{sample.sequence}", int(sample.first + self.row_N[index] - sample.halo)

    def map(self, tar: int) -> mmap.mmap:
        """The mapped tar. Its size is checked when it is opened: a shortened file would kill a reader that maps it."""
        if tar not in self.maps:
            path, need = self.paths[tar], self.needs[tar]
            try:
                with path.open("rb") as file:
                    size = path.stat().st_size
                    if size < need:
                        raise WorkError(
                            f"{path}: {size} bytes, its manifest needs {need}; build it again (irstd shard)"
                        )
                    self.maps[tar] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise WorkError(
                    f"{path}: cannot be read ({error.strerror}); build the shards again (irstd shard)"
                ) from None
        return self.maps[tar]

    def array(self, number: int, name: str) -> np.ndarray | None:
        """A member as a read-only array over the mapped bytes; None where the sample has no such member."""
        sample = self.samples[number]
        if name not in sample.members:
            return None
        offset, _, dtype, shape = sample.members[name]
        return np.frombuffer(self.map(sample.tar), dtype, int(np.prod(shape)), offset).reshape(shape)

    def targets(self, number: int) -> dict[str, Any]:
        """The parsed `targets.json` of a sample; `WorkError` where its bytes are not those that were written."""
        sample = self.samples[number]
        offset, length, *_ = sample.members["targets.json"]
        text = self.map(sample.tar)[offset : offset + length]
        if sample.targets_crc32 is not None and zlib.crc32(text) != sample.targets_crc32:
            first = sample.first - sample.halo
            raise WorkError(self._damaged(sample, f"targets of the frames {first} to {first + len(sample.crc32) - 1}"))
        return json.loads(text)

    def verify(self, number: int, row: int) -> None:
        """Check the crc32 of one frame at its first touch; `WorkError` names set, sequence and frame."""
        if (number, row) in self.checked:
            return
        sample = self.samples[number]
        value = 0
        for name in ("frames.npy", "gradient.npy", "masks.npy"):
            array = self.array(number, name)
            if array is not None:
                value = zlib.crc32(array[row].data.cast("B"), value)
        if value != sample.crc32[row]:
            raise WorkError(self._damaged(sample, f"frame {sample.first - sample.halo + row}"))
        self.checked.add((number, row))

    def _damaged(self, sample: Sample, what: str) -> str:
        return (
            f"{self.paths[sample.tar]}: damaged at {sample.set}/{sample.sequence}, {what}; "
            "build it again (remove the file, then irstd shard)"
        )


def require(manifests: list[Manifest], split: str, frames: int) -> None:
    """`InputError` where a clip of `frames` frames, or a labelled key frame of `split`, cannot be had."""
    for manifest in manifests:
        if frames > manifest.frames:
            raise InputError(
                f"clips of {frames} frames, but the shards of {manifest.set} were built for {manifest.frames}; "
                f"set shard.frames={frames} in params.yaml and run irstd shard"
            )
    if not sum(m.count(split, "labelled") for m in manifests):
        sets = ", ".join(m.set for m in manifests)
        raise InputError(
            f"no labelled key frame in the split {split!r} of {sets}; ingest labelled recordings, or choose "
            "others with data.sets=[...]"
        )


def fingerprint(manifests: list[Manifest], split: str) -> str:
    """Names the key frames of a split in their order: a loader's state fits only the same ones."""
    return canonical_json([split, [[m.set, m.digest] for m in manifests]])
