"""CSPDarknet as in YOLOX-s (depth 0.33), applied to single frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from irstd.models.bp_fpn.blocks import BaseConv, CSPLayer, Focus, SPPBottleneck
from irstd.models.recompute import kept, recomputed

STRIDES = {"image": 1, "stem": 2, "dark2": 4, "dark3": 8, "dark4": 16, "dark5": 32}


class Stages(NamedTuple):
    """Feature maps of the backbone, [N, C, H / stride, W / stride], at the strides 2, 4, 8, 16, 32."""

    stem: torch.Tensor
    dark2: torch.Tensor
    dark3: torch.Tensor
    dark4: torch.Tensor
    dark5: torch.Tensor


def widths(width: float) -> dict[str, int]:
    """Channels of each stage at a multiple of YOLOX-s; even numbers, since the layers halve them."""
    full = {"stem": 32, "dark2": 64, "dark3": 128, "dark4": 256, "dark5": 512}
    return {name: scaled(channels, width) for name, channels in full.items()}


def scaled(channels: int, width: float) -> int:
    """`channels` times `width` to the nearest even number, at least 2."""
    return max(2, 2 * round(channels * width / 2))


class CSPDarknet(nn.Module):
    """Image float [N, in_channels, H, W] to `Stages`; H and W are multiples of 32."""

    def __init__(self, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        c = widths(width)
        self.stem = Focus(in_channels, c["stem"])
        self.dark2 = nn.Sequential(BaseConv(c["stem"], c["dark2"], 3, 2), CSPLayer(c["dark2"], c["dark2"], 1))
        self.dark3 = nn.Sequential(BaseConv(c["dark2"], c["dark3"], 3, 2), CSPLayer(c["dark3"], c["dark3"], 3))
        self.dark4 = nn.Sequential(BaseConv(c["dark3"], c["dark4"], 3, 2), CSPLayer(c["dark4"], c["dark4"], 3))
        self.dark5 = nn.Sequential(
            BaseConv(c["dark4"], c["dark5"], 3, 2),
            SPPBottleneck(c["dark5"]),
            CSPLayer(c["dark5"], c["dark5"], 1, shortcut=False),
        )
        self.recompute = False
        """Whether the stages of large maps are computed again in the backward pass rather than kept."""

    def forward(self, image_NCHW: torch.Tensor) -> Stages:
        run = recomputed if self.recompute else kept
        stem = run(self.stem, image_NCHW)
        dark2 = run(self.dark2, stem)
        dark3 = run(self.dark3, dark2)
        dark4 = self.dark4(dark3)
        return Stages(stem, dark2, dark3, dark4, self.dark5(dark4))
