"""Write one tar of samples: plain WebDataset, byte-identical when written again, every array at a known offset.

A sample is one chunk with the members `frames.npy`, `gradient.npy`, `masks.npy` (where the set has masks) and
`targets.json`. Time, owner and order are fixed, so that equal content gives equal bytes on every machine.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from irstd.data import rle
from irstd.data.annotations import Annotations
from irstd.data.gradient import GradientSpec, gradient_map
from irstd.data.sequence import Sequence
from irstd.data.shard_plan import Chunk
from irstd.errors import WorkError
from irstd.files import canonical_json


def write_tar(path: Path, pieces: list[Chunk], gradient: dict | None, build: dict) -> dict[str, Any]:
    """Write `pieces` to `path` (a temporary name: the caller renames) and return the manifest's entry without `file`."""
    spec = GradientSpec.from_dict(gradient) if gradient else None
    samples = []
    with path.open("wb") as file:
        for chunk, arrays, targets in _samples(pieces, spec):
            samples.append(_write_sample(file, chunk, arrays, targets) | {"inputs": chunk.inputs(build)})
        file.write(b"\0" * 1024)  # the two empty blocks that end a tar
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "samples": samples}


def _samples(pieces: list[Chunk], spec: GradientSpec | None) -> Iterator[tuple[Chunk, dict[str, np.ndarray], dict]]:
    """Decode each sequence once, in order, and yield its chunks."""
    reader: FrameRun | None = None
    for chunk in pieces:
        sequence = chunk.stretch.sequence
        if reader is None or reader.sequence is not sequence or reader.position > chunk.first - chunk.halo:
            reader = FrameRun(sequence, spec)
        frames, gradients = reader.take(chunk.first - chunk.halo, chunk.stop)
        arrays = {"frames.npy": frames}
        if gradients is not None:
            arrays["gradient.npy"] = gradients
        masks, targets = _targets(chunk, reader.annotations)
        if masks is not None:
            arrays["masks.npy"] = masks
        yield chunk, arrays, targets


class FrameRun:
    """The frames of a sequence and their gradient maps, read forward; the last ones are kept for the next halo."""

    def __init__(self, sequence: Sequence, spec: GradientSpec | None) -> None:
        self.sequence = sequence
        self.spec = spec
        self.annotations = sequence.annotations()
        self.frames = iter(sequence.read())
        self.next = 0
        self.kept: np.ndarray | None = None
        self.kept_gradient: np.ndarray | None = None

    @property
    def position(self) -> int:
        """Index of the first frame that can still be had."""
        return self.next - (0 if self.kept is None else len(self.kept))

    def take(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Frames [start, stop) as uint8|uint16 [n, H, W], and their gradient maps as float16 [n, H, W]."""
        if start > self.next:
            for _ in islice(self.frames, start - self.next):
                pass
            self.next, self.kept, self.kept_gradient = start, None, None
        fresh = list(islice(self.frames, stop - self.next))
        if len(fresh) < stop - self.next:
            raise WorkError(
                f"{self.sequence.folder}: {self.next + len(fresh)} frames decode, sequence.json counts "
                f"{self.sequence.frames}; run irstd doctor, then ingest the recording again with --update"
            )
        new = np.stack(fresh) if fresh else np.empty((0, self.sequence.height, self.sequence.width), np.uint8)
        gradient = gradient_map(new, self.spec.operator, self.spec.padding) if self.spec else None
        overlap = self.next - start
        if overlap:
            assert self.kept is not None
            new = np.concatenate([self.kept[len(self.kept) - overlap :], new])
            if gradient is not None and self.kept_gradient is not None:
                gradient = np.concatenate([self.kept_gradient[len(self.kept_gradient) - overlap :], gradient])
        self.next = stop
        self.kept, self.kept_gradient = new, gradient
        return new, gradient


def _targets(chunk: Chunk, annotations: Annotations | None) -> tuple[np.ndarray | None, dict]:
    """Masks uint8 {0, 1} [n, H, W] or None, and the content of `targets.json`."""
    sequence = chunk.stretch.sequence
    start = chunk.first - chunk.halo
    entries: list[dict[str, Any]] = []
    masks = None
    if annotations is not None and annotations.masks:
        masks = np.zeros((chunk.stop - start, sequence.height, sequence.width), np.uint8)
    for row, index in enumerate(range(start, chunk.stop)):
        frame = annotations.frames[index] if annotations is not None else None
        labelled = frame is not None and frame.labelled
        entry: dict[str, Any] = {"index": index, "labelled": labelled, "boxes": [], "classes": [], "points": []}
        if frame is not None and labelled:
            entry["boxes"] = [[float(v) for v in box] for box in frame.boxes]
            entry["classes"] = list(frame.classes)
            entry["points"] = [[float(v) for v in point] for point in frame.points]
            if len(frame.ignore):
                entry["ignore"] = frame.ignore.tolist()
            if masks is not None and frame.mask is not None:
                masks[row] = rle.decode(frame.mask, sequence.height, sequence.width)
        entries.append(entry)
    targets = {
        "dataset": sequence.set,
        "sequence": sequence.name,
        "first_frame": chunk.first,
        "halo": chunk.halo,
        "bit_depth": sequence.bit_depth,
        "intensity": dict(sequence.intensity),
        "frames": entries,
    }
    return masks, targets


def _write_sample(file: BinaryIO, chunk: Chunk, arrays: dict[str, np.ndarray], targets: dict) -> dict[str, Any]:
    hashed = hashlib.sha256()
    members: dict[str, list[Any]] = {}
    for name, array in arrays.items():
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
        data = np.ascontiguousarray(array)
        header = head.getvalue()
        offset = _write_member(file, f"{chunk.key}.{name}", [header, data.data.cast("B")], hashed) + len(header)
        members[name] = [offset, data.nbytes, data.dtype.name, list(data.shape)]
    text = canonical_json(targets).encode()
    offset = _write_member(file, f"{chunk.key}.targets.json", [text], hashed)
    members["targets.json"] = [offset, len(text), None, None]
    rows = len(targets["frames"])
    return {
        "key": chunk.key,
        "sequence": targets["sequence"],
        "first_frame": chunk.first,
        "halo": chunk.halo,
        "labelled": "".join("01"[f["labelled"]] for f in targets["frames"][chunk.halo :]),
        "targets": sum(max(len(f["boxes"]), len(f["points"])) for f in targets["frames"][chunk.halo :]),
        "sha256": hashed.hexdigest(),
        "members": members,
        "crc32": [frame_crc(arrays, row) for row in range(rows)],
        "targets_crc32": zlib.crc32(text),
    }


def frame_crc(arrays: dict[str, np.ndarray], row: int) -> int:
    """crc32 of one frame's bytes over `frames.npy`, `gradient.npy` and `masks.npy`, in this order, where they exist."""
    value = 0
    for name in ("frames.npy", "gradient.npy", "masks.npy"):
        if name in arrays:
            value = zlib.crc32(np.ascontiguousarray(arrays[name][row]).data.cast("B"), value)
    return value


def _write_member(file: BinaryIO, name: str, parts: list[Any], hashed: Any) -> int:
    """Append one member; returns the offset of its first byte. `hashed` takes in its name, length and bytes."""
    size = sum(len(part) for part in parts)
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    file.write(info.tobuf(tarfile.PAX_FORMAT))  # USTAR, but names may be longer than 100 letters
    offset = file.tell()
    hashed.update(f"{name}\0{size}\0".encode())
    for part in parts:
        file.write(part)
        hashed.update(part)
    file.write(b"\0" * (-size % 512))
    return offset
