"""Resizing on the device, and the way back to original pixels.

    native          frames as they were recorded
    letterbox:N     one factor for both axes, so that the longer side becomes N; the rest of N x N is padding, at the
                    bottom and right as in every batch (copies of the last row and column to the network); or, with
                    data.letterbox=centre, all around it, grey and a part of the picture like any other
    stretch:N       N x N, each axis by a factor of its own

Smaller frames grow. Intensities are interpolated as x (counts already normalised), with pixel centres at .5; the gradient
map is computed anew from the resized frame, since a gradient does not commute with resizing. Boxes are edges and are
multiplied by the factors, nothing else. Masks go over, and probabilities come back, by one rule that loses no pixel:
along an axis that grows a pixel takes the value of the pixel that its centre falls into; along one that shrinks, the
largest value of the pixels whose centres fall into it. Interpolation on the way back would take the top off targets of
one pixel.

`bilinear` and `bicubic` are smoothed where frames shrink, so that they skip no pixel; `area` averages whole pixels and
`nearest` takes one, which moves small targets by up to half a pixel of the coarser grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from irstd.config import DataConfig, Interpolation
from irstd.data.gradient import Operator, gradient_magnitude_torch
from irstd.models.batch import TENSORS, Batch, normalised, true_part

GREY = 128 / 255
"""x of the padding around a centred frame, as the code that it follows has it."""
LEAST = 1
"""Resized boxes of whole pixels are dropped where a side is no longer than this, as there."""

# How PyTorch calls them.
_MODES: dict[str, dict[str, object]] = {
    "bilinear": {"mode": "bilinear", "antialias": True},
    "bicubic": {"mode": "bicubic", "antialias": True},
    "area": {"mode": "area"},
    "nearest": {"mode": "nearest-exact"},
}


@dataclass(frozen=True)
class Placement:
    """Where a key frame lies in its resized one. Sizes are (height, width), `origin` is (top, left), in pixels."""

    original: tuple[int, int]
    placed: tuple[int, int]
    origin: tuple[int, int] = (0, 0)

    def boxes(self, boxes_M4: np.ndarray) -> np.ndarray:
        """float32 [M, 4] x, y, w, h of the original in pixels of the resized frame, its padding included."""
        top, left = self.origin
        return _scaled(boxes_M4, self.original, self.placed) + np.array([left, top, 0, 0], np.float32)

    def integer_boxes(self, boxes_M4: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """The same with corners cut to whole pixels, and bool [M]: which are left, longer than `LEAST` within `side`."""
        x, y, w, h = np.asarray(boxes_M4, np.float64).reshape(-1, 4).T
        (top, left), (height, width), (true_height, true_width) = self.origin, self.placed, self.original
        # Multiplied first: 35 * (512 / 640) may fall short of a whole number, 35 * 512 / 640 does not.
        columns = [np.trunc(edge * width / true_width + left).clip(0, side) for edge in (x, x + w)]
        rows = [np.trunc(edge * height / true_height + top).clip(0, side) for edge in (y, y + h)]
        found_M4 = np.stack([columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0]], 1).astype(np.float32)
        kept_M = (found_M4[:, 2:] > LEAST).all(1)
        return found_M4[kept_M], kept_M

    def boxes_back(self, boxes_M4: np.ndarray) -> np.ndarray:
        """float32 [M, 4] x, y, w, h in the pixels of the resized frame without its padding, in original pixels."""
        return _scaled(boxes_M4, self.placed, self.original)

    def part(self, values: np.ndarray) -> np.ndarray:
        """The frame's part of a map [N, N] of the resized one."""
        (top, left), (height, width) = self.origin, self.placed
        return values[top : top + height, left : left + width]

    def back(self, values: np.ndarray) -> np.ndarray:
        """A mask or a map of probabilities, [N, N] or without its padding, as [H, W] of the original; type kept."""
        values = values if values.shape == self.placed else self.part(values)
        part = torch.from_numpy(np.ascontiguousarray(values))
        return resampled(part, self.original).numpy()


