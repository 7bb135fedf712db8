"""Targets of a sequence in one canonical form: `annotations.json`.

One entry for each frame, in order. A *labelled* frame without a target is empty; an *unlabelled* one is unknown.
Coordinates: pixel (i, j) covers [j, j+1) x [i, i+1). A box is (x, y, w, h) with x, y, x + w, y + h on that plane, so a
box around pixel (i, j) alone is (j, i, 1, 1). A point names a pixel's centre: the point of that pixel is (j, i).
A mask is a list of run lengths, column by column, first the count of zeros (see `irstd.data.rle`). An *ignore* box is a
region of which nothing is claimed: neither a target nor background, never scored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from irstd.errors import InputError, nearest
from irstd.files import canonical_json, sha256_text

SCHEMA = 1
DIGITS = 4
DEFAULT_CLASS = "target"


def _rows(values: Any, columns: int) -> np.ndarray:
    """float64 [N, columns], rounded as the file is: an object in memory equals the one read back."""
    if len(values) == 0:
        return np.zeros((0, columns))
    rows = values.tolist() if isinstance(values, np.ndarray) else values
    # Python rounds correctly, and faster than NumPy for a few numbers. Adding zero turns -0.0, which prints otherwise.
    return np.array([[round(float(v), DIGITS) + 0.0 for v in row] for row in rows], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class FrameTargets:
    """The targets of one frame.

    `boxes` float64 [N, 4] (x, y, w, h) edges; `classes` N names (default: "target"); `points` float64 [M, 2] (x, y)
    pixel centres; `mask` run lengths or None; `ignore` float64 [K, 4] boxes that are neither target nor background. All
    coordinates are rounded to 4 digits.
    """

    index: int
    labelled: bool
    boxes: np.ndarray = field(default=())  # type: ignore[assignment]
    classes: list[str] = field(default=None)  # type: ignore[assignment]
    points: np.ndarray = field(default=())  # type: ignore[assignment]
    mask: list[int] | None = None
    ignore: np.ndarray = field(default=())  # type: ignore[assignment]

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "boxes", _rows(self.boxes, 4))
        set_(self, "points", _rows(self.points, 2))
        set_(self, "ignore", _rows(self.ignore, 4))
        set_(self, "classes", [DEFAULT_CLASS] * len(self.boxes) if self.classes is None else list(self.classes))

    @property
    def has_target(self) -> bool:
        """Whether any box, point, or mask pixel is there."""
        return bool(len(self.boxes) or len(self.points) or (self.mask is not None and len(self.mask) > 1))

    def as_json(self, masks: bool) -> dict[str, Any]:
        found: dict[str, Any] = {
            "index": self.index,
            "labelled": self.labelled,
            "boxes": self.boxes.tolist(),
            "classes": self.classes,
            "points": self.points.tolist(),
        }
        if masks and self.labelled:
            found["mask"] = self.mask
        if len(self.ignore):  # only where there are any: labels without keep the bytes, and the hash, that they had
            found["ignore"] = self.ignore.tolist()
        return found


@dataclass(frozen=True, eq=False)
class Annotations:
    """The targets of a sequence: one `FrameTargets` a frame. `masks`: whether every labelled frame has a mask.

    `notes`: what an importer found odd and took all the same; not part of the file.
    """

    frames: list[FrameTargets]
    masks: bool = False
    notes: tuple[str, ...] = ()

    @property
    def labelled_frames(self) -> int:
        return sum(frame.labelled for frame in self.frames)

    @property
    def target_frames(self) -> int:
        return sum(frame.has_target for frame in self.frames)

    def to_json(self) -> str:
        """The canonical text: one frame a line, keys sorted. Equal annotations give equal bytes."""
        lines = ",\n".join(canonical_json(frame.as_json(self.masks)) for frame in self.frames)
        return f'{{"frames":[\n{lines}\n],"masks":{json.dumps(self.masks)},"schema":{SCHEMA}}}\n'

    def digest(self) -> str:
        """sha256 (hex) of the canonical bytes: the `annotations_sha256` of `sequence.json`."""
        return sha256_text(self.to_json())

    @classmethod
    def from_json(cls, text: str, where: str) -> Annotations:
        """Read the canonical form, or the same content in other spacing and order of keys.

        `where` names the file in messages. `InputError` where it is not that form. Sizes are checked by `validate`.
        """
        try:
            tree = json.loads(text)
        except ValueError as error:
            raise InputError(f"{where}: not readable as JSON ({error}): write it again") from None
        if not isinstance(tree, dict) or not isinstance(tree.get("frames"), list):
            raise InputError(f'{where}: expected {{"schema": {SCHEMA}, "masks": ..., "frames": [...]}}')
        _only(tree, ("schema", "masks", "frames"), where)
        if tree.get("schema") != SCHEMA:
            raise InputError(f"{where}: schema {tree.get('schema')!r} is not known: this version reads {SCHEMA}")
        masks = tree.get("masks", False)
        if not isinstance(masks, bool):
            raise InputError(f"{where}: masks must be true or false")
        return cls([_frame(entry, i, where) for i, entry in enumerate(tree["frames"])], masks)

    @classmethod
    def build(
        cls,
        targets: Mapping[int, FrameTargets],
        frames: int,
        where: str,
        *,
        others_labelled: bool = True,
        masks: bool = False,
    ) -> Annotations:
        """One entry for each of `frames` frames; a frame that `targets` lacks is empty, or unlabelled."""
        beyond = max(targets, default=0)
        if targets and beyond >= frames:
            raise InputError(_too_long(where, beyond, frames))
        if targets and min(targets) < 0:
            raise InputError(f"{where}: frame {min(targets)}: frames are counted from 0; correct the frame number")
        return cls([targets.get(i) or FrameTargets(i, others_labelled) for i in range(frames)], masks)

    def validate(
        self, frames: int, height: int, width: int, where: str, lines: Mapping[int, str] | None = None
    ) -> Annotations:
        """Check against the recording's size (frames, and pixels); returns self, or `InputError` naming the frame.

        A box that overlaps the frame stays as it came; one wholly outside, without area, or not finite is refused.
        `lines`: {frame: where its targets are written}, for messages; default `where`.
        """
        if len(self.frames) > frames:
            raise InputError(_too_long(where, len(self.frames) - 1, frames))
        if len(self.frames) < frames:
            raise InputError(
                f"{where}: {len(self.frames)} entries for a recording of {frames} frames: give one entry a frame, "
                'with "labelled": false where the targets are not known'
            )
        for frame in self.frames:
            named = (lines or {}).get(frame.index, where)
            _check(frame, self.masks, height, width, f"{named}: frame {frame.index}")
        return self

    def remarks(self, height: int, width: int) -> tuple[str, ...]:
        """What is worth saying of labels that were taken: `notes`, and boxes that reach beyond the frame."""
        boxes = np.concatenate([np.zeros((0, 4)), *(frame.boxes for frame in self.frames if len(frame.boxes))])
        x, y, w, h = boxes.T
        beyond = np.maximum.reduce([-x, -y, x + w - width, y + h - height])
        count = int((beyond > 0).sum())
        if not count:
            return self.notes
        far = f"{count} boxes reach beyond the frame by up to {beyond.max():.4g} px: kept as they came"
        return (*self.notes, far)


def _too_long(where: str, index: int, frames: int) -> str:
    return (
        f"{where}: has targets for frame {index}, but the recording has {frames} frames (0 to {frames - 1}): "
        "check that labels and recording belong together and that frames are counted from 0"
    )


def _only(tree: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in tree:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")


def _frame(entry: Any, index: int, where: str) -> FrameTargets:
    where = f"{where}: frames[{index}]"
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected a mapping, found {type(entry).__name__}")
    _only(entry, ("index", "labelled", "boxes", "classes", "points", "mask", "ignore"), where)
    if entry.get("index") != index:
        raise InputError(f"{where}: index is {entry.get('index')!r}: give one entry a frame, in order, from 0")
    if not isinstance(entry.get("labelled"), bool):
        raise InputError(f"{where}: labelled must be true or false")
    classes, mask = entry.get("classes"), entry.get("mask")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(c, str) and c for c in classes)):
        raise InputError(f"{where}: classes must be a list of names")
    if mask is not None and not (isinstance(mask, list) and all(type(n) is int and n >= 0 for n in mask)):
        raise InputError(f"{where}: mask must be a list of run lengths")
    boxes = _numbers(entry.get("boxes", []), 4, f"{where}: boxes")
    points = _numbers(entry.get("points", []), 2, f"{where}: points")
    ignore = _numbers(entry.get("ignore", []), 4, f"{where}: ignore")
    return FrameTargets(index, entry["labelled"], boxes, classes, points, mask, ignore)


def _numbers(rows: Any, columns: int, where: str) -> list[list[float]]:
    good = isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == columns and all(type(v) in (int, float) for v in row) for row in rows
    )
    if not good:
        raise InputError(f"{where} must be a list of lists of {columns} numbers")
    return rows


def _check(frame: FrameTargets, masks: bool, height: int, width: int, where: str) -> None:
    if len(frame.classes) != len(frame.boxes):
        raise InputError(f"{where}: {len(frame.classes)} classes for {len(frame.boxes)} boxes: give one class a box")
    if not frame.labelled and (frame.has_target or frame.mask is not None or len(frame.ignore)):
        raise InputError(f"{where}: is unlabelled and has targets: set labelled to true, or remove them")
    for kind, (x, y, w, h) in [("box", b) for b in frame.boxes.tolist()] + [
        ("ignore", b) for b in frame.ignore.tolist()
    ]:
        shown = f"{kind} ({x:g}, {y:g}, {w:g}, {h:g})"
        if not all(map(math.isfinite, (x, y, w, h))):
            raise InputError(f"{where}: {shown} is not finite: give four numbers, or remove the row")
        if w <= 0 or h <= 0:
            raise InputError(f"{where}: {shown} has no area: give width and height above 0, or remove the row")
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise InputError(
                f"{where}: {shown} lies wholly outside the frame of {width}x{height} pixels: correct or remove it"
            )
    for x, y in frame.points.tolist():
        shown = f"point ({x:g}, {y:g})"
        if not (math.isfinite(x) and math.isfinite(y)):
            raise InputError(f"{where}: {shown} is not finite: give two numbers, or remove the row")
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise InputError(
                f"{where}: {shown} lies outside the frame of {width}x{height} pixels: correct or remove it"
            )
    if masks and frame.labelled and frame.mask is None:
        raise InputError(f"{where}: has no mask where the sequence has masks: add it, or set masks to false")
    if frame.mask is not None:
        if not masks:
            raise InputError(f"{where}: has a mask where the sequence has none: set masks to true, or remove it")
        if sum(frame.mask) != height * width:
            raise InputError(
                f"{where}: the mask covers {sum(frame.mask)} pixels, the frame {height * width} ({width}x{height}): "
                "encode the mask at the frame's size"
            )
