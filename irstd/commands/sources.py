"""What `irstd ingest SOURCE` means: a path (a folder, a recording, an archive), or the name of a public set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from irstd.commands.show import progress, say, size
from irstd.data import archives
from irstd.data.importers import scan
from irstd.data.public import SETS, PublicSet, find, hint
from irstd.data.public.obtain import obtain, present
from irstd.data.stills import is_still
from irstd.errors import InputError
from irstd.workspace import Workspace


@dataclass(frozen=True)
class Source:
    """`path`: what to ingest; `name`: what the user calls it; `unpacked`: whether `path` is a temporary folder."""

    path: Path
    name: str
    public: PublicSet | None = None
    unpacked: bool = False

    def shown(self, message: str) -> str:
        """A message without the names of temporary folders."""
        return message.replace(str(self.path), self.name) if self.unpacked else message


def resolve(source: Path, given: Path | None) -> PublicSet | None:
    """The public set that is meant, None for a path. `InputError` where it is neither.

    A path that is there is a path, whatever its name.
    """
    known = find(str(source))
    if given is not None:
        if known and not given.exists():
            raise InputError(
                f"--from {given}: no such file or folder: give the folder or the archive with {known.name}"
            )
        if known:
            return known
        raise InputError(
            f"{source}: no public set of that name{hint(str(source))}: --from goes with one; see irstd list sets"
        )
    if source.exists():
        if known:
            say(
                f"{source}: this is the {'folder' if source.is_dir() else 'file'} here, not the public set {known.name}"
            )
        return None
    if known:
        return known
    raise InputError(
        f"{source}: no such file or folder{hint(str(source))}: give recordings, an archive, or a name of irstd list sets"
    )


def open_source(workspace: Workspace, source: Path, known: PublicSet | None, given: Path | None, work: Path) -> Source:
    """The folder to ingest; what has to be fetched or unpacked goes into the empty folder `work`, or stays fetched."""
    if known:
        _introduce(known)
        if known.by_hand and given is None and present(known, workspace.home) != "by hand":
            say(f"{known.name}: download {known.by_hand[0]}")
        path = obtain(known, workspace.home, work, given, progress(known.name))
        return Source(path, known.name, known, unpacked=path.is_relative_to(work))
    if source.is_file() and archives.is_archive(source):
        folder, told = work / archives.stem(source), progress("unpack")
        folder.mkdir()
        archives.unpack(source, folder, lambda done, total: told(done, total, source.name))
        return Source(_inner(folder), source.name, unpacked=True)
    return Source(source, str(source))


def overview(workspace: Workspace) -> list[dict[str, str | None]]:
    """A row for each public set."""
    home = workspace.home
    return [
        {
            "set": each.name,
            "what": each.what,
            "licence": each.licence or "none stated",
            "how": "by hand" if each.by_hand else f"fetched, {size(sum(file.size for file in each.files))}",
            "here": ", ".join(
                filter(None, [present(each, home), "in data/" if (workspace.data / each.slug).is_dir() else None])
            )
            or None,
        }
        for each in SETS
    ]


def _introduce(known: PublicSet) -> None:
    say(f"{known.name}: {known.what}; {known.home}")
    say(f"{known.name}: licence: {known.licence or 'none stated; what you do with it is between you and its authors'}")
    say(f"{known.name}: cite {known.citation}")
    say(f"{known.name}: split: {known.split}")
    for note in known.notes:
        say(f"{known.name}: {note}")


def _inner(folder: Path) -> Path:
    """The folder that an archive was made of: below folders that hold nothing else, and no frames themselves."""
    while True:
        files = scan(folder).files
        inner = {path.parts[0] for path in files}
        alone = len(inner) == 1 and all(len(path.parts) > 1 for path in files)
        if not alone or any(len(path.parts) == 2 and is_still(path) for path in files):
            return folder
        folder /= inner.pop()
