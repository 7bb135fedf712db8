"""COCO files: `images`, `annotations` with `bbox` [x, y, w, h] from 0, `categories`; anywhere in the source.

A listed image without annotation is empty; an image that no file lists is unlabelled, and so are all of a file without
`annotations`. Crowd boxes (`iscrowd`), and those with `ignore`, are ignore boxes. `area` is not read. Where every
annotation has a segmentation that is more than its box, the set has masks. Files called train, val, test are the
published split. Source: cocodataset.org, "Data format"; the field's files are DAUB_instances_train2017.json and the like.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from irstd.data.importers import lists
from irstd.data.importers.base import Found, Listing, some
from irstd.data.importers.coco_masks import has_outline, masked
from irstd.data.importers.images import Labels, Targets, sequences
from irstd.data.importers.roots import Roots
from irstd.data.importers.text import number, read_mapping
from irstd.errors import InputError

NAME = "coco"
COVERS: tuple[str, ...] = ()
HEAD = 1 << 16
_KEYS = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    files = json_files(listing)
    return f"{len(files)} COCO files, such as {files[0]}" if files else None


def json_files(listing: Listing) -> list[PurePosixPath]:
    """The JSON files that look like COCO's."""
    found = []
    for path in listing.files:
        if path.suffix.lower() == ".json" and not path.name.endswith(".annotations.json"):
            with (listing.root / path).open("rb") as file:
                head = file.read(HEAD).replace(b"\0", b"")  # UTF-16 shows itself too
            if _KEYS.search(head):
                found.append(path)
    return found


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each sequence or still image. `InputError` where a file contradicts itself or the source."""
    name, files, messages = lists.choose(json_files(listing), list_name)
    roots, labels = Roots(listing), Labels()
    outlines: list[tuple[Targets, list[Any]]] = []
    complete = True
    for path, split in files.items():
        tree = read_mapping(listing.path(path), str(path))
        images = _images(tree, path, roots, labels, split)
        if "annotations" not in tree:
            messages.append(f"{path}: has no annotations: its images are unlabelled")
            for image, _ in images.values():
                del labels.images[image]
            continue
        found, all_outlined = _annotations(tree, path, {key: targets for key, (_, targets) in images.items()}, labels)
        outlines += found
        complete = complete and all_outlined
    if complete and any(segments for _, segments in outlines):
        for targets, segments in outlines:
            targets.mask = masked(segments, targets.where)
    return sequences(listing, labels, name, messages=messages)


def _images(
    tree: dict[str, Any], path: PurePosixPath, roots: Roots, labels: Labels, split: str | None
) -> dict[Any, tuple[PurePosixPath, Targets]]:
    """{id: (image, its entry)}."""
    found: dict[Any, tuple[PurePosixPath, Targets]] = {}
    for index, entry in enumerate(_entries(tree, "images", str(path))):
        where = f"{path}: images[{index}]"
        if not isinstance(entry.get("file_name"), str) or not isinstance(entry.get("id"), (int, str)):
            raise InputError(f"{where}: has no id, or no file_name: give both")
        if entry["id"] in found:
            raise InputError(f"{where}: id {entry['id']} is another image's too: number the images anew")
        image = roots.find(entry["file_name"], where, split)
        targets = labels.image(image, where, split)
        if "width" in entry and "height" in entry:
            targets.size = (number(entry["width"], where, "width"), number(entry["height"], where, "height"))
        found[entry["id"]] = (image, targets)
    return found


def _annotations(
    tree: dict[str, Any], path: PurePosixPath, images: dict[Any, Targets], labels: Labels
) -> tuple[list[tuple[Targets, list[Any]]], bool]:
    """([(entry, its segmentations)] of all images, whether every target has one)."""
    names = _categories(tree, path)
    segments: dict[Any, list[Any]] = {key: [] for key in images}
    entries = _entries(tree, "annotations", str(path))
    strangers = [e.get("image_id") for e in entries if not _known(e.get("image_id"), images)]
    if strangers:
        raise InputError(
            f"{path}: {len(strangers)} annotations are of images that 'images' does not list (image_id "
            f"{some(dict.fromkeys(map(str, strangers)))}): complete the file, or remove them"
        )
    complete = True
    for index, entry in enumerate(entries):
        where = f"{path}: annotations[{index}] (id {entry.get('id')})"
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise InputError(f"{where}: bbox is {box!r}: give [x, y, width, height]")
        x, y, w, h = (number(value, where, "a number of bbox") for value in box)
        if not _known(entry.get("category_id"), names):
            raise InputError(f"{where}: category_id {entry.get('category_id')!r} is not in 'categories': add it there")
        ignore = bool(entry.get("iscrowd") or entry.get("ignore"))
        thin = images[entry["image_id"]].add((x, y, w, h), where, names[entry["category_id"]], ignore)
        labels.thin += thin
        if not ignore and not thin:
            outlined = has_outline(entry.get("segmentation"), (x, y, w, h))
            complete = complete and outlined
            segments[entry["image_id"]].append(entry.get("segmentation"))
    return [(images[key], found) for key, found in segments.items()], complete


def _categories(tree: dict[str, Any], path: PurePosixPath) -> dict[Any, str]:
    found = {}
    for index, entry in enumerate(_entries(tree, "categories", str(path))):
        if not isinstance(entry.get("name"), str) or not entry["name"] or not isinstance(entry.get("id"), (int, str)):
            raise InputError(f"{path}: categories[{index}]: has no id, or no name: give both")
        found[entry["id"]] = entry["name"]
    return found


def _entries(tree: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found = tree.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{where}: {key!r} is missing, or no list of objects: give a COCO file with it")
    return found


def _known(key: Any, among: dict[Any, Any]) -> bool:
    return isinstance(key, (int, str)) and key in among
