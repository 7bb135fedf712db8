"""A public set as one folder that its importer reads: what is fetched, what was downloaded by hand, or both.

Fetched files lie in `fetched/<set>/` of IRSTD_HOME and stay there. What the user downloaded lies in `downloads/<set>/`, or
anywhere else that is given; it is never written to. Where the two have to lie in one folder, they are put there as hard
links, and the archives are unpacked beside them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from irstd.data import archives
from irstd.data.importers import FORMATS, Listing, scan
from irstd.data.public.records import PublicSet, RemoteFile
from irstd.errors import InputError, WorkError
from irstd.files import read_json, sha256_file, write_json, writing

REMEMBERED = "by-hand.json"  # {archive: sha256 when it first came}, beside the fetched files

# Called with (bytes done, bytes in all or 0, what).
Tell = Callable[[int, int, str], None]


def hand_place(known: PublicSet, home: Path) -> Path:
    """Where the user puts what is downloaded by hand."""
    return home / "downloads" / known.slug


def present(known: PublicSet, home: Path) -> str | None:
    """What of the set lies under IRSTD_HOME: "by hand", "fetched", "partly fetched", "its lists", or None."""
    if _filled(hand_place(known, home)):
        return "by hand"
    folder = home / "fetched" / known.slug
    there = sum((folder / file.place).is_file() for file in known.files)
    if not there:
        return None
    return "its lists" if known.by_hand else "fetched" if there == len(known.files) else "partly fetched"


def obtain(known: PublicSet, home: Path, work: Path, given: Path | None = None, tell: Tell | None = None) -> Path:
    """The folder with the set in the layout of its importer.

    Args:
        home: IRSTD_HOME.
        work: an empty folder on its file system; who called removes it.
        given: a folder or an archive with the set; default: what lies in the set's place for downloads, if anything does.
        tell: called while files come and archives are unpacked.

    Raises:
        InputError: it has to be downloaded by hand and is not there, or what is there is not laid out like the set.
        WorkError: a server or the disk fails; the same call goes on where it was.
    """
    place = hand_place(known, home)
    given = given or (place if _filled(place) else None)
    if given is None and known.by_hand:
        raise InputError(
            f"{known.name}: put {known.by_hand[1]} into {_short(place)}, or give it with --from; the same command then goes on"
        )
    fetched = home / "fetched" / known.slug
    # What is given takes the place of a set that could be fetched whole; lists that lie in it, of those that could be.
    lists = [file for file in known.files if file.place.endswith(".txt")]
    if given is not None and given.is_dir() and (_any(lists, given) or not lists) and _as_it_is(known, scan(given)):
        return given
    root = work / "set"
    root.mkdir()
    if given is None:
        wanted = known.files
    else:
        _take(known, given, root, fetched, tell)
        root = _settle(known, root)
        wanted = [] if _any(lists, root) else lists
    if wanted:
        _fetch(known, wanted, fetched, tell)
    for file in wanted:
        _link(fetched / file.place, root / file.place)
    if not _fits(known, scan(root)):
        wish = (
            known.by_hand[1]
            if known.by_hand
            else f"a clone of {known.home}, or its folder with the files of that format"
        )
        raise InputError(
            f"{given or known.name}: is not laid out as {known.name} is (format {known.format!r}): give {wish}"
        )
    return root


def _filled(place: Path) -> bool:
    return place.is_dir() and any(not path.name.startswith(".") for path in place.iterdir())


def _short(place: Path) -> str:
    try:
        return f"{place.relative_to(Path.cwd())}/"
    except ValueError:
        return f"{place}/"


def _any(files: list[RemoteFile], folder: Path) -> bool:
    return any((folder / file.place).is_file() for file in files)


def _fits(known: PublicSet, listing: Listing) -> bool:
    return FORMATS[known.format].recognise(listing) is not None


def _as_it_is(known: PublicSet, listing: Listing) -> bool:
    """Whether the importer can read the folder, and all files have the names that those that are fetched would have."""
    return _fits(known, listing) and all(known.place(path.as_posix()) == path.as_posix() for path in listing.files)


def _fetch(known: PublicSet, files: list[RemoteFile], folder: Path, tell: Tell | None) -> None:
    """Bring the files to `folder`, one process at a time."""
    from irstd.data.public import download

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            download.fetch(files, folder, tell)
    except Timeout:
        raise InputError(f"{known.name}: another irstd ingest is fetching it: wait until it is done") from None


def _take(known: PublicSet, given: Path, root: Path, memory: Path, tell: Tell | None) -> None:
    """What was given into `root`: archives unpacked, other files as links."""
    if given.is_dir():
        listing = scan(given)
        packed = [path for path in listing.files if len(path.parts) == 1 and archives.is_archive(Path(path.name))]
        for path in listing.files:
            if path not in packed:
                _link(listing.root / path, root / path)
        found = [listing.root / path for path in packed]
    elif given.is_file() and archives.is_archive(given):
        found = [given]
    else:
        raise InputError(f"{given}: no folder and no archive: give the folder or the archive with {known.name}")
    for archive in found:
        _remember(archive, memory / REMEMBERED)
        named = archive.name
        archives.unpack(archive, root, (lambda done, total, named=named: tell(done, total, named)) if tell else None)


def _remember(archive: Path, path: Path) -> None:
    """No checksum of what is downloaded by hand is published: the one that it had first is compared from then on."""
    first = read_json(path) if path.exists() else {}
    found = sha256_file(archive)
    if first.get(archive.name, found) != found:
        raise InputError(
            f"{archive.name}: its sha256 is {found[:12]}, and was {first[archive.name][:12]} when it first came: get it again; "
            f"where the new one is right, remove {path}"
        )
    if archive.name not in first:
        with writing(path):
            write_json(path, first | {archive.name: found})


def _settle(known: PublicSet, root: Path) -> Path:
    """The folder that holds the set, however many folders it was packed in, its files where the importer looks for them."""
    levels = [scan(root)]
    while len(inner := {path.parts[0] for path in levels[-1].files if len(path.parts) > 1}) == 1:
        levels.append(scan(levels[-1].root / inner.pop()))
    for level in reversed(levels):
        moves = {path: place for path in level.files if (place := known.place(path.as_posix())) != path.as_posix()}
        for path, place in moves.items():
            (level.root / place).parent.mkdir(parents=True, exist_ok=True)
            (level.root / path).rename(level.root / place)
        if _fits(known, scan(level.root) if moves else level):
            return level.root
    return root  # as it is: who called looks once more when the lists are there


def _link(source: Path, target: Path) -> None:
    """One more name of a file; a copy where the file system does not allow it."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:
            if source.stat().st_size > shutil.disk_usage(target.parent).free:
                raise WorkError(f"{source}: no room for a copy at {target.parent}: free some space") from None
            shutil.copyfile(source, target)
