"""Directional gradient regularisation (DGR) as a term of the loss: hierarchical consistency of adjacent levels.

    L_DGR = mean over pairs, frames and places of 1 - cos(A_l, sg(Up2(A_h)))

A_l is the finer, A_h the coarser map of a pair. The paper's own form is not public; the variants, and what is our reading,
are in docs/bp-fpn.md. Variants that edit the gradient itself are in `coupling`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from irstd.config import DGRConfig
from irstd.data.regions import touched
from irstd.models.bp_fpn.pyramid import Levels

EPSILON = 1e-6
GRADIENT_EPSILON = 1e-15
"""Of the norms of gradients, which are far smaller than features."""


def distance(a_NCHW: torch.Tensor, b_NCHW: torch.Tensor, kind: str, epsilon: float = EPSILON) -> torch.Tensor:
    """How far two maps point apart at each place, [N, H, W]; 0 where their channel vectors have one direction.

    "cosine" 1 - cos; "l2" the squared distance of the normalised vectors; "smooth_l1" the sum over channels of their
    Huber distance, quadratic below 0.1.
    """
    a_NCHW, b_NCHW = _unit(a_NCHW, epsilon), _unit(b_NCHW, epsilon)
    if kind == "cosine":
        return 1 - (a_NCHW * b_NCHW).sum(1)
    if kind == "l2":
        return (a_NCHW - b_NCHW).square().sum(1)
    return F.smooth_l1_loss(a_NCHW, b_NCHW, reduction="none", beta=0.1).sum(1)


def _unit(x_NCHW: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Channel vectors of length 1. Smooth at 0, unlike the norm."""
    if x_NCHW.dtype != torch.float64:
        x_NCHW = x_NCHW.float()
    return x_NCHW * (x_NCHW.square().sum(1, keepdim=True) + epsilon**2).rsqrt()


def foreground(boxes: Sequence[np.ndarray], shape: Sequence[int], stride: int, device: torch.device) -> torch.Tensor:
    """Cells of `stride` px that a box (x, y, w, h) touches: float32 {0, 1} [B, h, w] for `shape` (h, w)."""
    found = np.stack([touched(boxes_M4, *shape, stride) for boxes_M4 in boxes])
    return torch.from_numpy(found).to(device, torch.float32)


def masked_mean(value_NHW: torch.Tensor, mask: str, key_BHW: torch.Tensor) -> torch.Tensor:
    """Mean over places: "all", those of targets in key frames ("foreground"; 0 without any), or the two means' mean.

    value_NHW: N = B * T, the key frame last of each clip; only key frames have labels. key_BHW: foreground of these.
    """
    if mask == "all":
        return value_NHW.mean()
    batch = len(key_BHW)
    key = value_NHW.view(batch, -1, *value_NHW.shape[1:])[:, -1]
    targets = (key * key_BHW).sum() / key_BHW.sum().clamp(min=1)
    return targets if mask == "foreground" else (value_NHW.mean() + targets) / 2


def directed(
    low: torch.Tensor, high: torch.Tensor, moved: torch.Tensor, config: DGRConfig
) -> list[tuple[str, torch.Tensor]]:
    """The distances of a pair of feature maps with the grid that each lies on.

    "high-to-low": the coarse map is the target and stays, the gradient reaches the finer one (`moved`); "low-to-high" the
    other way round, on the coarse grid; "both" has both.
    """
    found = []
    if config.direction in ("high-to-low", "both"):
        target = F.interpolate(high.detach(), scale_factor=2, mode="nearest")
        found.append(("fine", distance(moved, target, config.distance)))
    if config.direction in ("low-to-high", "both"):
        found.append(("coarse", distance(high, F.avg_pool2d(low, 2).detach(), config.distance)))
    return found


def directed_gradients(low: torch.Tensor, high: torch.Tensor, config: DGRConfig) -> list[tuple[str, torch.Tensor]]:
    """The same for the gradients of a pair of maps; the finer one is averaged over 2x2 cells first."""
    pooled = F.avg_pool2d(low, 2)
    found = []
    if config.direction in ("high-to-low", "both"):
        found.append(("coarse", distance(pooled, high.detach(), config.distance, GRADIENT_EPSILON)))
    if config.direction in ("low-to-high", "both"):
        found.append(("coarse", distance(high, pooled.detach(), config.distance, GRADIENT_EPSILON)))
    return found


FINE = {"a": 16, "b": 8}
"""Stride of the finer map of each pair, px."""


def consistency(
    levels: Levels, config: DGRConfig, boxes: Sequence[np.ndarray], detection: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """L_DGR of the variants "feature" (V1 to V3) and "gradient" (V4), unweighted, and its parts.

    levels: of N = B * T frames. boxes: B arrays [M, 4] (x, y, w, h) of the key frames. detection: the detection loss,
    whose gradients the variant "gradient" compares. The parts name the mean over all places and that over targets:
    with few targets the first is about the background.
    """
    names = config.pairs.split("+")
    pairs = [levels.pair(name) for name in names]
    if config.variant == "gradient":
        maps = [x for pair in pairs for x in pair]
        gradients = torch.autograd.grad(detection, maps, create_graph=True)
        found = [directed_gradients(*gradients[2 * i : 2 * i + 2], config) for i in range(len(pairs))]
    else:
        found = [directed(*levels.pair(name), levels.moved(name), config) for name in names]
    totals: dict[str, list[torch.Tensor]] = {"chosen": [], "all": [], "foreground": []}
    for name, terms in zip(names, found, strict=True):
        for grid, value_NHW in terms:
            stride = FINE[name] * (1 if grid == "fine" else 2)
            key_BHW = foreground(boxes, value_NHW.shape[1:], stride, value_NHW.device)
            for mask in totals:
                totals[mask].append(masked_mean(value_NHW, config.mask if mask == "chosen" else mask, key_BHW))
    mean = {name: torch.stack(values).mean() for name, values in totals.items()}
    return mean["chosen"], {"dgr": mean["all"].detach(), "dgr_foreground": mean["foreground"].detach()}


class AuxiliaryHeads(nn.Module):
    """V7: objectness of A4 and A5 by a 1x1 convolution each, in training only; the targets are cells that a box touches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a4, self.a5 = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 1, 1)

    def forward(
        self, levels: Levels, boxes: Sequence[np.ndarray], ignore: Sequence[np.ndarray] | None = None
    ) -> torch.Tensor:
        """Sum of the binary cross-entropy over all cells a target cell, mean of both levels. Key frames only.

        ignore: B arrays [K, 4], regions of which nothing is claimed: their cells are asked only where a target is.
        """
        values = []
        for head, x_NCHW, stride in ((self.a4, levels.a4, 16), (self.a5, levels.a5, 32)):
            key_BCHW = x_NCHW.view(len(boxes), -1, *x_NCHW.shape[1:])[:, -1]
            logit_BHW = head(key_BCHW)[:, 0].float()
            target_BHW = foreground(boxes, logit_BHW.shape[1:], stride, logit_BHW.device)
            value_BHW = F.binary_cross_entropy_with_logits(logit_BHW, target_BHW, reduction="none")
            if ignore is not None:
                ignored_BHW = foreground(ignore, logit_BHW.shape[1:], stride, logit_BHW.device)
                value_BHW = value_BHW * torch.maximum(target_BHW, 1 - ignored_BHW)
            values.append(value_BHW.sum() / target_BHW.sum().clamp(min=1))
        return torch.stack(values).mean()
