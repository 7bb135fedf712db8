"""Which split a file's name says, and which of several published lists is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from irstd.errors import InputError, nearest

_PART = re.compile(
    r"(?:^|(?<=[_\-. ]))(trainval|train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|gate|unlisted)(?:(?:19|20)\d\d)?(?=$|[_\-. ])",
    re.IGNORECASE,
)
_SPLITS = {"tra": "train", "val": "val", "tes": "test", "gat": "gate", "unl": "unlisted"}


def part_of(name: str) -> tuple[str | None, str]:
    """(split, the rest) of a name: "coco_train_DAUB" -> ("train", "coco_DAUB"); trainval counts as train."""
    match = next(reversed(list(_PART.finditer(name))), None)
    if not match:
        return None, name
    pieces = (name[: match.start()].strip("_-. "), name[match.end() :].strip("_-. "))
    return _SPLITS[match[1].lower()[:3]], "_".join(filter(None, pieces))


def split_in(path: PurePosixPath) -> str | None:
    """The split that a folder on the path is named for: images/test/data6/0.bmp -> "test"."""
    for part in path.parts[:-1]:
        split, rest = part_of(part)
        if split and not rest:
            return split
    return None


def choose(
    files: Iterable[PurePosixPath], wanted: str | None
) -> tuple[str | None, dict[PurePosixPath, str | None], list[str]]:
    """(name of the published list or None, {file to read: its split}, messages).

    Files whose names differ by their split alone (train_X, test_X) are one list. Without any such name all files are
    read, and none gives a split. `InputError` where several lists are there and `wanted` names none of them.
    """
    lists: dict[str, dict[PurePosixPath, str | None]] = {}
    plain: dict[PurePosixPath, str | None] = {}
    for path in files:
        split, rest = part_of(path.stem)
        if split:
            lists.setdefault(rest or path.parent.name or "lists", {})[path] = split
        else:
            plain[path] = None
    if wanted is not None and wanted not in lists:
        there = ", ".join(lists) or "none"
        raise InputError(f"--list {wanted}: no such list{nearest(wanted, lists)}; there are: {there}")
    if len(lists) > 1 and wanted is None:
        raise InputError(f"{len(lists)} published lists are here: {', '.join(lists)}: choose one with --list NAME")
    if not lists:
        return None, plain, []
    name = wanted or next(iter(lists))
    idle = [str(path) for path in plain]
    return name, lists[name], [f"not read beside the list {name}: {', '.join(idle)}"] if idle else []
