"""Single-frame sets with masks: `images/NAME.png`, `masks/NAME_pixels0.png` or `masks/NAME.png`, published lists.

The layout of NUAA-SIRST and of the sets that follow it. Lists lie in `idx_*/` or `img_idx/` as train.txt, val.txt,
test.txt or trainval.txt, or with the name of the set, as in train_NUAA-SIRST.txt; each line names an image. A mask is
target where it is above 127. `backgrounds/` may hold images without targets. Source: Y. Dai et al., "Asymmetric
contextual modulation for infrared small target detection", WACV 2021.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from irstd.data import rle
from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.derive import targets_of
from irstd.data.importers.base import Annotate, Candidate, Found, Listing, options
from irstd.data.splits import UNLISTED
from irstd.data.stills import is_still, read_still
from irstd.errors import InputError, nearest

NAME = "sirst"
IMAGES, MASKS, BACKGROUNDS = "images", "masks", "backgrounds"
_LIST = re.compile(r"(trainval|train|val|test)(?:_(.+))?\.txt")

Lists = dict[str, dict[str, PurePosixPath]]  # {name of the list: {part: file}}


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    images = sum(map(is_still, listing.under(IMAGES)))
    masks = sum(map(is_still, listing.under(MASKS)))
    return f"{images} files in {IMAGES}/ and {masks} in {MASKS}/" if images and masks else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each image. `InputError` where the list to use is not clear, or names what is not there."""
    images = {path.stem: path for path in listing.under(IMAGES) if is_still(path)}
    name = _choose(lists := _lists(listing), list_name)
    split_of = _splits(listing, lists[name], images) if name else {}
    other = UNLISTED if name else None
    masks = {path.stem: path for path in listing.under(MASKS) if is_still(path)}
    candidates = []
    for stem, path in images.items():
        mask = masks.get(f"{stem}_pixels0") or masks.get(stem)
        if mask is None and stem in split_of:
            raise InputError(f"{path}: the list {name} names it, and it has no mask {MASKS}/{stem}.png: add the mask")
        annotate = _masked(listing, path, mask) if mask else None
        said = options(listing, path, stem)
        found = Candidate(stem, (path,), annotate=annotate, split=split_of.get(stem, other))
        candidates.append(replace(found, group=said.group, licence=said.licence))
    for path in listing.under(BACKGROUNDS):
        if is_still(path):
            found = Candidate(f"{BACKGROUNDS}/{path.stem}", (path,), annotate=_empty(str(path)), split=other)
            candidates.append(found)
    messages = []
    if name and (count := sum(c.split == UNLISTED for c in candidates)):
        messages.append(f"{count} images that the list {name} does not name are kept as {UNLISTED!r}")
    return Found(candidates, published=name, messages=messages)


def _lists(listing: Listing) -> Lists:
    found: Lists = {}
    for path in listing.files:
        match = _LIST.fullmatch(path.name)
        if match and len(path.parts) == 2 and path.parts[0].startswith(("idx", "img_idx")):
            name = f"{path.parts[0]}/{match[2]}" if match[2] else path.parts[0]
            found.setdefault(name, {})[match[1]] = path
    return found


def _choose(lists: Lists, wanted: str | None) -> str | None:
    if wanted is not None:
        for name in lists:
            if wanted in (name, name.rpartition("/")[2]):
                return name
        raise InputError(
            f"--list {wanted}: no such list{nearest(wanted, lists)}; there are: {', '.join(lists) or 'none'}"
        )
    if len(lists) > 1:
        raise InputError(f"{len(lists)} published lists are here: {', '.join(lists)}: choose one with --list NAME")
    return next(iter(lists), None)


def _splits(listing: Listing, parts: dict[str, PurePosixPath], images: dict[str, PurePosixPath]) -> dict[str, str]:
    """{image: split} of a list; trainval counts where it is not told apart into train and val."""
    found: dict[str, str] = {}
    for part, path in parts.items():
        if part == "trainval" and ("train" in parts or "val" in parts):
            continue
        lines = listing.path(path).read_text(encoding="utf-8-sig").splitlines()
        for line in filter(None, map(str.strip, lines)):
            entry = PurePosixPath(line)
            stem = entry.stem if is_still(entry) else entry.name
            split = "train" if part == "trainval" else part
            if stem not in images:
                raise InputError(f"{path}: names {stem!r}, which {IMAGES}/ does not hold: complete the set or the list")
            if found.setdefault(stem, split) != split:
                raise InputError(
                    f"{path}: {stem!r} is in {found[stem]!r} too: an image has one split; correct the list"
                )
    return found


def _masked(listing: Listing, image: PurePosixPath, path: PurePosixPath) -> Annotate:
    def annotate(frames: int, height: int, width: int) -> Annotations:
        _single(image, frames)
        mask_HW = next(read_still(listing.path(path), str(path)))
        if mask_HW.ndim == 3:
            mask_HW = mask_HW[:, :, :3].max(axis=2)
        if mask_HW.shape != (height, width):
            raise InputError(
                f"{path}: the mask is {mask_HW.shape[1]}x{mask_HW.shape[0]} pixels, its image {image} "
                f"{width}x{height}: "
                "give a mask of the image's size, or take the image out"
            )
        highest = int(mask_HW.max())
        if mask_HW.dtype != np.uint8 or 0 < highest <= 127:
            raise InputError(f"{path}: values up to {highest} ({mask_HW.dtype}): give a mask of 0 and 255 in 8 bits")
        target_HW = mask_HW > 127
        boxes, points = targets_of(target_HW)
        frame = FrameTargets(0, True, boxes, points=points, mask=rle.encode(target_HW))
        return Annotations([frame], masks=True).validate(frames, height, width, str(path))

    return annotate


def _empty(where: str) -> Annotate:
    def annotate(frames: int, height: int, width: int) -> Annotations:
        _single(PurePosixPath(where), frames)
        return Annotations([FrameTargets(0, True, mask=[height * width])], masks=True)

    return annotate


def _single(image: PurePosixPath, frames: int) -> None:
    if frames != 1:
        raise InputError(f"{image}: has {frames} pages, a set of single images has one each: split the file")
