"""One's own recordings: a folder of videos, images and folders of frames, in any depth.

Beside `NAME.mkv` a `NAME.csv` holds its boxes (`irstd.data.importers.table`); a recording without one is unlabelled. A
folder below the source that holds still images and no video is one sequence, its frames in natural order, and its CSV
lies beside the folder. Images in the source itself are a sequence each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath

from irstd.data.annotations import Annotations
from irstd.data.importers.base import Annotate, Candidate, Found, Listing, Options, no_list, options, some
from irstd.data.importers.folders import gaps
from irstd.data.importers.table import read_table
from irstd.data.raw import is_raw
from irstd.data.stills import is_still
from irstd.data.video import is_video

NAME = "simple"
COVERS: tuple[str, ...] = ()

# (listing, path of the recording without its suffix, options) -> how to make its targets, or None.
Labels = Callable[[Listing, PurePosixPath, Options], Annotate | None]


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    videos = len(_videos(listing))
    stills = sum(is_still(path) for path in listing.files)
    return f"{videos} videos and {stills} images" if videos or stills else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """The recordings of the source. `InputError` where a sidecar cannot be read."""
    no_list(list_name, NAME)
    candidates = recordings(listing, _csv)
    messages = []
    loose = [c for c in candidates if c.folder is None and is_still(c.recording) and len(c.recording.parts) == 1]
    if len(loose) > 1:
        messages.append(
            f"{len(loose)} images lie in the source itself: each is a sequence of one frame "
            "(as one sequence: put them in a folder below the source)"
        )
    for each in candidates:
        if each.folder is not None and (jumps := gaps(list(each.files))):
            messages.append(
                f"{each.folder}: frame numbers jump ({some(jumps)}): taken as neighbours; where the recording paused, make two "
                "folders"
            )
    used = {c.recording.parent / f"{_stem(c.recording, c.folder is not None)}.csv" for c in candidates}
    if idle := [path for path in listing.files if path.suffix.lower() == ".csv" and path not in used]:
        messages.append(f"not read, no recording of that name beside it: {some(idle)}")
    return Found(candidates, messages=messages)


def recordings(listing: Listing, labels: Labels) -> list[Candidate]:
    """Every recording of the source with what sidecars and `labels` say of it."""
    stills = Counter(path.parent for path in listing.files if is_still(path))
    top = PurePosixPath(".")
    videos = _videos(listing)
    mixed = {path.parent for path in videos} | {top}
    mixed |= {parent for folder in stills for parent in folder.parents}
    found = []
    for path in listing.files:
        if path in videos or (is_still(path) and path.parent in mixed):
            found.append(_candidate(listing, labels, path, (path,), None))
    frames: dict[PurePosixPath, list[PurePosixPath]] = {}
    for path in listing.files:
        if is_still(path) and path.parent not in mixed:
            frames.setdefault(path.parent, []).append(path)
    found += [_candidate(listing, labels, folder, tuple(files), folder) for folder, files in frames.items()]
    return found


def _videos(listing: Listing) -> set[PurePosixPath]:
    """The videos; a file of bytes whose name does not say so (`.bin`) is one where a sidecar says its layout."""
    found = {path for path in listing.files if is_video(path)}
    return found | {p for p in listing.files if is_raw(p) and p not in found and options(listing, p, p.stem).raw}


def _stem(recording: PurePosixPath, is_folder: bool) -> str:
    """A folder's name may have dots in it."""
    return recording.name if is_folder else recording.stem


def _candidate(
    listing: Listing,
    labels: Labels,
    recording: PurePosixPath,
    files: tuple[PurePosixPath, ...],
    folder: PurePosixPath | None,
) -> Candidate:
    stem = _stem(recording, folder is not None)
    said = options(listing, recording, stem)
    return Candidate(
        name=(recording.parent / stem).as_posix(),
        files=files,
        folder=folder,
        annotate=labels(listing, recording.parent / stem, said),
        group=said.group,
        licence=said.licence,
        bit_depth=said.bit_depth,
        fps=said.fps,
        raw=said.raw if is_raw(recording) else None,
    )


def _csv(listing: Listing, stem: PurePosixPath, said: Options) -> Annotate | None:
    path = stem.parent / f"{stem.name}.csv"
    if not listing.has(path):
        return None

    def annotate(frames: int, height: int, width: int) -> Annotations:
        where = str(path)
        table = read_table(listing.path(path), where)
        found = Annotations.build(table.rows, frames, where, others_labelled=not said.listed)
        return found.validate(frames, height, width, where, table.lines)

    return annotate
