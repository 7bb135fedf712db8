"""Making a sequence aside, and putting it in its place.

A recording is read once for copy and hash, and decoded once for its frames, range and checks. Renaming comes last.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from irstd.data import sidecar, splits
from irstd.data.counts import CountHistogram, Intensity
from irstd.data.importers import Candidate
from irstd.data.marks import FrameMarks, Marks
from irstd.data.sequence import ANNOTATIONS_FILE, FRAMES_FOLDER, SEQUENCE_FILE, Sequence, joined_sha256
from irstd.data.video import DepthError, open_recording
from irstd.errors import InputError
from irstd.files import sha256_file, sha256_text, write_json

# Called with (bytes done, bytes in all, name of the sequence that was finished).
Progress = Callable[[int, int, str], None]


class DamagedRecording(InputError):
    """One recording that cannot be read, which says nothing of the others."""


def stage_all(
    candidates: dict[str, Candidate],
    root: Path,
    work: Path,
    set_name: str,
    there: dict[str, Sequence],
    progress: Progress | None = None,
) -> tuple[dict[str, Sequence], dict[str, DamagedRecording]]:
    """{name: sequence} of all candidates, each in `work`/new/<name>, a few at a time; {name: why} of the damaged ones.

    The first error in the order of names that is another is raised, as if one were done after the other.
    """
    sizes = {name: sum((root / file).stat().st_size for file in each.files) for name, each in candidates.items()}
    found: dict[str, Sequence] = {}
    damaged: dict[str, DamagedRecording] = {}
    done = 0
    # Decoders leave the interpreter free, and side by side need no threads of their own, which cost a third more.
    workers = max(1, min(4, os.cpu_count() or 1, len(candidates)))
    threads = max(1, cv2.getNumThreads() // workers)
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {
            name: pool.submit(stage, each, root, work / "new" / name, set_name, name, there.get(name), threads)
            for name, each in candidates.items()
        }
        for name, future in futures.items():
            try:
                found[name] = future.result()
            except DamagedRecording as error:
                damaged[name] = error
            done += sizes[name]
            if progress:
                progress(done, sum(sizes.values()), name)
    finally:
        pool.shutdown(cancel_futures=True)
    return found, damaged


def stage(
    candidate: Candidate,
    root: Path,
    folder: Path,
    set_name: str,
    name: str,
    old: Sequence | None,
    threads: int | None = None,
) -> Sequence:
    """Write the sequence into `folder`: copy and hash, decode once, check, describe.

    `root` is the source; `old` is the sequence that this one will replace: its licence and group stay unless others are
    stated; `threads` of the decoder. `DamagedRecording` where the recording cannot be read, another `InputError` where
    what was said of it is wrong: its labels, or its bit depth.
    """
    place = folder / FRAMES_FOLDER if candidate.folder else folder
    place.mkdir(parents=True)
    copies = [place / file.name for file in candidate.files]
    where = str(candidate.recording)
    try:
        hashes = [_copy(root / file, copy) for file, copy in zip(candidate.files, copies, strict=True)]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{where}: cannot be read ({error.strerror}): check its permissions") from None
    if candidate.raw:
        copies.append(copies[0].with_suffix(sidecar.ENDING))
        copies[1].write_text(candidate.raw.text(), encoding="utf-8")
    try:
        recording = open_recording(place if candidate.folder else copies[0], candidate.bit_depth, where, threads)
        frames, intensity, marks = _measure(recording.frames())
    except DepthError:
        raise
    except InputError as error:
        raise DamagedRecording(str(error)) from None
    digest, labelled, target = None, 0, 0
    remarks: tuple[str, ...] = ()
    if candidate.annotate:
        annotations = candidate.annotate(frames, recording.height, recording.width)
        text = annotations.to_json()
        digest, labelled, target = sha256_text(text), annotations.labelled_frames, annotations.target_frames
        remarks = annotations.remarks(recording.height, recording.width)
        (folder / ANNOTATIONS_FILE).write_text(text, encoding="utf-8")
    found = Sequence(
        folder=folder,
        set=set_name,
        name=name,
        source=tuple(copy.relative_to(folder).as_posix() for copy in copies),
        source_sha256=_joined(candidate, hashes),
        annotations_sha256=digest,
        frames=frames,
        fps=candidate.fps or recording.fps,
        height=recording.height,
        width=recording.width,
        bit_depth=recording.bit_depth,
        dtype=recording.dtype,
        grey_rule=recording.grey_rule,
        intensity=intensity,
        licence=candidate.licence or (old.licence if old else None),
        group=candidate.group or (old.group if old else name),
        labelled_frames=labelled,
        target_frames=target,
        notes=(*candidate.notes, *recording.notes, *remarks),
        marks=marks,
    )
    (folder / SEQUENCE_FILE).write_text(found.to_json(), encoding="utf-8")
    return found


def _copy(source: Path, target: Path) -> str:
    """Copy byte for byte; sha256 of what was copied, from the same reading."""
    digest = sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
    return digest.hexdigest()


def source_sha256(candidate: Candidate, root: Path) -> str:
    """What `source_sha256` of the candidate would be; `root` is the source."""
    return _joined(candidate, [sha256_file(root / file) for file in candidate.files])


def _joined(candidate: Candidate, hashes: list[str]) -> str:
    names = [file.name for file in candidate.files]
    if candidate.raw:  # the sidecar that is written beside it is part of the recording
        names.append(candidate.files[0].with_suffix(sidecar.ENDING).name)
        hashes = [*hashes, sha256_text(candidate.raw.text())]
    return joined_sha256(names if candidate.folder or candidate.raw else None, hashes)


def _measure(frames: Iterator[np.ndarray]) -> tuple[int, Intensity, Marks]:
    """Count frames and counts, and find what is frozen or flat, in a thread beside the decoder.

    It is a bounded number of frames behind.
    """
    histogram, found, count = CountHistogram(), FrameMarks(), 0
    batch: list[np.ndarray] = []
    behind: Future[None] | None = None

    def add(batch: list[np.ndarray]) -> None:
        for frame_HW in batch:
            histogram.add(frame_HW)
            found.add(frame_HW)

    with ThreadPoolExecutor(1) as pool:
        for frame_HW in frames:
            count += 1
            batch.append(frame_HW)
            if len(batch) * frame_HW.nbytes >= 1 << 19:
                if behind:
                    behind.result()
                behind, batch = pool.submit(add, batch), []
        if behind:
            behind.result()
    add(batch)
    return count, histogram.intensity(), found.found()


def commit(fresh: dict[str, Sequence], work: Path, folder: Path, given: dict[str, Any]) -> bool:
    """Rename what was staged into `folder` and write the splits; on an error everything goes back.

    Returns whether the splits are others than before.
    """
    for name in fresh:
        if (folder / name).exists() and not (folder / name / SEQUENCE_FILE).exists():
            raise InputError(f"{folder / name}: is there and is no sequence: move it out of data/")
    undo: list[tuple[Path, Path]] = []
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in fresh:
            if (folder / name).exists():
                _move(folder / name, work / "old" / name)
                undo.append((work / "old" / name, folder / name))
            _move(work / "new" / name, folder / name)
            undo.append((folder / name, work / "new" / name))
        other = not (folder / splits.FILE).exists() or splits.read(folder) != given
        if other:
            write_json(folder / splits.FILE, given)
    except BaseException:
        for here, back in reversed(undo):
            _move(here, back)
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return other


def sweep(data: Path) -> None:
    """Take away what killed calls left half moved in `data`; it would be versioned with the rest."""
    for pattern in (".*.removed", "*/.*.removed", "*/.*.new"):
        for left in data.glob(pattern):
            shutil.rmtree(left)
    for left in data.glob(f"*/.{splits.FILE}.*"):
        left.unlink()


def _move(source: Path, target: Path) -> None:
    """Rename; across file systems copy beside the target first, so that it appears whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = target.with_name(f".{target.name}.new")
        shutil.copytree(source, aside)
        os.rename(aside, target)
        shutil.rmtree(source)


@contextmanager
def work_folder(staging: Path) -> Iterator[Path]:
    """A new folder under `staging`, gone afterwards."""
    staging.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="ingest-", dir=staging))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
