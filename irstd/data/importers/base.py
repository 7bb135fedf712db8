"""What every importer shares: the listing of a source folder, candidates, sidecars."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from natsort import natsorted

from irstd.data import sidecar
from irstd.data.annotations import Annotations
from irstd.data.raw import Layout, is_raw
from irstd.data.sidecar import SIDECAR, Options
from irstd.data.stills import is_still
from irstd.data.video import check_name, is_video
from irstd.errors import InputError

_SKIPPED = {"__MACOSX", "Thumbs.db", "desktop.ini"}

# (frames, height, width) of the decoded recording -> its targets, checked against them.
Annotate = Callable[[int, int, int], Annotations]


@dataclass(frozen=True)
class Candidate:
    """A recording that can become a sequence.

    `name`: the relative path that the slug is made of; `files`: the recording, relative to the source, in order (one
    file, or the frames of `folder`); `annotate`: makes the targets once the recording is decoded, None: unlabelled;
    `group`: None for a group of its own; `raw`: how a headerless file is read; `split`: where a published list puts it.
    """

    name: str
    files: tuple[PurePosixPath, ...]
    folder: PurePosixPath | None = None
    annotate: Annotate | None = None
    group: str | None = None
    licence: str | None = None
    bit_depth: int | None = None
    fps: float | None = None
    raw: Layout | None = None
    split: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def recording(self) -> PurePosixPath:
        """The file, or the folder of frames."""
        return self.folder or self.files[0]


@dataclass(frozen=True)
class Found:
    """What an importer makes of a source. `published`: name of the list that the splits come from."""

    candidates: list[Candidate]
    published: str | None = None
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Listing:
    """The files of a source, relative to `root`, in natural order; hidden ones are left out.

    `read`: those that were asked for by `path`, that is all of which a reader has seen the content.
    """

    root: Path
    files: tuple[PurePosixPath, ...]
    read: set[PurePosixPath] = field(default_factory=set)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", frozenset(self.files))

    def has(self, path: PurePosixPath) -> bool:
        return path in self._known  # type: ignore[attr-defined]

    def under(self, folder: str) -> list[PurePosixPath]:
        """Files directly in a top-level folder."""
        return [path for path in self.files if path.parent == PurePosixPath(folder)]

    def path(self, relative: PurePosixPath) -> Path:
        self.read.add(relative)
        return self.root / relative

    def unread(self, candidates: Iterable[Candidate]) -> list[PurePosixPath]:
        """Files that are no recording of `candidates` and that nobody has read."""
        used = self.read.union(*(candidate.files for candidate in candidates))
        return [path for path in self.files if path not in used]


def scan(source: Path) -> Listing:
    """List a source: a folder, or one recording (with the sidecars beside it).

    `InputError` where it is missing, a link leaves it, or a name is no text.
    """
    if source.is_file():
        if not (is_video(source) or is_raw(source) or is_still(source)):
            raise InputError(
                f"{source.name}: not a recording: give a video (mkv, mp4, avi, mov, cptv, raw), an image, or a folder"
            )
        check_name(source.name)
        beside = [source.stem + ending for ending in (".csv", ".yaml", ".annotations.json")]
        names = [source.name, *(name for name in [*beside, SIDECAR] if (source.parent / name).is_file())]
        return Listing(source.parent, tuple(PurePosixPath(name) for name in dict.fromkeys(names)))
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder: give the folder that holds the recordings")
    root = source.resolve()
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not _hidden(name)]
        at = Path(folder)
        for path in (at / name for name in folders + files if not _hidden(name)):
            shown = path.relative_to(root)
            check_name(shown.as_posix())
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise InputError(f"{shown}: is a link that leaves {source}: copy the file in, or remove the link")
            if path.is_symlink() and not path.exists():
                raise InputError(f"{shown}: is a link to nothing: copy the file in, or remove the link")
            if path.is_file():
                found.append(shown.as_posix())
    return Listing(root, tuple(PurePosixPath(name) for name in natsorted(sorted(found))))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _SKIPPED


def options(listing: Listing, recording: PurePosixPath, name: str) -> Options:
    """What the sidecars say: `irstd.yaml` of its folder and those above, then `name`.yaml beside it, which wins."""
    parents = [parent for parent in reversed(recording.parents) if parent != recording]
    wanted = [parent / SIDECAR for parent in parents] + [recording.parent / f"{name}.yaml"]
    given: dict[str, Any] = {}
    for path in dict.fromkeys(wanted):
        if listing.has(path):
            given |= sidecar.read(listing.path(path), str(path))
    return Options(**given)


def no_list(list_name: str | None, format: str) -> None:
    """For importers without published lists."""
    if list_name is not None:
        raise InputError(f"--list {list_name}: the format {format!r} has no published lists: leave --list out")


def some(items: Iterable[Any], most: int = 3) -> str:
    """A few of many, for a message: "a, b, c and 7 more"."""
    names = [str(item) for item in items]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
