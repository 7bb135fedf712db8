"""Folders of frames: which hold a sequence, how it is called, and where it is cut."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath

from irstd.data.importers.base import Listing, some
from irstd.errors import InputError

SplitOf = Callable[[PurePosixPath], str | None]

_SPLITS = r"(?:unlabelled|unlisted|gate|train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?:(?:19|20)\d\d)?"
_SPLIT = re.compile(_SPLITS, re.IGNORECASE)
_COLLECTION = re.compile(rf"images?|imgs?|jpegimages|pngimages|all|{_SPLITS}", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)(?!.*\d)")


def level(folder: PurePosixPath) -> tuple[str, ...]:
    """The folder above, whatever the split that folders on the way are named for."""
    return tuple(part for part in folder.parts[:-1] if not _SPLIT.fullmatch(part))


def collects(folder: PurePosixPath) -> bool:
    """Whether a folder's name says that it merely collects images."""
    return not folder.parts or bool(_COLLECTION.fullmatch(folder.name))


def names_of(listing: Listing, folders: list[PurePosixPath], stills: bool) -> dict[PurePosixPath, str]:
    """{folder: name}: without the parts that merely collect, where what is left tells them apart."""
    short = {}
    for folder in folders:
        parts = [part for part in folder.parts if not _COLLECTION.fullmatch(part)]
        short[folder] = "/".join(parts) or ("" if stills and collects(folder) else folder.name or listing.root.name)
    counts = Counter(short.values())
    return {folder: name if counts[name] == 1 else folder.as_posix() for folder, name in short.items()}


def stretches(
    folder: PurePosixPath, files: list[PurePosixPath], split_of: SplitOf, reset: int | None, messages: list[str]
) -> list[list[PurePosixPath]]:
    """Cut the frames of a folder where no clip may cross: where numbers jump, every `reset` frames, where splits change.

    Jumps are added to `messages`. `InputError` where two files have one number.
    """
    numbers = [_numbered(path.stem) for path in files]
    jumps, resets = _jumps(files, numbers, reset)
    found, split = [[files[0]]], split_of(files[0])
    for index in range(1, len(files)):
        now, anew = split_of(files[index]), index in jumps or index in resets
        # A frame that no list names goes with those before it.
        if anew or (split and now and now != split):
            found.append([])
            split = None
        split = now or split
        found[-1].append(files[index])
    if jumps:
        shown = some(f"{files[index - 1].name} to {files[index].name}" for index in sorted(jumps))
        messages.append(f"{folder}: frame numbers jump ({shown}): cut there, since no clip may cross a gap")
    return found


def gaps(files: list[PurePosixPath]) -> list[str]:
    """Where the numbers of a folder's frames jump, as "3.png to 5.png". `InputError` where two files have one number."""
    jumps, _ = _jumps(files, [_numbered(path.stem) for path in files], None)
    return [f"{files[index - 1].name} to {files[index].name}" for index in sorted(jumps)]


def _jumps(
    files: list[PurePosixPath], numbers: list[tuple[str, int] | None], reset: int | None
) -> tuple[set[int], set[int]]:
    """Indices of the files before which numbers jump, and before which recordings start anew."""
    known = [each for each in numbers if each]
    if len(known) < len(files):
        return set(), set()
    seen: dict[tuple[str, int], PurePosixPath] = {}
    for path, key in zip(files, known, strict=True):
        if key in seen:
            raise InputError(f"{seen[key]} and {path.name}: both are frame {key[1]}: remove one of them")
        seen[key] = path
    pairs = list(enumerate(zip(known, known[1:], strict=False), start=1))
    steps = Counter(b[1] - a[1] for _, (a, b) in pairs if a[0] == b[0])
    usual = steps.most_common(1)[0][0] if steps else 1
    jumps = {index for index, (a, b) in pairs if a[0] != b[0] or b[1] - a[1] != usual}
    if 2 * len(jumps) > len(pairs):  # the names do not count frames: times, for example
        jumps = set()
    return jumps, {index for index, (a, b) in pairs if reset and a[1] // reset != b[1] // reset}


def _numbered(stem: str) -> tuple[str, int] | None:
    match = _NUMBER.search(stem)
    return (stem[: match.start()] + "#" + stem[match.end() :], int(match[1])) if match else None
