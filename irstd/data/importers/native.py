"""Recordings with labels in this project's canonical form: `NAME.mkv`, `NAME.annotations.json`, `NAME.yaml`."""

from __future__ import annotations

from pathlib import PurePosixPath

from irstd.data.annotations import Annotations
from irstd.data.importers import simple
from irstd.data.importers.base import Annotate, Found, Listing, Options, no_list, some
from irstd.data.importers.text import read_text
from irstd.errors import InputError

NAME = "native"
COVERS: tuple[str, ...] = ()
ENDING = ".annotations.json"


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    count = sum(path.name.endswith(ENDING) for path in listing.files)
    return f"{count} files *{ENDING}" if count else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """The recordings of the source; one without `NAME.annotations.json` is unlabelled."""
    no_list(list_name, NAME)
    used: set[PurePosixPath] = set()

    def labels(listing: Listing, stem: PurePosixPath, said: Options) -> Annotate | None:
        path = stem.parent / f"{stem.name}{ENDING}"
        if listing.has(stem.parent / f"{stem.name}.csv"):
            raise InputError(
                f"{stem}.csv: in a source with *{ENDING} labels are not read from CSV: remove it, or ingest it apart"
            )
        if not listing.has(path):
            return None
        used.add(path)

        def annotate(frames: int, height: int, width: int) -> Annotations:
            where = str(path)
            text = read_text(listing.path(path), where)
            return Annotations.from_json(text, where).validate(frames, height, width, where)

        return annotate

    candidates = simple.recordings(listing, labels)
    idle = [path for path in listing.files if path.name.endswith(ENDING) and path not in used]
    if idle:
        raise InputError(f"{some(idle, 1)}: no recording of that name beside it: add the recording, or remove the file")
    return Found(candidates)
