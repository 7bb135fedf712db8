"""Key frames in shards, and the arrays around them, read from the tars without unpacking.

`Windows` is the index of a split over one or several sets: for every key frame, which tar, which sample, which row. It
opens each tar once; a clip is then T rows of an array that lies in the page cache. What is kept for each frame are a few
bytes (sample, row, checksum, whether it was checked), whatever the frames' size.
"""

from __future__ import annotations

import json
import math
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from irstd.data.gradient import GradientSpec
from irstd.data.guard import GuardedTar, MappedTar
from irstd.data.manifest import SPLITS, Manifest
from irstd.errors import InputError, WorkError
from irstd.files import canonical_json

PIXELS = ("frames.npy", "gradient.npy", "masks.npy")
OPEN = 128  # tars; each takes a file descriptor
PARSED = 4096  # samples whose targets are kept, about half a KiB each


@dataclass(frozen=True, slots=True)
class Sample:
    """One chunk: its arrays' places in a tar, and what the manifest says of it. `start` counts the rows before."""

    set: str
    sequence: str
    tar: int
    first: int
    halo: int
    members: dict[str, list[Any]]
    crc32: np.ndarray
    targets_crc32: int | None
    start: int


@dataclass(frozen=True, slots=True)
class Tar:
    """A tar of a manifest: where it lies, the bytes it must have, and how it is opened."""

    path: Path | str
    need: int
    open: Callable[[], BinaryIO]


class Damaged(WorkError):
    """Bytes of a shard that are missing or not those that were written; `chunk` names where."""

    chunk: str = ""
    counts: int = 0  # key frames that it takes from an epoch

    @classmethod
    def at(cls, chunk: str, line: str) -> Damaged:
        error = cls(line)
        error.chunk = chunk
        return error


class Boxes:
    """Boxes float32 [M, 4] (xywh) of each row, in one array: a list of arrays would take ten times the memory."""

    def __init__(self, rows: list[list[list[float]]]) -> None:
        self.boxes_M4 = np.array([box for row in rows for box in row], np.float32).reshape(-1, 4)
        self.starts_n1 = np.cumsum([0, *map(len, rows)], dtype=np.int32)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.boxes_M4[self.starts_n1[row] : self.starts_n1[row + 1]]


@dataclass(frozen=True, slots=True)
class Targets:
    """What `targets.json` says: targets and regions to be ignored of each row; the sample's bit depth and statistics."""

    boxes: Boxes
    ignore: Boxes
    bit_depth: int
    intensity: Mapping[str, float]


