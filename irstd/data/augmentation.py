"""Augmentation of whole batches on the device: frames, gradient map, masks and boxes moved together.

Flips and quarter turns only permute pixels, so the gradient map is moved, not computed again: its magnitude is the same
for every one of them; contrast multiplies it. Each key frame's draw comes from its own seed (`ClipLoader`'s "seeds"), not from
its place in a batch or the rank that holds it. What does not commute with the map is in `irstd.training.distortion`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

ARRAYS = ("frames", "gradient", "masks")
BOXES = ("boxes", "ignore")


def dihedral(batch: dict[str, Any], flips: bool = True, quarter_turns: bool = True) -> dict[str, Any]:
    """Turn each key frame by one of the up to eight symmetries of the square, chosen by its seed.

    `batch` is on the device already. A smaller frame is turned within its own area, so its padding stays at the bottom
    and right; only square frames get quarter turns. Both look at the frame alone: whatever else is in its batch, and
    so for any number of ranks, it is turned in the same way.
    """
    sizes = [(int(h), int(w)) for h, w in batch["size"].tolist()]
    codes = []
    for seed, (height, width) in zip(map(int, batch["seeds"]), sizes, strict=True):
        turns = (seed >> 1) & 3 if quarter_turns and height == width else 2 * ((seed >> 1) & flips)
        codes.append((bool(seed & flips), turns))
    if not any(mirror or turns for mirror, turns in codes):
        return batch
    found = dict(batch)
    for name in ARRAYS:
        if batch.get(name) is not None:
            found[name] = _turned(batch[name], sizes, codes)
    for name in BOXES:
        if batch.get(name) is not None:
            found[name] = [
                turn_boxes(boxes, *size, *code) for boxes, size, code in zip(batch[name], sizes, codes, strict=True)
            ]
    return found


def _turned(values: torch.Tensor, sizes: list[tuple[int, int]], codes: list[tuple[bool, int]]) -> torch.Tensor:
    import torch

    found = values.clone()
    for value, result, (height, width), (mirror, turns) in zip(values, found, sizes, codes, strict=True):
        if mirror or turns:
            value = value[..., :height, :width]
            value = value.flip(-1) if mirror else value
            result[..., :height, :width] = torch.rot90(value, turns, (-2, -1))
    return found


def turn_boxes(boxes_M4: np.ndarray, height: int, width: int, mirror: bool, turns: int) -> np.ndarray:
    """Boxes (x, y, w, h) after a left-right mirror and `turns` counter-clockwise quarter turns of a [height, width] frame."""
    x, y, w, h = np.asarray(boxes_M4, np.float32).reshape(-1, 4).T
    if mirror:
        x = width - x - w
    for _ in range(turns):  # (x, y) -> (y, width - x): the right edge becomes the top
        x, y, w, h = y, width - x - w, h, w
        height, width = width, height
    return np.stack([x, y, w, h], 1)


def intensities(batch: dict[str, Any], contrast: float = 0.0, brightness: float = 0.0) -> dict[str, Any]:
    """Change each key frame's contrast and brightness by its seed: x -> c x + b, exact for any bit depth.

    c is drawn evenly from [1 - contrast, 1 + contrast], b from [-brightness, brightness] in x units. Counts stay as they are:
    c x + b is another offset and scale of x = (counts - offset) * scale, and a gradient map in x units is multiplied by c.
    `batch` is on the device already.
    """
    if not contrast and not brightness:
        return batch
    import torch

    # Two numbers in [-1, 1) out of bits of the seed that the symmetries do not use.
    draws = [(int(s) >> 8 & 0xFFFF, int(s) >> 24 & 0xFFFF) for s in batch["seeds"]]
    factor_B = torch.tensor([1 + contrast * (d[0] / 2**15 - 1) for d in draws], device=batch["scale"].device)
    shift_B = torch.tensor([brightness * (d[1] / 2**15 - 1) for d in draws], device=batch["scale"].device)
    found = dict(batch)
    found["scale"] = batch["scale"] * factor_B
    found["offset"] = batch["offset"] - shift_B / found["scale"]
    if batch.get("gradient") is not None:
        found["gradient"] = batch["gradient"] * factor_B.view(-1, 1, 1)
    return found
