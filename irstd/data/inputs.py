"""What `INPUT...` on a command line names: recordings, folders of them, and globs; each with a name of its own.

| INPUT | recordings |
| --- | --- |
| a video, a still image | itself |
| a folder of still images without a video among them | one, its frames in natural order |
| another folder | every recording below it, found as `irstd ingest` finds them |
| a quoted glob (`"night/**/*.mkv"`) | every file or folder that it matches, each as above |
"""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import cv2

from irstd.data import cptv, raw, sidecar
from irstd.data.importers import simple
from irstd.data.importers.base import scan
from irstd.data.sequence import joined_sha256, slug
from irstd.data.stills import is_still, stills_in
from irstd.data.video import is_recording
from irstd.errors import InputError
from irstd.files import sha256_file

LONGEST = 100  # letters of a name


@dataclass(frozen=True)
class Input:
    """A recording. `path`: absolute, since Ray's workers are in another folder; `shown`: as messages call it; `name`: a slug that
    no other recording of the call has; `bit_depth`, `fps`: what sidecars say of it, or None."""

    path: Path
    shown: str
    name: str
    bit_depth: int | None = None
    fps: float | None = None


def alone(given: list[str]) -> bool:
    """Whether the INPUTs name one recording by its own path: its results then need no folder of their own below `--out`."""
    return len(given) == 1 and Path(given[0]).exists() and (not Path(given[0]).is_dir() or is_recording(Path(given[0])))


def check(text: str) -> None:
    """`InputError` where nothing of that name is there, as a path or as a glob."""
    if not Path(text).exists() and next(glob.iglob(text, recursive=True), None) is None:
        what = "matches nothing" if glob.has_magic(text) else "no such file or folder"
        raise InputError(f"{text}: {what}: give videos, images, folders of them, or a quoted glob")


def recordings(given: Iterable[str]) -> list[Input]:
    """The recordings that `given` names, once each, in order. `InputError` where one of them names none.

    A name is the slug of the path below what was given; recordings whose slugs are equal get a piece of their path's hash.
    """
    found: dict[Path, Input] = {}
    for text in given:
        for each in _of(text):
            found.setdefault(each.path.resolve(), each)
    many = Counter(each.name for each in found.values())
    return [
        replace(each, name=f"{each.name}-{_digits(path)}") if many[each.name] > 1 else each
        for path, each in found.items()
    ]


def _of(text: str) -> Iterator[Input]:
    path = Path(text)
    if path.exists():
        yield from _at(path, path)
        return
    check(text)
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
    # Of a folder of frames that a glob matches frame by frame, each is a recording; folders that hold a match are not one too.
    kept = [m for m in matches if m.is_dir() or is_recording(m)]
    kept = [m for m in kept if not (m.is_dir() and any(m in other.parents for other in kept))]
    if not kept:
        raise InputError(f"{text}: matches {len(matches)} files, none of them a recording: match videos or images")
    start = _start(text)
    for match in kept:
        yield from _at(match, match.relative_to(start))


def _at(path: Path, shown: Path) -> Iterator[Input]:
    if not path.is_dir() or is_recording(path):
        said = _beside(path)
        named = shown if not shown.is_absolute() and ".." not in shown.parts else PurePath(path.resolve().name)
        # Of a path that was typed the last part is enough; below a glob's start all of it tells recordings apart.
        named = PurePath(named.name) if shown == path else named
        yield Input(path.absolute(), str(shown), _name(named, path), said.bit_depth, said.fps)
        return
    listing = scan(path)
    candidates = simple.recordings(listing, lambda *_: None)
    if not candidates:
        raise InputError(
            f"{path}: holds no recording: give videos (mkv, mp4, avi, mov, cptv, raw), images, or their folder"
        )
    for each in candidates:
        place = path.absolute() / each.recording
        yield Input(place, str(shown / each.recording), _name(each.recording, place), each.bit_depth, each.fps)


def _beside(path: Path) -> sidecar.Options:
    try:
        return sidecar.beside(path)
    except InputError:
        # Who opens the recording says it, of that recording alone.
        return sidecar.Options()


def _start(pattern: str) -> Path:
    """The folder before the first part of a glob that is a pattern."""
    parts = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _name(relative: PurePath, path: Path) -> str:
    stem = relative if path.is_dir() else relative.with_suffix("")
    try:
        found = slug(stem)
    except InputError:  # no letter of a-z in it, or far too many
        return f"recording-{_digits(path.resolve())}"
    return found if len(found) <= LONGEST else f"{found[:LONGEST]}-{_digits(path.resolve())}"


def _digits(path: Path) -> str:
    return hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:8]


def content_sha256(path: Path) -> str:
    """Of a recording's bytes, as `source_sha256` of `sequence.json`: the file's, or of names and hashes of several files.

    `OSError` where one cannot be read.
    """
    if path.is_dir():
        files = stills_in(path)
    elif raw.is_raw(path):  # its layout is in a sidecar
        beside = (path.with_name(sidecar.SIDECAR), path.with_suffix(sidecar.ENDING))
        files = [path, *(each for each in beside if each.is_file())]
    else:
        files = [path]
    several = path.is_dir() or len(files) > 1
    return joined_sha256([each.name for each in files] if several else None, [sha256_file(each) for each in files])


def expected_frames(path: Path) -> int | None:
    """About how many frames there are, without decoding them: to estimate the time left. None where nothing says it."""
    if path.is_dir():
        return len(stills_in(path))
    if is_still(path) or cptv.is_cptv(path):
        return None
    if raw.is_raw(path):
        layout = sidecar.beside(path).raw
        return (path.stat().st_size - layout.header) // layout.stride if layout else None
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
    finally:
        capture.release()
    return int(count) if 0 < count < 1e9 else None