class Windows:
    """Index of the key frames of `split` in `manifests`.

    `sample_N`, `row_N`: for each key frame the number of its sample and its row in that sample's arrays (halo counted).
    `labelled_only` leaves out key frames without a label, which are unknown, not background. `guarded` reads the tars
    instead of mapping them, see `irstd.data.guard`. `lenient`: a tar that is missing or short is an error only when it is
    read.

    Raises: `Damaged` for a tar that is missing or short, `InputError` for a manifest that contradicts itself.
    """

    def __init__(
        self,
        manifests: list[Manifest],
        split: str,
        labelled_only: bool = True,
        *,
        guarded: bool = False,
        lenient: bool = False,
    ) -> None:
        self.guarded = guarded
        self.samples: list[Sample] = []
        self.tars: list[Tar] = []
        self.opened: OrderedDict[int, MappedTar | GuardedTar] = OrderedDict()
        self.lock = threading.Lock()
        # A tar that has left the cache of a store takes space until it is closed.
        self.limit = min((m.store.cache.limit for m in manifests if m.store), default=math.inf)
        self.targets = lru_cache(PARSED)(self._targets)
        sample_N: list[np.ndarray] = []
        row_N: list[np.ndarray] = []
        rows = 0
        for manifest in manifests:
            for shard in manifest.shards(split):
                ends = (m[0] + m[1] for s in shard["samples"] for m in s["members"].values())
                tar = Tar(manifest.where(shard), max(ends, default=0), manifest.opener(shard))
                self.tars.append(tar)
                if isinstance(tar.path, Path) and not lenient:
                    _check_size(tar, tar.path)
                for s in shard["samples"]:
                    if not _consistent(s):
                        raise InputError(
                            f"{manifest.folder / 'manifest.json'}: the entry {s.get('key')!r} contradicts itself; "
                            "build the shards again (irstd shard)"
                        )
                    keep = np.flatnonzero(np.frombuffer(s["labelled"].encode(), np.uint8) == ord("1"))
                    if not labelled_only:
                        keep = np.arange(len(s["labelled"]))
                    row_N.append((keep + s["halo"]).astype(np.int32))
                    sample_N.append(np.full(len(keep), len(self.samples), np.int32))
                    self.samples.append(
                        Sample(
                            manifest.set,
                            s["sequence"],
                            len(self.tars) - 1,
                            s["first_frame"],
                            s["halo"],
                            s["members"],
                            np.array(s["crc32"], np.uint32),
                            s.get("targets_crc32"),
                            rows,
                        )
                    )
                    rows += len(s["crc32"])
        self.sample_N = np.concatenate(sample_N) if sample_N else np.empty(0, np.int32)
        self.row_N = np.concatenate(row_N) if row_N else np.empty(0, np.int32)
        self.checked = bytearray(rows)

    def __len__(self) -> int:
        return len(self.sample_N)

    def key(self, index: int) -> tuple[str, int]:
        """("<set>/<sequence>", frame index) of a key frame."""
        sample = self.samples[self.sample_N[index]]
        return f"{sample.set}/{sample.sequence}", int(sample.first + self.row_N[index] - sample.halo)

    @property
    def paths(self) -> list[Path | str]:
        """The tars' paths, or URLs."""
        return [tar.path for tar in self.tars]

    def tar(self, number: int) -> MappedTar | GuardedTar:
        """An open tar. Its size is checked when it is opened: a shortened file would kill a reader that maps it."""
        found = self.opened.get(number)
        if found is not None:
            return found
        tar = self.tars[number]
        try:
            with tar.open() as file:
                _check_size(tar, file.fileno())
                found = GuardedTar(file) if self.guarded else MappedTar(file)
        except OSError as error:
            raise _unreadable(tar.path, error) from None
        with self.lock:
            self.opened[number] = found
            # Those that were opened first are closed when no array needs them any more.
            while len(self.opened) > 1 and (len(self.opened) > OPEN or self._held() > self.limit):
                self.opened.popitem(last=False)
        return found

    def _held(self) -> int:
        return sum(self.tars[number].need for number in self.opened)

    def rows(self, number: int, name: str, start: int, stop: int) -> np.ndarray | None:
        """Rows [start, stop) of a member, [n, H, W]; None where the sample has no such member.

        Views of the mapped tar, read-only; arrays of their own where guarded.
        """
        sample = self.samples[number]
        if name not in sample.members:
            return None
        offset, length, dtype, shape = sample.members[name]
        try:
            found = self.tar(sample.tar)
            return found.read(offset + length // shape[0] * start, dtype, (stop - start, *shape[1:]))
        except OSError as error:
            first = sample.first - sample.halo + start
            frames = f"frame {first}" if stop - start == 1 else f"frames {first} to {first + stop - start - 1}"
            raise self._broken(sample, frames, f"cannot be read ({error.strerror})") from None

    def array(self, number: int, name: str) -> np.ndarray | None:
        """All rows of a member; None where the sample has no such member."""
        members = self.samples[number].members
        return self.rows(number, name, 0, members[name][3][0]) if name in members else None

    def verify(self, number: int, row: int) -> None:
        """Check the crc32 of one frame at its first touch; `WorkError` names set, sequence and frame."""
        sample = self.samples[number]
        if self.checked[sample.start + row]:
            return
        value = 0
        for name in PIXELS:
            found = self.rows(number, name, row, row + 1)
            if found is not None:
                value = zlib.crc32(found.data.cast("B"), value)
        if value != sample.crc32[row]:
            raise self._broken(sample, f"frame {sample.first - sample.halo + row}")
        self.checked[sample.start + row] = 1

    def _targets(self, number: int) -> Targets:
        """The targets of a sample; `WorkError` where their bytes are not those that were written."""
        sample = self.samples[number]
        offset, length, *_ = sample.members["targets.json"]
        count = sample.members["frames.npy"][3][0]
        first = sample.first - sample.halo
        where = f"targets of the frames {first} to {first + count - 1}"
        try:
            text = self.tar(sample.tar).read(offset, "uint8", (length,)).tobytes()
        except OSError as error:
            raise self._broken(sample, where, f"cannot be read ({error.strerror})") from None
        if sample.targets_crc32 is not None and zlib.crc32(text) != sample.targets_crc32:
            raise self._broken(sample, where)
        content = json.loads(text)
        return Targets(
            Boxes([frame["boxes"] for frame in content["frames"]]),
            Boxes([frame.get("ignore", []) for frame in content["frames"]]),
            content["bit_depth"],
            content["intensity"],
        )

    def _broken(self, sample: Sample, what: str, how: str = "damaged") -> Damaged:
        return Damaged.at(
            f"{sample.set}/{sample.sequence}/{sample.first}",
            f"{self.tars[sample.tar].path}: {how} at {sample.set}/{sample.sequence}, {what}; "
            "build it again (remove the file, then irstd shard)",
        )


def _consistent(sample: Mapping[str, Any]) -> bool:
    """Whether the arrays of a manifest's entry have the sizes and the number of rows that it says."""
    try:
        rows = len(sample["crc32"])
        frames = sample["members"]["frames.npy"]
        for name, (offset, length, dtype, shape) in sample["members"].items():
            if offset < 0 or length < 0:
                return False
            if name in PIXELS and (
                math.prod(shape) * np.dtype(dtype).itemsize != length or shape != frames[3] or shape[0] != rows
            ):
                return False
        return len(sample["labelled"]) + sample["halo"] == rows and "targets.json" in sample["members"]
    except (KeyError, TypeError, ValueError):
        return False


def _check_size(tar: Tar, file: Path | int) -> None:
    try:
        size = os.stat(file).st_size
    except OSError as error:
        raise _unreadable(tar.path, error) from None
    if size < tar.need:
        raise Damaged.at(
            str(tar.path), f"{tar.path}: {size} bytes, its manifest needs {tar.need}; build it again (irstd shard)"
        )


def _unreadable(path: Path | str, error: OSError) -> WorkError:
    # A store's driver raises a bare FileNotFoundError.
    remedy = "build the shards again (irstd shard)" if isinstance(path, Path) else "upload the shards again"
    line = f"{path}: cannot be read ({error.strerror or 'no such file'}); {remedy}"
    # What a store does not give now it may give later: nothing says that it is damaged.
    return Damaged.at(str(path), line) if isinstance(path, Path) else WorkError(line)


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
        share = f" (with shard.split.{split} above 0)" if split in SPLITS else ""
        raise InputError(
            f"no labelled key frame in the split {split!r} of {sets}; ingest labelled recordings{share}, or choose "
            "others with data.sets=[...]"
        )


def require_gradient(manifests: list[Manifest], wanted: GradientSpec | None = None) -> GradientSpec:
    """The one specification of all stored gradient maps, `wanted` where given; `InputError` where a set holds others."""
    for manifest in manifests:
        if manifest.gradient is None:
            continue
        found = GradientSpec.from_dict(manifest.gradient)
        wanted = wanted or found
        if found != wanted:
            raise InputError(
                f"the shards of {manifest.set} hold gradient maps {found.operator}/{found.padding}, but "
                f"{wanted.operator}/{wanted.padding} are expected; set shard.gradient.operator={wanted.operator} and "
                f"shard.gradient.padding={wanted.padding} in params.yaml and run irstd shard"
            )
    return wanted or GradientSpec()


def fingerprint(manifests: list[Manifest], split: str) -> str:
    """Names the key frames of a split in their order: a loader's state fits only the same ones."""
    return canonical_json([split, [[m.set, m.digest] for m in manifests]])
