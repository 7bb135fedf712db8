"""Pascal VOC: an XML file an image (`Annotations/NAME.xml`), its image anywhere under the same name.

Pixels are counted from 1 and xmax, ymax are inside: x = xmin - 1, w = xmax - xmin + 1. A file without objects is an
empty image, an image without a file is unlabelled, `difficult` objects are ignore boxes. Lists in `ImageSets/Main/`
(train, val, test, trainval) are the published split. DTDs and entities are refused. Source: the VOC2012 development kit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from irstd.data.annotations import DEFAULT_CLASS
from irstd.data.importers import lists
from irstd.data.importers.base import Found, Listing
from irstd.data.importers.images import Labels, Targets, sequences
from irstd.data.importers.roots import Roots
from irstd.data.importers.text import number, read_lines
from irstd.data.importers.xml import Element, parse
from irstd.data.stills import is_still
from irstd.errors import InputError

NAME = "voc"
COVERS: tuple[str, ...] = ()
FOLDERS = {"annotations", "annotation", "bbox", "bboxes", "xml", "xmls"}  # whose names say nothing of their images


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    files = _xmls(listing)
    for path in files:
        with (listing.root / path).open("rb") as file:
            head = file.read(4096).replace(b"\0", b"")
        if b"<annotation" in head or b"<!DOCTYPE" in head:
            return f"{len(files)} XML files, such as {path}"
    return None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each image. `InputError` where a file cannot be read, or has no image."""
    roots, labels = Roots(_images(listing), key=lambda path: path.stem), Labels()
    name, split_of = _splits(listing, list_name)
    messages = []
    for path in _xmls(listing):
        tree = parse(listing.path(path), str(path))
        if tree.tag != "annotation":
            messages.append(f"not read, no annotation: {path}")
            continue
        image = roots.find(path.as_posix(), str(path), bare=path.parent.name.lower() in FOLDERS or len(path.parts) < 3)
        targets = labels.image(image, str(path), split_of.get(path.stem))
        targets.size = _size(tree, str(path))
        for line, entry in enumerate(tree.all("object")):
            labels.thin += _add(targets, entry, f"{path}: object {line + 1}")
    have = {image.stem for image in labels.images}
    for stem in split_of:
        if stem not in have:
            raise InputError(f"ImageSets: names {stem!r}, which has no XML file: complete the set or the list")
    return sequences(listing, labels, name, messages=messages)


def _xmls(listing: Listing) -> list[PurePosixPath]:
    return [path for path in listing.files if path.suffix.lower() == ".xml"]


def _images(listing: Listing) -> Listing:
    """Without folders of masks, which hold images of the same names."""
    masks = ("mask", "label", "segmentation")
    kept = [
        p for p in listing.files if is_still(p) and not any(m in part.lower() for part in p.parts[:-1] for m in masks)
    ]
    return replace(listing, files=tuple(kept))


def _splits(listing: Listing, wanted: str | None) -> tuple[str | None, dict[str, str]]:
    files = [p for p in listing.files if p.parts[-2:-1] in (("Main",), ("ImageSets",)) and p.suffix == ".txt"]
    name, chosen, _ = lists.choose([path for path in files if lists.part_of(path.stem)[0]], wanted)
    told = {path.stem for path in chosen}
    found: dict[str, str] = {}
    for path, split in chosen.items():
        if path.stem == "trainval" and told & {"train", "val"}:
            continue
        for line, text in read_lines(listing.path(path), str(path)):
            stem = text.split()[0]
            if split and found.setdefault(stem, split) != split:
                raise InputError(f"{path}: line {line}: {stem!r} is in {found[stem]!r} too: an image has one split")
    return name, found


def _size(tree: Element, where: str) -> tuple[float, float] | None:
    size = tree.first("size")
    if size is None or size.text_of("width") is None or size.text_of("height") is None:
        return None
    width, height = (number(size.text_of(key), where, key) for key in ("width", "height"))
    return (width, height) if width and height else None  # some tools write 0


def _add(targets: Targets, entry: Element, where: str) -> bool:
    box = entry.first("bndbox")
    if box is None:
        raise InputError(f"{where}: has no bndbox: add it, or remove the object")
    corners = [number(box.text_of(key), where, key) for key in ("xmin", "ymin", "xmax", "ymax")]
    x1, y1, x2, y2 = corners
    if x2 < x1 or y2 < y1:
        raise InputError(f"{where}: xmax, ymax lie before xmin, ymin ({x1:g}, {y1:g}, {x2:g}, {y2:g}): correct the box")
    ignore = (entry.text_of("difficult") or "0") not in ("0", "false", "False")
    return targets.add(
        (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1), where, entry.text_of("name") or DEFAULT_CLASS, ignore
    )
