"""Sequences with a mask a frame: `SEQUENCE/images/00001.png`, `SEQUENCE/masks/00001.png` (NUDT-MIRSDT).

Lists train.txt, val.txt, test.txt name frames as `Sequence1/Mix/00001.mat`: what counts is the sequence and the frame's
name. A frame without a mask is unlabelled. `masks_centroid` is not read: points are the centroids of the masks. Source:
R. Li et al., "Direction-coded temporal U-shape module for multiframe infrared small target detection", TNNLS 2023.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from irstd.data.importers import lists
from irstd.data.importers.base import Found, Listing
from irstd.data.importers.images import Labels, sequences
from irstd.data.importers.masks import mask_file
from irstd.data.importers.text import read_lines
from irstd.data.stills import is_still
from irstd.errors import InputError

NAME = "mirsdt"
COVERS: tuple[str, ...] = ()
IMAGES, MASKS = "images", "masks"


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    found = _folders(listing)
    return f"{len(found)} folders with {IMAGES}/ and {MASKS}/, such as {found[0]}" if found else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each sequence. `InputError` where a list names what is not there."""
    folders = _folders(listing)
    labels, within = Labels(), _within(listing)
    for folder in folders:
        masks = {path.stem: path for path in within.get(folder / MASKS, [])}
        for image in within[folder / IMAGES]:
            if image.stem in masks:
                targets = labels.image(image, str(masks[image.stem]))
                targets.mask, targets.outlined = mask_file(listing, masks[image.stem], image), True
    name, chosen, messages = lists.choose(_lists(listing), list_name)
    for path, split in chosen.items():
        _give(listing, path, split, folders, labels)
    kept = [path for path in listing.files if not (is_still(path) and path.parent.name != IMAGES)]
    return sequences(replace(listing, files=tuple(kept)), labels, name, stills=False, messages=messages)


def _folders(listing: Listing) -> list[PurePosixPath]:
    """The folders with images and masks; the source itself would be a set of single images."""
    have = {path.parent for path in listing.files if is_still(path)}
    found = dict.fromkeys(p.parent.parent for p in listing.files if is_still(p) and p.parent.name == IMAGES)
    return [folder for folder in found if folder.parts and folder / MASKS in have]


def _within(listing: Listing) -> dict[PurePosixPath, list[PurePosixPath]]:
    """{folder: the images directly in it}."""
    found: dict[PurePosixPath, list[PurePosixPath]] = {}
    for path in filter(is_still, listing.files):
        found.setdefault(path.parent, []).append(path)
    return found


def _lists(listing: Listing) -> list[PurePosixPath]:
    texts = [path for path in listing.files if path.suffix.lower() == ".txt" and len(path.parts) <= 2]
    return [path for path in texts if lists.part_of(path.stem)[0]]


def _give(
    listing: Listing, path: PurePosixPath, split: str | None, folders: list[PurePosixPath], labels: Labels
) -> None:
    """Give the frames that a list names its split."""
    by_name = {folder.name: folder for folder in folders}
    frames = {(image.parent.parent, image.stem): targets for image, targets in labels.images.items()}
    for line, text in read_lines(listing.path(path), str(path)):
        where = f"{path}: line {line}"
        entry = PurePosixPath(text.replace("\\", "/"))
        sequence = next((by_name[part] for part in entry.parts if part in by_name), None)
        targets = frames.get((sequence, entry.stem)) if sequence else None
        if targets is None:
            raise InputError(f"{where}: names {text!r}, and no such frame with a mask is here: complete set or list")
        if targets.split not in (None, split):
            raise InputError(f"{where}: {text!r} is in {targets.split!r} too: a frame has one split; correct the list")
        targets.split = split
