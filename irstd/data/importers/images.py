"""From labels of single images to sequences: the part that all formats with one entry an image share.

A folder of images is a sequence, in natural order, unless its name says that it merely collects images (`images`,
`train`, `JPEGImages`, ...): then each is a sequence of one frame. A sequence is cut where the numbers of its frames
jump, where its split changes, and where the format says that the recording starts anew, so that no clip crosses it. A
frame that has no entry is unlabelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from irstd.data import rle
from irstd.data.annotations import DEFAULT_CLASS, Annotations, FrameTargets
from irstd.data.importers.base import Annotate, Candidate, Found, Listing, options, some
from irstd.data.importers.folders import collects, level, names_of, stretches
from irstd.data.importers.masks import Masked, frame_of, note
from irstd.data.splits import UNLISTED
from irstd.data.stills import is_still
from irstd.errors import InputError

Box = tuple[float, float, float, float]


@dataclass
class Targets:
    """The entry of one image.

    `size`: (width, height) that the label file states; `relative`: boxes are fractions of them; `mask`: makes the mask;
    `outlined`: boxes and points are those of the mask.
    """

    where: str
    split: str | None = None
    size: tuple[float, float] | None = None
    relative: bool = False
    boxes: list[Box] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    ignore: list[Box] = field(default_factory=list)
    mask: Masked | None = None
    outlined: bool = False

    def add(self, box: Box, where: str, name: str = DEFAULT_CLASS, ignore: bool = False) -> bool:
        """Take a box; whether it had no extent. Such a one marks a target of unknown size: it becomes an ignore box."""
        if box[2] < 0 or box[3] < 0:
            shown = ", ".join(f"{v:g}" for v in box)
            raise InputError(f"{where}: box ({shown}) has a negative size: correct the box, or remove it")
        thin = box[2] == 0 or box[3] == 0
        if thin or ignore:
            self.ignore.append(box)
        else:
            self.boxes.append(box)
            self.classes.append(name)
        return thin and not ignore

    def frame(self, index: int, height: int, width: int, masks: bool) -> tuple[FrameTargets, int]:
        """The frame, and how many grey pixels its mask file has."""
        if self.size and tuple(self.size) != (width, height):
            raise InputError(
                f"{self.where}: is for {self.size[0]:g}x{self.size[1]:g} pixels, the image has {width}x{height}: "
                "give labels made on these images"
            )
        scale = np.array([width, height, width, height] if self.relative else [1, 1, 1, 1], np.float64)
        boxes = [(np.array(box) * scale).tolist() for box in self.boxes]
        ignore = [_widened((np.array(box) * scale).tolist(), height, width) for box in self.ignore]
        if not (masks and self.mask):
            return FrameTargets(index, True, boxes, list(self.classes), ignore=ignore), 0
        mask_HW, points, grey = self.mask(height, width)
        if self.outlined:
            return frame_of(index, mask_HW), grey
        return FrameTargets(index, True, boxes, list(self.classes), points, rle.encode(mask_HW), ignore), grey


def _widened(box: list[float], height: int, width: int) -> list[float]:
    """At least one pixel wide and high, around where it was and inside the frame."""
    x, y, w, h = box
    if w == 0:
        x, w = min(max(x - 0.5, 0.0), width - 1.0), 1.0
    if h == 0:
        y, h = min(max(y - 0.5, 0.0), height - 1.0), 1.0
    return [x, y, w, h]


@dataclass
class Labels:
    """What a format says of images: {image: its targets}. `thin`: boxes without extent that were taken as ignore."""

    images: dict[PurePosixPath, Targets] = field(default_factory=dict)
    thin: int = 0

    def image(self, path: PurePosixPath, where: str, split: str | None = None) -> Targets:
        """The entry of an image that has none yet."""
        if path in self.images:
            before = self.images[path]
            if split != before.split:
                raise InputError(
                    f"{where}: {path} is in {before.split!r} too ({before.where}): an image has one split; correct it"
                )
            raise InputError(f"{where}: {path} has an entry before ({before.where}): join them, or remove one")
        self.images[path] = Targets(where, split)
        return self.images[path]

    def split(self, path: PurePosixPath) -> str | None:
        """The split that a list gives the image."""
        return self.images[path].split if path in self.images else None


def sequences(
    listing: Listing,
    labels: Labels,
    published: str | None,
    *,
    stills: bool = True,
    reset: int | None = None,
    messages: list[str] | None = None,
) -> Found:
    """Candidates of all folders that hold an image with an entry.

    `stills`: whether folders named as collections hold single images; `reset`: frames after which recordings start anew.
    """
    said = list(messages or [])
    if labels.thin:
        said.append(f"{labels.thin} boxes without extent: taken as ignore boxes of 1 px (not scored, no background)")
    if _val_is_test(labels):
        for targets in labels.images.values():
            targets.split = "test" if targets.split == "val" else targets.split
        said.append("the images of the list 'val' lie in a folder 'test': taken as the split test")
    folders: dict[PurePosixPath, list[PurePosixPath]] = {}
    for path in listing.files:
        if is_still(path):
            folders.setdefault(path.parent, []).append(path)
    listed = {path.parent for path in labels.images}
    loose = {folder for folder in listed if stills and (collects(folder) or _sizes(labels, folders[folder]) > 1)}
    # A folder beside those that are listed is a sequence without labels; others are something else.
    beside = {level(folder) for folder in listed - loose}
    left: list[PurePosixPath] = []
    names = names_of(listing, [f for f in folders if f in listed or (f.parts and level(f) in beside)], stills)
    candidates: list[Candidate] = []
    for folder, files in folders.items():
        if folder not in names:
            left.append(folder)
        elif folder in loose:
            if len(files) > 1:
                said.append(
                    f"{len(files)} images lie in {folder}: each is a sequence of one frame (as one sequence: put them "
                    "in a folder of its own name)"
                )
            candidates += [
                _candidate(listing, labels, f"{names[folder]}/{file.stem}".lstrip("/"), None, [file], published, None)
                for file in files
            ]
        else:
            parts = stretches(folder, files, labels.split, reset, said)
            group = names[folder] if len(parts) > 1 and not published else None
            for part in parts:
                name = names[folder] + (f"/{part[0].stem}" if len(parts) > 1 else "")
                candidates.append(_candidate(listing, labels, name, folder, part, published, group))
    if left:
        said.append(f"not read, no image of theirs is listed: {sum(len(folders[f]) for f in left)} in {some(left)}")
    return Found(candidates, published, said)


def _candidate(
    listing: Listing,
    labels: Labels,
    name: str,
    folder: PurePosixPath | None,
    files: list[PurePosixPath],
    published: str | None,
    group: str | None,
) -> Candidate:
    own = folder if folder is not None and folder.parts else None
    said = options(listing, own or files[0], own.name if own else files[0].stem)
    split = next(filter(None, map(labels.split, files)), None)
    return Candidate(
        name=name,
        files=tuple(files),
        folder=folder,
        annotate=annotate(labels, files, str(folder or files[0])),
        group=said.group or group,
        licence=said.licence,
        bit_depth=said.bit_depth,
        fps=said.fps,
        split=(split or UNLISTED) if published else None,
    )


def annotate(labels: Labels, files: list[PurePosixPath], where: str) -> Annotate | None:
    """How to make the targets of the frames `files`; None where no frame has an entry."""
    entries = {index: labels.images[file] for index, file in enumerate(files) if file in labels.images}
    if not entries:
        return None
    masks = all(targets.mask for targets in entries.values())

    def make(frames: int, height: int, width: int) -> Annotations:
        if frames != len(files):
            raise InputError(f"{where}: {len(files)} images give {frames} frames: split images of several pages")
        found, grey = [], 0
        for index in range(frames):
            if index in entries:
                frame, count = entries[index].frame(index, height, width, masks)
                grey += count
            else:
                frame = FrameTargets(index, False)
            found.append(frame)
        lines = {index: targets.where for index, targets in entries.items()}
        return Annotations(found, masks, note(grey)).validate(frames, height, width, where, lines)

    return make


def _sizes(labels: Labels, files: list[PurePosixPath]) -> int:
    """How many sizes the label files state of these images: a recording has one."""
    return len({labels.images[file].size for file in files if file in labels.images and labels.images[file].size})


def _val_is_test(labels: Labels) -> bool:
    """Lists of the moving-target sets call their test sequences val."""
    splits = {targets.split for targets in labels.images.values()}
    val = [path for path, targets in labels.images.items() if targets.split == "val"]
    return "test" not in splits and bool(val) and all("test" in path.parts for path in val)
