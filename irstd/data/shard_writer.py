"""Write one tar of samples: plain WebDataset, byte-identical when written again, every array at a known offset.

A sample is one chunk with the members `frames.npy`, `gradient.npy`, `masks.npy` (where the set has masks) and
`targets.json`. Time, owner and order are fixed, so that equal content gives equal bytes on every machine.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import zlib
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from irstd.data import rle
from irstd.data.annotations import DEFAULT_CLASS, Annotations
from irstd.data.derive import boxes_around, pseudo_mask, targets_of
from irstd.data.gradient import GradientSpec, gradient_map
from irstd.data.sequence import Sequence
from irstd.data.shard_plan import Chunk
from irstd.errors import WorkError
from irstd.files import canonical_json, writing

_PIECE = 2**18  # bytes hashed and written at a time


def write_tar(path: Path, pieces: list[Chunk], build: dict, shown: Path | None = None) -> dict[str, Any]:
    """Write `pieces` to `path` (a temporary name: the caller renames) and return the manifest's entry without `file`.

    `build`: what decides the bytes besides the pieces: `gradient` (a `GradientSpec` as a dict, or None for no map) and
    `derive` (see `irstd.data.derive`). Flushed to the disk once, at its end. `shown` is the name for messages.
    `WorkError` where the disk is full.
    """
    spec = GradientSpec.from_dict(build["gradient"]) if build.get("gradient") else None
    samples = []
    with _Tar(path, shown or path) as tar:
        for chunk in pieces:
            run = _run_of(chunk, spec)
            frames, gradients = run.take(chunk.first - chunk.halo, chunk.stop)
            arrays = {"frames.npy": frames}
            if gradients is not None:
                arrays["gradient.npy"] = gradients
            masks, targets = _targets(chunk, run.annotations, frames, build.get("derive"))
            if masks is not None:
                arrays["masks.npy"] = masks
            samples.append(_write_sample(tar, chunk, arrays, targets) | {"inputs": chunk.inputs(build)})
    return {"sha256": tar.hash.hexdigest(), "samples": samples}


class _Tar:
    """A tar being written, and the sha256 of all its bytes."""

    def __init__(self, path: Path, shown: Path) -> None:
        self.shown = shown
        self.hash = hashlib.sha256()
        with writing(shown):
            self.file = path.open("wb")

    def __enter__(self) -> _Tar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.write(b"\0" * 1024)  # the two empty blocks that end a tar
                with writing(self.shown):
                    self.file.flush()
                    os.fsync(self.file.fileno())
        finally:
            # What could not be written before cannot be written now either.
            with suppress(OSError):
                self.file.close()

    def add(self, name: str, parts: list[Any], hashed: Any) -> int:
        """Append one member; returns the offset of its first byte. `hashed` takes in its name, length and bytes."""
        size = sum(len(part) for part in parts)
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, 0, 0o644
        self.write(info.tobuf(tarfile.PAX_FORMAT))  # USTAR, but names may be longer than 100 letters
        offset = self.file.tell()
        hashed.update(f"{name}\0{size}\0".encode())
        for part in parts:
            # Piece by piece: what the first hash reads is still in the processor's cache for the second, and for the write.
            for start in range(0, len(part), _PIECE):
                piece = part[start : start + _PIECE]
                hashed.update(piece)
                self.write(piece)
        self.write(b"\0" * (-size % 512))
        return offset

    def write(self, piece: Any) -> None:
        self.hash.update(piece)
        with writing(self.shown):
            self.file.write(piece)


class FrameRun:
    """The frames of a sequence and their gradient maps, read forward; the last ones are kept for the next halo."""

    def __init__(self, sequence: Sequence, spec: GradientSpec | None) -> None:
        self.sequence = sequence
        self.spec = spec
        self.annotations = sequence.annotations()
        self.frames = iter(sequence.read())
        self.next = 0
        self.kept = 0  # frames before `next` that lie at the end of what was taken last
        self.taken = 0
        self.frames_nHW = np.empty((0, sequence.height, sequence.width), sequence.dtype)
        self.gradient_nHW = np.empty((0, sequence.height, sequence.width), np.float16)

    def gives(self, sequence: Sequence, spec: GradientSpec | None, start: int) -> bool:
        """Whether frames from `start` on of `sequence` can still be had."""
        return self.spec == spec and self.next - self.kept <= start and self.sequence == sequence

    def take(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Frames [start, stop) as uint8|uint16 [n, H, W], and their gradient maps as float16 [n, H, W].

        Both are valid until the next call: they lie in memory that is used again.
        """
        overlap = max(0, self.next - start)
        self._make_room(stop - start, overlap)
        for _ in islice(self.frames, max(0, start - self.next)):
            pass
        self.next = max(self.next, start)
        for row in range(overlap, stop - start):
            frame_HW = next(self.frames, None)
            if frame_HW is None:
                raise WorkError(
                    f"{self.sequence.folder}: {self.next} frames decode, sequence.json counts "
                    f"{self.sequence.frames}; run irstd doctor, then ingest the recording again with --update"
                )
            self.frames_nHW[row] = frame_HW
            self.next += 1
        if self.spec:
            new_nHW = self.frames_nHW[overlap : stop - start]
            self.gradient_nHW[overlap : stop - start] = gradient_map(new_nHW, self.spec.operator, self.spec.padding)
        self.taken = self.kept = stop - start
        return self.frames_nHW[: self.taken], self.gradient_nHW[: self.taken] if self.spec else None

    def _make_room(self, count: int, overlap: int) -> None:
        """Room for `count` frames, of which the last `overlap` of those taken before are the first."""
        for name in ("frames_nHW", "gradient_nHW") if self.spec else ("frames_nHW",):
            before = getattr(self, name)
            room = before if len(before) >= count else np.empty((count, *before.shape[1:]), before.dtype)
            room[:overlap] = before[self.taken - overlap : self.taken]
            setattr(self, name, room)
        self.kept = self.taken = 0  # nothing can be taken again if reading fails from here on


