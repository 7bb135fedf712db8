"""Augmentation that makes new pixels, on the device: zoom, shift, noise. The gradient map is computed again from them.

Each key frame's draws come from its own seed (`ClipLoader`'s "seeds"). Frames come back as float32 x, at offset 0 and
scale 1, their padding as in every batch: zero-filled maps and masks, frames whose padding nobody reads.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from irstd.data.gradient import Operator, gradient_magnitude_torch
from irstd.data.regions import KEPT, cut
from irstd.models.batch import Batch, normalised


def zoomed(batch: Batch, zoom: float = 0.0, shift: float = 0.0, operator: Operator = "central") -> Batch:
    """Scale each clip about its centre c and shift it by d: what was at p goes to (p - c) s + c + d.

    s is drawn evenly from [1 - zoom, 1 + zoom], d from up to `shift` times the frame's sides either way; one draw for all frames
    of a clip. Intensities are bilinear, what comes in from outside repeats the border. Boxes are moved exactly and cut at
    the border as by a crop. A pixel becomes target where the bilinear share of target at its source is a half or more; a
    target that shrinks to nothing by this keeps the pixel of its centre. `batch` is on its device already.
    """
    if not zoom and not shift:
        return batch
    x_BTHW = normalised(batch)
    masks_BHW = batch.get("masks")
    found = dict(batch)
    frames, masks = [], []
    boxes: dict[str, list[np.ndarray]] = {name: [] for name in ("boxes", "ignore") if batch.get(name) is not None}
    for b, (height, width) in enumerate(batch["size"].tolist()):
        draw = np.random.default_rng([int(batch["seeds"][b]), 1]).uniform(-1, 1, 3)
        s = 1 + zoom * float(draw[0])
        dx, dy = shift * width * float(draw[1]), shift * height * float(draw[2])
        # Source of each pixel's centre, edges at 0 and width.
        columns = (torch.arange(x_BTHW.shape[-1]) + 0.5 - width / 2 - dx) / s + width / 2
        rows = (torch.arange(x_BTHW.shape[-2]) + 0.5 - height / 2 - dy) / s + height / 2
        frames.append(_sampled(x_BTHW[b], rows, columns, height, width))
        for name, kept in boxes.items():
            x, y, w, h = np.asarray(batch[name][b], np.float64).reshape(-1, 4).T
            moved = np.stack(
                [(x - width / 2) * s + width / 2 + dx, (y - height / 2) * s + height / 2 + dy, w * s, h * s], 1
            )
            kept.append(cut(moved, 0, 0, height, width, KEPT if name == "boxes" else 0))
        if masks_BHW is not None:
            # Beyond the border nothing is target: the border's pixels are not drawn out.
            share_HW = _sampled(
                F.pad(masks_BHW[b : b + 1, :height, :width].float(), (1, 1, 1, 1)), rows + 1, columns + 1
            )[0]
            mask_HW = torch.zeros_like(masks_BHW[b])
            mask_HW[:height, :width] = (share_HW[:height, :width] >= 0.5).to(mask_HW.dtype)
            for x, y, w, h in boxes["boxes"][b].tolist() if boxes.get("boxes") else ():
                part = np.s_[int(y) : int(np.ceil(y + h)), int(x) : int(np.ceil(x + w))]
                if not mask_HW[part].any():
                    mask_HW[min(int(y + h / 2), height - 1), min(int(x + w / 2), width - 1)] = 1
            masks.append(mask_HW)
    found |= boxes
    if masks_BHW is not None:
        found["masks"] = torch.stack(masks)
    return _as_x(found, torch.stack(frames), operator)


def noisy(batch: Batch, noise: float = 0.0, operator: Operator = "central") -> Batch:
    """Add Gaussian noise to every pixel of every frame; its deviation is drawn evenly from [0, noise] in x for each clip."""
    if not noise:
        return batch
    x_BTHW = normalised(batch).clone()
    for x_THW, seed, (height, width) in zip(x_BTHW, batch["seeds"], batch["size"].tolist(), strict=True):
        deviation = noise * float(np.random.default_rng([int(seed), 2]).uniform())
        generator = torch.Generator(x_BTHW.device).manual_seed(int(seed) & (2**63 - 1))
        # Of the true area alone: how far a batch pads this frame is no part of its draw.
        part = x_THW[:, :height, :width]
        part += deviation * torch.randn(part.shape, generator=generator, device=part.device)
    return _as_x(dict(batch), x_BTHW, operator)


def _sampled(x_NHW: torch.Tensor, rows_H: torch.Tensor, columns_W: torch.Tensor, *true: int) -> torch.Tensor:
    """[N, len(rows), len(columns)]: bilinear values at points in edge coordinates; outside the true area its border."""
    height, width = true or x_NHW.shape[-2:]
    found = x_NHW
    for dim, points, length in ((-2, rows_H, height), (-1, columns_W, width)):
        at = (points.double() - 0.5).clamp(0, length - 1)
        low = at.floor().long().clamp(max=max(0, length - 2))
        weight = (at - low).to(found)
        low = low.to(found.device)
        below, above = found.index_select(dim, low), found.index_select(dim, (low + 1).clamp(max=length - 1))
        found = torch.lerp(below, above, weight.view(-1, 1) if dim == -2 else weight)
    return found


def _as_x(found: Batch, x_BTHW: torch.Tensor, operator: Operator) -> Batch:
    found["frames"] = x_BTHW
    found["offset"], found["scale"] = torch.zeros_like(found["offset"]), torch.ones_like(found["scale"])
    if found.get("gradient") is not None:
        # The padding repeats the border, so the border's slopes are those of a replicated one.
        map_BHW = gradient_magnitude_torch(normalised(found)[:, -1:], operator, "replicate")[:, 0]
        for each_HW, (height, width) in zip(map_BHW, found["size"].tolist(), strict=True):
            each_HW[height:], each_HW[:, width:] = 0, 0
        found["gradient"] = map_BHW
    return found
