"""MOTChallenge: `SEQUENCE/img1/000001.png`, `SEQUENCE/gt/gt.txt`, `SEQUENCE/seqinfo.ini`.

A line of gt.txt is `frame,id,left,top,width,height,conf,class,visibility`, the last three optional. Frames and
coordinates are counted from 1: x = left - 1. conf 0 is an ignore box. Frames without a line are empty; a sequence
without gt.txt is unlabelled. `gt/labels.txt` names the classes from 1. The parent folder's name may say the split
(MOT17-train). Source: motchallenge.net/instructions, and the benchmark's TrackEval.
"""

from __future__ import annotations

import configparser
from dataclasses import replace
from pathlib import PurePosixPath

from irstd.data.annotations import DEFAULT_CLASS
from irstd.data.importers.base import Candidate, Found, Listing, no_list, options
from irstd.data.importers.images import Labels, annotate
from irstd.data.importers.lists import part_of
from irstd.data.importers.text import number, read_lines, read_text, whole
from irstd.data.splits import UNLISTED
from irstd.data.stills import is_still
from irstd.errors import InputError

NAME = "mot"
COVERS: tuple[str, ...] = ()
TRUTH, INFO, FRAMES = PurePosixPath("gt/gt.txt"), "seqinfo.ini", "img1"


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    folders = _folders(listing)
    count = sum(listing.has(folder / TRUTH) for folder in folders)
    return f"{len(folders)} sequences, {count} with {TRUTH}" if folders else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each sequence. `InputError` naming the line that cannot be read."""
    no_list(list_name, NAME)
    labels, candidates = Labels(), []
    folders = _folders(listing)
    published = "folders" if any(part_of(folder.parent.name)[0] for folder in folders) else None
    for folder in folders:
        info = _info(listing, folder)
        images = folder / info.get("imdir", FRAMES)
        files = [path for path in listing.files if path.parent == images and is_still(path)]
        if not files:
            raise InputError(f"{folder}: no frames in {images}: complete the set")
        _whole(files)
        said = options(listing, folder, folder.name) if folder.parts else options(listing, images, "")
        labelled = listing.has(folder / TRUTH)
        if labelled:
            _truth(listing, folder, files, info, labels)
        fps = number(info["framerate"], f"{folder}/{INFO}", "frameRate") if "framerate" in info else None
        candidates.append(
            Candidate(
                name=folder.name or listing.root.name,
                files=tuple(files),
                folder=images,
                annotate=annotate(labels, files, f"{folder}/{TRUTH}") if labelled else None,
                group=said.group,
                licence=said.licence,
                bit_depth=said.bit_depth,
                fps=said.fps or fps,
                split=(part_of(folder.parent.name)[0] or UNLISTED) if published else None,
            )
        )
    messages = [f"{labels.thin} boxes without extent: taken as ignore boxes of 1 px"] if labels.thin else []
    return Found(_apart(candidates), published, messages)


def _whole(files: list[PurePosixPath]) -> None:
    """`InputError` where a number is missing: gt.txt counts by the files' numbers, so all after it would be shifted."""
    numbers = [int(path.stem) for path in files if path.stem.isdecimal()]
    for before, after, path in zip(numbers, numbers[1:], files, strict=False):
        if len(numbers) == len(files) and after != before + 1:
            raise InputError(f"{path}: the next frame is {after}, and gt.txt counts every one: complete the frames")


def _apart(candidates: list[Candidate]) -> list[Candidate]:
    """Sequences of one name in two folders are told apart by the folder."""
    names = [candidate.name for candidate in candidates]
    return [
        replace(each, name=str(each.recording.parent)) if names.count(each.name) > 1 else each for each in candidates
    ]


def _folders(listing: Listing) -> list[PurePosixPath]:
    found = [path.parent for path in listing.files if path.name == INFO]
    found += [path.parent.parent for path in listing.files if path.parts[-2:] == TRUTH.parts]
    return list(dict.fromkeys(found))


def _info(listing: Listing, folder: PurePosixPath) -> dict[str, str]:
    path = folder / INFO
    if not listing.has(path):
        return {}
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(listing.path(path), str(path)))
        return dict(parser["Sequence"])
    except (configparser.Error, KeyError) as error:
        raise InputError(
            f"{path}: not readable ({' '.join(str(error).split())}): write [Sequence] and its keys"
        ) from None


def _truth(
    listing: Listing, folder: PurePosixPath, files: list[PurePosixPath], info: dict[str, str], labels: Labels
) -> None:
    path = folder / TRUTH
    names = _names(listing, folder)
    entries = [labels.image(file, str(path)) for file in files]
    if "imwidth" in info and "imheight" in info:
        where = f"{folder}/{INFO}"
        size = (number(info["imwidth"], where, "imWidth"), number(info["imheight"], where, "imHeight"))
        for targets in entries:
            targets.size = size
    seen: dict[tuple[int, int], int] = {}
    for line, text in read_lines(listing.path(path), str(path)):
        where = f"{path}: line {line}"
        cells = [cell.strip() for cell in text.split(",")]
        if len(cells) < 6:
            raise InputError(f"{where}: has {len(cells)} columns: write frame,id,left,top,width,height,conf,class,...")
        frame, track = whole(cells[0], where, "the frame"), whole(cells[1], where, "the id")
        if not 1 <= frame <= len(files):
            raise InputError(
                f"{where}: frame {frame}, and the sequence has frames 1 to {len(files)}: correct the frame"
            )
        if track >= 0 and seen.setdefault((frame, track), line) != line:
            raise InputError(f"{where}: frame {frame} has id {track} in line {seen[frame, track]} too: number it anew")
        x, y, w, h = (number(cell, where, "a coordinate") for cell in cells[2:6])
        ignore = len(cells) > 6 and number(cells[6], where, "conf") == 0
        index = whole(cells[7], where, "the class") if len(cells) > 7 else -1
        entries[frame - 1].where = where
        labels.thin += entries[frame - 1].add((x - 1, y - 1, w, h), where, _name(index, names, where), ignore)


def _names(listing: Listing, folder: PurePosixPath) -> list[str]:
    path = folder / "gt/labels.txt"
    return [text for _, text in read_lines(listing.path(path), str(path))] if listing.has(path) else []


def _name(index: int, names: list[str], where: str) -> str:
    if names and not 1 <= index <= len(names):
        raise InputError(f"{where}: class {index}, and labels.txt names 1 to {len(names)}: correct the class")
    return names[index - 1] if names else DEFAULT_CLASS if index in (-1, 1) else f"class-{index}"
