"""Single-frame sets with masks: `images/NAME.png`, `masks/NAME_pixels0.png` or `masks/NAME.png`, published lists.

The layout of NUAA-SIRST, NUDT-SIRST and the sets that follow them; IRSTD-1k calls the folders `IRSTD1k_Img` and
`IRSTD1k_Label`. Lists lie in the source, in `idx_*/`, `img_idx/` or `50_50/` as train.txt, val.txt, test.txt or
trainval.txt, or with the name of the set, as in train_NUAA-SIRST.txt; each line names an image. A mask is target where
it is above 127. `backgrounds/` may hold images without targets. Source: Y. Dai et al., "Asymmetric contextual modulation
for infrared small target detection", WACV 2021; the repositories DNANet, BasicIRSTD and ISNet.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.importers.base import Annotate, Candidate, Found, Listing, options
from irstd.data.importers.masks import frame_of, note, read_mask
from irstd.data.importers.text import read_lines
from irstd.data.splits import UNLISTED
from irstd.data.stills import is_still
from irstd.errors import InputError, nearest

NAME = "sirst"
COVERS: tuple[str, ...] = ()
IMAGES, MASKS, BACKGROUNDS = "images", "masks", "backgrounds"
ALIKE = {IMAGES: ("images", "image", "imgs", "img", "irstd1k_img"), MASKS: ("masks", "mask", "irstd1k_label", "labels")}
_LIST_FOLDER = re.compile(r"idx.*|img_idx.*|\d+_\d+")
_LIST = re.compile(r"(trainval|train|val|test)(?:_(.+))?\.txt")

Lists = dict[str, dict[str, PurePosixPath]]  # {name of the list: {part: file}}


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    images = sum(map(is_still, listing.under(folder := _folder(listing, IMAGES))))
    masks = sum(map(is_still, listing.under(beside := _folder(listing, MASKS))))
    return f"{images} files in {folder}/ and {masks} in {beside}/" if images and masks else None


def _folder(listing: Listing, kind: str) -> str:
    """The folder of images or masks by the name that it has here."""
    names = dict.fromkeys(path.parts[0] for path in listing.files if len(path.parts) == 2 and is_still(path))
    return next((name for name in names if name.lower() in ALIKE[kind]), kind)


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each image. `InputError` where the list to use is not clear, or names what is not there."""
    images = {path.stem: path for path in listing.under(_folder(listing, IMAGES)) if is_still(path)}
    name = _choose(lists := _lists(listing), list_name)
    split_of = _splits(listing, lists[name], images) if name else {}
    other = UNLISTED if name else None
    masks = {path.stem: path for path in listing.under(_folder(listing, MASKS)) if is_still(path)}
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
        if match and (len(path.parts) == 1 or (len(path.parts) == 2 and _LIST_FOLDER.fullmatch(path.parts[0]))):
            name = "/".join(filter(None, (*path.parts[:-1], match[2]))) or "lists"
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
        for _, line in read_lines(listing.path(path), str(path)):
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
        target_HW, grey = read_mask(listing.path(path), str(path), str(image), height, width)
        return Annotations([frame_of(0, target_HW)], True, note(grey)).validate(frames, height, width, str(path))

    return annotate


def _empty(where: str) -> Annotate:
    def annotate(frames: int, height: int, width: int) -> Annotations:
        _single(PurePosixPath(where), frames)
        return Annotations([FrameTargets(0, True, mask=[height * width])], masks=True)

    return annotate


def _single(image: PurePosixPath, frames: int) -> None:
    if frames != 1:
        raise InputError(f"{image}: has {frames} pages, a set of single images has one each: split the file")
