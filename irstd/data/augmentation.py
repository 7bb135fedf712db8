"""Augmentation of whole batches on the device: frames, gradient map, masks and boxes moved together.

Flips and quarter turns only permute pixels, so the gradient map is moved, not computed again: its magnitude is the same
for every one of them. Each key frame's draw comes from its own seed (`ClipLoader`'s "seeds"), not from its place in a
batch or the rank that holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

ARRAYS = ("frames", "gradient", "masks")


def dihedral(batch: dict[str, Any], flips: bool = True, quarter_turns: bool = True) -> dict[str, Any]:
    """Turn each key frame by one of the up to eight symmetries of the square, chosen by its seed.

    `batch` is on the device already. Quarter turns are left out where the batch is not square or a frame is padded (a turn
    would move its padding to the top or left).
    """
    height, width = batch["frames"].shape[-2:]
    sizes = [tuple(pair) for pair in batch["size"].tolist()]
    codes = []
    for seed, size in zip(batch["seeds"], sizes, strict=True):
        seed = int(seed)
        whole = size == (height, width)
        mirror = bool(seed & 1) and flips and whole
        turns = (seed >> 1) & 3 if quarter_turns and height == width and whole else 2 * ((seed >> 1) & 1) * (flips and whole)
        codes.append((mirror, int(turns)))
    if not any(mirror or turns for mirror, turns in codes):
        return batch
    found = dict(batch)
    for name in ARRAYS:
        if batch.get(name) is not None:
            found[name] = _turned(batch[name], codes)
    found["boxes"] = [
        turn_boxes(boxes, height, width, *code) for boxes, code in zip(batch["boxes"], codes, strict=True)
    ]
    return found


def _turned(values: torch.Tensor, codes: list[tuple[bool, int]]) -> torch.Tensor:
    import torch

    parts = []
    for value, (mirror, turns) in zip(values, codes, strict=True):
        value = value.flip(-1) if mirror else value
        parts.append(torch.rot90(value, turns, (-2, -1)) if turns else value)
    return torch.stack(parts)


def turn_boxes(boxes_M4: np.ndarray, height: int, width: int, mirror: bool, turns: int) -> np.ndarray:
    """Boxes (x, y, w, h) after a left-right mirror and `turns` counter-clockwise quarter turns of a [height, width] frame."""
    x, y, w, h = np.asarray(boxes_M4, np.float32).reshape(-1, 4).T
    if mirror:
        x = width - x - w
    for _ in range(turns):  # (x, y) -> (y, width - x): the right edge becomes the top
        x, y, w, h = y, width - x - w, h, w
        height, width = width, height
    return np.stack([x, y, w, h], 1)