@dataclass(frozen=True)
class Resize:
    """`resize(batch)`: a batch of counts on its device, resized. `operator`: of the gradient map; None: without a map."""

    kind: str = "native"
    side: int = 0
    interpolation: Interpolation = "bilinear"
    operator: Operator | None = None
    centred: bool = False
    whole_pixels: bool = False

    @classmethod
    def of(cls, config: DataConfig, operator: Operator | None) -> Resize:
        return cls(*config.resized, config.interpolation, operator, config.letterbox == "centre", config.integer_boxes)

    @property
    def native(self) -> bool:
        return self.kind == "native"

    def placement(self, height: int, width: int) -> Placement:
        """Where a frame of this size goes. No side becomes less than a pixel."""
        placed = (height, width)
        if self.kind == "stretch":
            placed = (self.side, self.side)
        elif self.kind == "letterbox":
            longer = max(placed)
            # The code that a centred one follows rounds down.
            half = 0 if self.centred else longer
            placed = tuple(max(1, (2 * length * self.side + half) // (2 * longer)) for length in placed)
        if self.centred:
            top, left = ((self.side - length) // 2 for length in placed)
            return Placement((height, width), placed, (top, left))
        return Placement((height, width), placed)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Batch, list[Placement]]:
        """The resized batch and where each key frame went.

        `batch` is `ClipLoader`'s, moved by `to_device`; each key frame is resized from its own true size. The result keeps
        the loader's contract, with "frames" float32 x [B, T, N, N] at offset 0 and scale 1. A native batch comes back as
        it is.
        """
        placements = [self.placement(*(int(v) for v in pair)) for pair in batch["size"].tolist()]
        if self.native:
            return batch, placements
        found = dict(batch)
        canvases: Batch = {}
        for placement in dict.fromkeys(placements):
            same = [b for b, other in enumerate(placements) if other == placement]
            for name, part in self._resized(batch, same, placement).items():
                if name not in canvases:
                    shape = (len(placements), *part.shape[1:-2], self.side, self.side)
                    grey = GREY if self.centred and name == "frames" else 0
                    canvases[name] = torch.full(shape, grey, dtype=part.dtype, device=part.device)
                (top, left), (height, width) = placement.origin, part.shape[-2:]
                canvases[name][same, ..., top : top + height, left : left + width] = part
        found.pop("gradient", None)  # of the frame as it was
        found |= canvases
        found["offset"], found["scale"] = torch.zeros_like(batch["offset"]), torch.ones_like(batch["scale"])
        whole = (self.side, self.side)
        found["size"] = batch["size"].new_tensor([whole if self.centred else p.placed for p in placements])
        for name in ("boxes", "ignore"):
            if batch.get(name) is not None:
                found[name] = [p.boxes(boxes) for p, boxes in zip(placements, batch[name], strict=True)]
        if self.whole_pixels and batch.get("boxes") is not None:
            pairs = zip(placements, batch["boxes"], strict=True)
            boxes, kept = zip(*(p.integer_boxes(boxes_M4, self.side) for p, boxes_M4 in pairs), strict=True)
            found["boxes"] = list(boxes)
            if batch.get("classes") is not None:
                found["classes"] = [np.asarray(c)[kept_M] for c, kept_M in zip(batch["classes"], kept, strict=True)]
        return found, placements

    def _resized(self, batch: Batch, same: list[int], placement: Placement) -> dict[str, torch.Tensor]:
        """Frames (x), gradient map and masks of the key frames `same`, which have one true size, without padding."""
        part = true_part({name: batch.get(name) for name in TENSORS}, same)
        with torch.autocast(part["frames"].device.type, enabled=False):
            x_BTHW = normalised(part)
            if placement.placed != placement.original:
                x_BTHW = F.interpolate(x_BTHW, placement.placed, **_MODES[self.interpolation])
        found = {"frames": x_BTHW}
        if self.operator is not None:
            found["gradient"] = gradient_magnitude_torch(x_BTHW[:, -1:], self.operator, "replicate")[:, 0]
        if part["masks"] is not None:
            found["masks"] = resampled(part["masks"], placement.placed)
        return found


def resampled(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[..., H, W] as [..., *size] by the rule for masks (see above): exact, of any type, alike on every device."""
    for dim, length in ((-2, size[0]), (-1, size[1])):
        values = _resampled_axis(values, length, dim)
    return values


def _resampled_axis(values: torch.Tensor, size: int, dim: int) -> torch.Tensor:
    length = values.shape[dim]
    if size == length:
        return values
    at = torch.arange(size, device=values.device)
    if size > length:
        return values.index_select(dim, (2 * at + 1) * length // (2 * size))
    # Pixel j goes to the pixel i that holds its centre, (j + .5) size / length: i's first is the least j that reaches i.
    first = -((size - 2 * length * at) // (2 * size))
    last = torch.cat([first[1:], first.new_tensor([length])]) - 1
    found = values.index_select(dim, first)
    for step in range(1, -(-length // size)):
        found = torch.maximum(found, values.index_select(dim, torch.minimum(first + step, last)))
    return found


def _scaled(boxes_M4: np.ndarray, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    factor_y, factor_x = target[0] / source[0], target[1] / source[1]
    return (np.asarray(boxes_M4, np.float64) * [factor_x, factor_y, factor_x, factor_y]).astype(np.float32)
