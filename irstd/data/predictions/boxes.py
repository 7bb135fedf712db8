"""Boxes with scores: COCO results, and MOT text files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from irstd.data.importers.text import number, read_lines, read_text, whole
from irstd.data.predictions.naming import Key, Names, some
from irstd.errors import InputError

Boxes = dict[Key, tuple[np.ndarray, np.ndarray]]


def coco(
    path: Path, names: Names, numbering: Callable[[], dict[int, str] | None] = lambda: None
) -> tuple[Boxes, list[str]]:
    """(the boxes of every key frame, images that are none).

    A list of {"image_id", "bbox": [x, y, w, h], "score"}, or an object with `annotations` like that. image_id is a file's
    name, or an id of the object's own `images`, else of what `numbering` gives. An image without a box is one without detections.
    """
    try:
        tree = json.loads(read_text(path, str(path)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not readable as JSON ({error}): write it again") from None
    entries = tree.get("annotations") if isinstance(tree, dict) else tree
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: no list of results: give [{{image_id, bbox, score}}, ...]")
    by_id = None
    if isinstance(tree, dict) and "images" in tree:
        by_id = images_of(tree, str(path))
    elif any(not isinstance(entry.get("image_id"), str) for entry in entries):
        by_id = numbering()
    rows: dict[str, list[list[float]]] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: result {index}"
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise InputError(f"{where}: bbox is {box!r}: give [x, y, width, height]")
        if "score" not in entry:
            raise InputError(f"{where}: has no score: give detections, not annotations")
        values = [number(value, where, "a number of bbox") for value in box]
        image = str(PurePosixPath(_image(entry.get("image_id"), by_id, where)))
        rows.setdefault(image, []).append([*values, number(entry["score"], where, "the score")])
    found, extra = names.resolve(PurePosixPath(image) for image in rows)
    given = {key: rows[str(image)] for key, image in found.items()}
    if rows and not given:
        raise InputError(
            f"{path}: no image_id is of a frame of this split ({some(extra)}): write <sequence>/<frame>.png, or choose "
            "another split with --split"
        )
    return {key: _arrays(given.get(key, []), str(path)) for key in names.keys}, extra


def images_of(tree: Any, where: str) -> dict[int, str]:
    """File names by id, of a COCO file's `images`."""
    entries = tree.get("images") if isinstance(tree, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) and {"id", "file_name"} <= {*e} for e in entries):
        raise InputError(f"{where}: 'images' is missing, or lacks id and file_name: give a COCO annotation file")
    return {entry["id"]: str(entry["file_name"]) for entry in entries}


def _image(image: Any, by_id: dict[Any, str] | None, where: str) -> str:
    if by_id is not None and isinstance(image, int | str) and image in by_id:
        return by_id[image]
    if isinstance(image, str) and image:
        return image
    if by_id is None:
        raise InputError(
            f"{where}: image_id is {image!r}, and nothing says which image that is: write file names, or name the annotation "
            "file with --images"
        )
    raise InputError(f"{where}: image_id {image!r} is none of the {len(by_id)} images: write file names, or their ids")


def mot(folder: Path, files: list[PurePosixPath], names: Names) -> tuple[Boxes, list[Key], list[str]]:
    """(the boxes of every key frame, key frames of sequences without a file, files and frames that are none).

    `SEQUENCE.txt` with lines `frame,id,left,top,width,height,conf,...`; frames and pixels count from 1, as MOTChallenge
    and `irstd export --format mot` have it. A frame without a line is one without detections.
    """
    of: dict[str, PurePosixPath] = {}
    extra: list[str] = []
    for file in files:
        name = names.sequence(file.with_suffix(""))
        if name is None:
            extra.append(str(file))
        elif name in of:
            raise InputError(f"{of[name]} and {file}: are both of {name}: keep one of them")
        else:
            of[name] = file
    found: Boxes = {}
    for name, file in of.items():
        rows: dict[int, list[list[float]]] = {}
        for line, text in read_lines(folder / file, str(file)):
            frame, row = _line(text, f"{file}: line {line}")
            rows.setdefault(frame, []).append(row)
        for key in (key for key in names.keys if key[0] == name):
            found[key] = _arrays(rows.pop(key[1], []), str(file))
        extra += [f"frame {frame + 1} of {file}" for frame in rows]
    return found, [key for key in names.keys if key not in found], extra


def _line(text: str, where: str) -> tuple[int, list[float]]:
    cells = [cell.strip() for cell in text.split(",")] if "," in text else text.split()
    if len(cells) < 7:
        raise InputError(f"{where}: has {len(cells)} columns: write frame,id,left,top,width,height,conf")
    frame = whole(cells[0], where, "the frame")
    if frame < 1:
        raise InputError(f"{where}: frame {frame}: MOT counts frames from 1")
    x, y, w, h, score = (number(cell, where, "a number") for cell in cells[2:7])
    return frame - 1, [x - 1, y - 1, w, h, score]


def _arrays(rows: list[list[float]], where: str) -> tuple[np.ndarray, np.ndarray]:
    array_N5 = np.array(rows, float).reshape(-1, 5)
    if (array_N5[:, 2:4] < 0).any():
        raise InputError(f"{where}: a box has a side of {array_N5[:, 2:4].min():g} px: boxes are x, y, width, height")
    return array_N5[:, :4], array_N5[:, 4]
