"""Centre points: a folder of frames with a `points.csv` in it, columns frame, x, y and optionally file and class.

Frames are counted from 0 in natural order of the files; `file`, where given, has to agree. Points name pixel centres: (0,
0) is the centre of the first pixel. A frame without a row is empty (with `labelled: listed` in a sidecar, unlabelled).
"""

from __future__ import annotations

from pathlib import PurePosixPath

from irstd.data.annotations import Annotations
from irstd.data.importers.base import Annotate, Candidate, Found, Listing, Options, no_list, options
from irstd.data.importers.table import read_table
from irstd.data.stills import is_still

NAME = "points"
COVERS: tuple[str, ...] = ()
FILE = "points.csv"


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    found = _files(listing)
    return f"{len(found)} folders of frames with a {FILE}" if found else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each folder of frames; those without the file are unlabelled."""
    no_list(list_name, NAME)
    frames: dict[PurePosixPath, list[PurePosixPath]] = {}
    for path in filter(is_still, listing.files):
        frames.setdefault(path.parent, []).append(path)
    labelled, candidates = _files(listing), []
    for folder, files in frames.items():
        own = folder.name or listing.root.name
        said = options(listing, folder if folder.parts else files[0], own)
        candidates.append(
            Candidate(
                name=folder.as_posix() if folder.parts else own,
                files=tuple(files),
                folder=folder,
                annotate=_annotate(listing, folder / FILE, files, said) if folder in labelled else None,
                group=said.group,
                licence=said.licence,
                bit_depth=said.bit_depth,
                fps=said.fps,
            )
        )
    return Found(candidates)


def _files(listing: Listing) -> set[PurePosixPath]:
    stills = {path.parent for path in listing.files if is_still(path)}
    return {path.parent for path in listing.files if path.name == FILE and path.parent in stills}


def _annotate(listing: Listing, path: PurePosixPath, files: list[PurePosixPath], said: Options) -> Annotate:
    def make(frames: int, height: int, width: int) -> Annotations:
        table = read_table(listing.path(path), str(path), names=[file.name for file in files])
        found = Annotations.build(table.rows, frames, str(path), others_labelled=not said.listed)
        return found.validate(frames, height, width, str(path), table.lines)

    return make
