"""Predictions made anywhere: maps as PNG or NPY files, boxes as COCO results or MOT text files.

A format is a module of this folder; `naming` says which key frame a file's name means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from irstd.data.predictions import boxes, maps
from irstd.data.predictions.naming import MAPS, Key, Names, some
from irstd.errors import InputError

__all__ = ["Key", "Names", "Predictions", "read"]

FORMS = "PNG or NPY maps, MOT text files (one a sequence), or a COCO results file (.json)"


@dataclass(frozen=True)
class Predictions:
    """What was predicted, by key frame.

    maps: of each key frame its map (masks are maps of 0 and 1); boxes: (boxes_N4, scores_N) of each key frame. One of the
    two is None. missing: key frames without a prediction; extra: what was there besides; form: how the values were read.
    """

    maps: maps.Maps | None
    boxes: dict[Key, tuple[np.ndarray, np.ndarray]] | None
    missing: list[Key]
    extra: list[str] = field(default_factory=list)
    form: str = ""


def read(place: Path, names: Names, numbering: Callable[[], dict[int, str] | None] = lambda: None) -> Predictions:
    """The predictions at `place`, a folder of maps or text files, or a COCO results file.

    names: the key frames that were to be predicted. numbering: gives the file names of images by the ids that COCO results
    use, where it is known; asked only for results with such ids.
    `InputError` where two files are of one key frame, a name may mean two, or a file cannot be read.
    """
    if place.is_file():
        if place.suffix.lower() != ".json":
            raise InputError(f"--predictions {place}: is no folder and no COCO results file; give {FORMS}")
        found, extra = boxes.coco(place, names, numbering)
        return Predictions(None, found, [], extra, "boxes of COCO results")
    if not place.is_dir():
        raise InputError(f"--predictions {place}: no such file or folder")
    files = sorted(
        PurePosixPath(path.relative_to(place).as_posix())
        for path in place.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(place).parts)
    )
    images = [file for file in files if file.suffix.lower() in MAPS]
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    if images and texts:
        raise InputError(
            f"--predictions {place}: holds maps ({some(images)}) and text files ({some(texts)}): give a folder of either"
        )
    if texts:
        found, missing, extra = boxes.mot(place, texts, names)
        return Predictions(None, found, missing, extra, "boxes of MOT text files, frames and pixels counted from 1")
    if not images:
        raise InputError(f"--predictions {place}: holds no predictions; give {FORMS}")
    paths, extra = names.resolve(images)
    read_as = maps.Maps(place, paths)
    return Predictions(read_as, None, [key for key in names.keys if key not in paths], extra, read_as.form)
