"""The lists of the moving-target sets (DAUB, ITSDT-15K, IRDST, ...): one line a frame, `PATH x1,y1,x2,y2,class ...`.

Paths are those of the authors' machine and are found by their tails. Coordinates are edges in pixels from 0, x2 and y2
exclusive: w = x2 - x1. A line without a box is an empty frame, a frame without a line is unlabelled. File numbers are
not padded. `classes.txt` names the classes, one a line. Lists called train, val, test are the published split. Source:
the repositories of UESTC-nnLab (SSTNet, Tridos and others), `coco_train_DAUB.txt`.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from irstd.data.annotations import DEFAULT_CLASS
from irstd.data.importers import lists
from irstd.data.importers.base import Found, Listing
from irstd.data.importers.images import Labels, Targets, sequences
from irstd.data.importers.roots import Roots
from irstd.data.importers.text import number, read_lines, whole
from irstd.errors import InputError

NAME = "nnlab"
COVERS: tuple[str, ...] = ()
DEPTH = 3  # folders down to which lists are looked for
_LINE = re.compile(r"(?P<path>.+?\.(?:bmp|png|jpe?g|tiff?))(?P<boxes>(?:\s+\S+)*)\s*", re.IGNORECASE)
_BOX = re.compile(r"[^,\s]+(?:,[^,\s]+){3,4}")
HEAD = 1 << 16  # bytes in which a list shows itself


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    files = list_files(listing)
    return f"{len(files)} lists of frames with boxes, such as {files[0]}" if files else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each folder with listed frames. `InputError` where a line cannot be read, or names no frame."""
    name, labels, messages = read_lists(listing, list_name)
    return sequences(listing, labels, name, stills=False, messages=messages)


def list_files(listing: Listing) -> list[PurePosixPath]:
    """The text files in which a line names an image and a box."""
    return [p for p in listing.files if p.suffix.lower() == ".txt" and len(p.parts) <= DEPTH and _sniff(listing, p)]


def read_lists(listing: Listing, list_name: str | None) -> tuple[str | None, Labels, list[str]]:
    """(name of the published list, labels, messages)."""
    name, files, messages = lists.choose(list_files(listing), list_name)
    roots, labels, classes = Roots(listing), Labels(), class_names(listing)
    for path, split in files.items():
        for line, text in read_lines(listing.path(path), str(path)):
            where = f"{path}: line {line}"
            match = _LINE.fullmatch(text)
            if not match:
                raise InputError(
                    f"{where}: {text[:60]!r} does not begin with an image: write PATH x1,y1,x2,y2,class ..."
                )
            targets = labels.image(roots.find(match["path"], where, split), where, split)
            for box in match["boxes"].split():
                labels.thin += _add(targets, box, where, classes)
    return name, labels, messages


def class_names(listing: Listing) -> list[str]:
    """The names of `classes.txt`, here or in `model_data/`."""
    for path in (PurePosixPath("classes.txt"), PurePosixPath("model_data/classes.txt")):
        if listing.has(path):
            return [text for _, text in read_lines(listing.path(path), str(path))]
    return []


def class_name(index: int, names: list[str], where: str) -> str:
    """The name of class `index` from 0; without names the first is the default class."""
    if index < 0 or (names and index >= len(names)):
        raise InputError(f"{where}: class {index} has no name: classes are counted from 0, {len(names)} are named")
    return names[index] if names else DEFAULT_CLASS if index == 0 else f"class-{index}"


def _add(targets: Targets, text: str, where: str, names: list[str]) -> bool:
    cells = text.split(",")
    if len(cells) not in (4, 5):
        raise InputError(f"{where}: box {text!r} has {len(cells)} numbers: write x1,y1,x2,y2,class")
    x1, y1, x2, y2 = (number(cell, where, f"box {text!r}: {cell!r}") for cell in cells[:4])
    index = whole(cells[4], where, "the class") if len(cells) == 5 else 0
    return targets.add((x1, y1, x2 - x1, y2 - y1), where, class_name(index, names, where))


def _sniff(listing: Listing, path: PurePosixPath) -> bool:
    with (listing.root / path).open("rb") as file:
        head = file.read(HEAD)
    text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace")
    for line in re.split(r"[\r\n]+", text):
        match = _LINE.fullmatch(line.strip().lstrip("\ufeff"))
        if match and any(_BOX.fullmatch(box) for box in match["boxes"].split()):
            return True
    return False
