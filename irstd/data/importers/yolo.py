"""YOLO: beside `images/.../NAME.png` a `labels/.../NAME.txt` (or the text file beside the image), one target a line.

A line is `class cx cy w h`, fractions of the image from 0; with more numbers, a polygon `class x1 y1 x2 y2 x3 y3 ...`,
of which the box is taken. An empty file is an empty image, and so is an image without a file, as Ultralytics has it
(`labelled: listed` in a sidecar makes it unlabelled); a folder without any label file is unlabelled. Names are read from
`data.yaml`, `classes.txt` or `obj.names`; folders called train, val, test are the published split. Source:
docs.ultralytics.com/datasets/detect.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import yaml

from irstd.data.importers import lists
from irstd.data.importers.base import Found, Listing, no_list, options
from irstd.data.importers.images import Labels, Targets, sequences
from irstd.data.importers.nnlab import class_name
from irstd.data.importers.text import number, read_lines, read_text, whole
from irstd.data.stills import is_still
from irstd.errors import InputError

NAME = "yolo"
COVERS: tuple[str, ...] = ()
ENOUGH = 50  # label files with content that are looked into: the first may be the damaged one
SLACK = 1.01  # fractions up to here are rounding; beyond, they are pixels
_LINE = re.compile(rb"\s*\d+(?:[ \t]+[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?){4,}\s*", re.IGNORECASE)


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    pairs = _pairs(listing)
    told = 0
    for label in pairs.values():
        with (listing.root / label).open("rb") as file:
            line = next((line for line in file.read(4096).splitlines() if line.strip()), b"").removeprefix(
                b"\xef\xbb\xbf"
            )
        good = bool(_LINE.fullmatch(line))
        # Beside images lie labels of other formats too, in pixels; in labels/ pixels are a mistake to be told of.
        if good and "labels" not in label.parts:
            good = max(map(float, line.split()[1:])) <= SLACK
        told += bool(line)
        if good:
            return f"{len(pairs)} label files `class cx cy w h`, such as {label}"
        if told == ENOUGH:
            return None
    empty = not told and any("labels" in label.parts for label in pairs.values())
    return f"{len(pairs)} empty label files in labels/" if empty else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each sequence or still image. `InputError` naming the line that cannot be read."""
    no_list(list_name, NAME)
    pairs, names, labels = _pairs(listing), _names(listing), Labels()
    folders = {image.parent for image in pairs}
    published = "folders" if any(lists.split_in(image) for image in pairs) else None
    bare = 0
    for image in (path for path in listing.files if is_still(path) and path.parent in folders):
        said = options(listing, image.parent, image.parent.name) if image.parent.parts else options(listing, image, "")
        label = pairs.get(image)
        if label is None and said.listed:
            continue
        bare += label is None
        targets = labels.image(image, str(label or image), lists.split_in(image))
        targets.relative = True
        for line, text in read_lines(listing.path(label), str(label)) if label else []:
            labels.thin += _add(targets, text, f"{label}: line {line}", names)
    messages = [f"{bare} images without a label file: taken as empty, as YOLO has it"] if bare else []
    return sequences(listing, labels, published, messages=messages)


def _pairs(listing: Listing) -> dict[PurePosixPath, PurePosixPath]:
    """{image: its label file}, of the images that have one."""
    found = {}
    for image in filter(is_still, listing.files):
        parts = list(image.with_suffix(".txt").parts)
        beside = PurePosixPath(*parts)
        for at in range(len(parts) - 2, -1, -1):
            if parts[at] == "images":
                parts[at] = "labels"
                break
        for path in (PurePosixPath(*parts), beside):
            if listing.has(path):
                found[image] = path
                break
    return found


def _names(listing: Listing) -> list[str]:
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if listing.has(path := PurePosixPath(name)):
            try:
                tree = yaml.safe_load(read_text(listing.path(path), name))
            except yaml.YAMLError as error:
                raise InputError(f"{name}: not readable as YAML ({' '.join(str(error).split())}): correct it") from None
            given = tree.get("names") if isinstance(tree, dict) else None
            if isinstance(given, dict) and sorted(given) == list(range(len(given))):
                given = [given[index] for index in range(len(given))]
            if not isinstance(given, list) or not all(isinstance(each, (str, int)) for each in given):
                raise InputError(f"{name}: names must be a list, or numbers from 0 to names: correct it")
            return [str(each) for each in given]
    for name in ("classes.txt", "labels/classes.txt", "obj.names"):
        if listing.has(path := PurePosixPath(name)):
            return [text for _, text in read_lines(listing.path(path), name)]
    return []


def _add(targets: Targets, text: str, where: str, names: list[str]) -> bool:
    cells = text.split()
    if len(cells) < 5 or (len(cells) > 5 and (len(cells) < 7 or len(cells) % 2 == 0)):
        raise InputError(f"{where}: has {len(cells)} numbers: write class cx cy w h, or class and a polygon's points")
    name = class_name(whole(cells[0], where, "the class"), names, where)
    values = [number(cell, where, "a coordinate") for cell in cells[1:]]
    if len(values) == 4:
        cx, cy, w, h = values
    else:
        xs, ys = values[::2], values[1::2]
        cx, cy, w, h = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)
    if max(cx, cy, w, h) > SLACK or min(cx, cy) < 1 - SLACK:
        raise InputError(
            f"{where}: {cx:g} {cy:g} {w:g} {h:g} are no fractions of the image: divide pixels by its width and height"
        )
    return targets.add((cx - w / 2, cy - h / 2, w, h), where, name)