_thread = threading.local()


def _run_of(chunk: Chunk, spec: GradientSpec | None) -> FrameRun:
    """The run that gives this chunk's frames: the last one of this thread where it does.

    A recording can only be decoded from its beginning. A worker that is given some tars of a long one, in order, decodes
    it once for all of them.
    """
    run: FrameRun | None = getattr(_thread, "run", None)
    sequence = chunk.stretch.sequence
    if run is None or not run.gives(sequence, spec, chunk.first - chunk.halo):
        forget()  # its memory first
        run = _thread.run = FrameRun(sequence, spec)
    return run


def forget() -> None:
    """Close the recording that this thread keeps open for the next tar."""
    _thread.run = None


def _targets(
    chunk: Chunk, annotations: Annotations | None, frames_nHW: np.ndarray, derive: dict | None
) -> tuple[np.ndarray | None, dict]:
    """Masks uint8 {0, 1} [n, H, W] or None, and the content of `targets.json`; what is missing is derived."""
    sequence = chunk.stretch.sequence
    start = chunk.first - chunk.halo
    entries: list[dict[str, Any]] = []
    derived: dict[str, Any] = {}
    masks = None
    wanted = derive["masks"] if derive and annotations is not None and not annotations.masks else "none"
    if wanted != "none":
        derived["masks"] = wanted
    if annotations is not None and (annotations.masks or wanted != "none"):
        masks = np.zeros((chunk.stop - start, sequence.height, sequence.width), np.uint8)
    for row, index in enumerate(range(start, chunk.stop)):
        frame = annotations.frames[index] if annotations is not None else None
        labelled = frame is not None and frame.labelled
        entry: dict[str, Any] = {"index": index, "labelled": labelled, "boxes": [], "classes": [], "points": []}
        if frame is not None and labelled:
            boxes_N4, classes = frame.boxes, list(frame.classes)
            if masks is not None and frame.mask is not None:
                masks[row] = rle.decode(frame.mask, sequence.height, sequence.width)
            if not len(boxes_N4) and derive:
                if masks is not None and masks[row].any():
                    boxes_N4 = targets_of(masks[row])[0]
                    derived["boxes_from_masks"] = "components"
                elif len(frame.points):
                    boxes_N4 = boxes_around(frame.points, derive["point_size"])
                    derived["boxes_from_points"] = derive["point_size"]
                classes = [DEFAULT_CLASS] * len(boxes_N4)
            if masks is not None and wanted != "none":
                masks[row] = pseudo_mask(frames_nHW[row], boxes_N4, wanted)
            entry["boxes"] = [[float(v) for v in box] for box in boxes_N4]
            entry["classes"] = classes
            entry["points"] = [[float(v) for v in point] for point in frame.points]
            if len(frame.ignore):
                entry["ignore"] = frame.ignore.tolist()
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
    return masks, targets | ({"derived": derived} if derived else {})


def _write_sample(tar: _Tar, chunk: Chunk, arrays: dict[str, np.ndarray], targets: dict) -> dict[str, Any]:
    hashed = hashlib.sha256()
    members: dict[str, list[Any]] = {}
    for name, array in arrays.items():
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
        data = np.ascontiguousarray(array)
        header = head.getvalue()
        offset = tar.add(f"{chunk.key}.{name}", [header, data.data.cast("B")], hashed) + len(header)
        members[name] = [offset, data.nbytes, data.dtype.name, list(data.shape)]
    text = canonical_json(targets).encode()
    offset = tar.add(f"{chunk.key}.targets.json", [text], hashed)
    members["targets.json"] = [offset, len(text), None, None]
    rows = len(targets["frames"])
    derived = {"derived": targets["derived"]} if "derived" in targets else {}
    return derived | {
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
