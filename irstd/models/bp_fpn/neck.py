"""The motion-coupling neck of SSTNet: past frames gate and refine the key frame's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from irstd.models.bp_fpn.blocks import BaseConv


def pair(in_channels: int, hidden: int, out_channels: int, last: nn.Module | None = None) -> nn.Sequential:
    """Two 3x3 convolutions; `last` is the second one's activation."""
    return nn.Sequential(BaseConv(in_channels, hidden, 3), BaseConv(hidden, out_channels, 3, act=last))


class MotionNeck(nn.Module):
    """P3 maps of the T - 1 past frames, oldest first, and of the key frame to one map of the same shape.

        gate = conv_ref [past]                           in (0, 1)
        c    = conv_cr_mix [conv_cur(gate * key), key]
        r    = conv_gl_mix(sum_i w_i conv_gl [past_i, key])
        out  = conv_final [r, c]

    Source: the released code of SSTNet. The weights w_i start at 1 / (T - 1), which at its T = 5 is its 0.25.
    """

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        c = channels
        # One for each frame, as in the released module; the key frame's takes no part, and its gradient is 0.
        self.weight = nn.Parameter(torch.full((frames,), 1 / (frames - 1)))
        self.conv_ref = pair((frames - 1) * c, 2 * c, c, nn.Sigmoid())
        self.conv_cur = pair(c, c, c)
        self.conv_gl = pair(2 * c, 2 * c, c)
        self.conv_gl_mix = pair(c, c, c)
        self.conv_cr_mix = pair(2 * c, 2 * c, c)
        self.conv_final = pair(2 * c, 2 * c, c)

    def forward(self, past: Sequence[torch.Tensor], key_BCHW: torch.Tensor) -> torch.Tensor:
        gate_BCHW = self.conv_ref(torch.cat(tuple(past), dim=1))
        current_BCHW = self.conv_cr_mix(torch.cat((self.conv_cur(gate_BCHW * key_BCHW), key_BCHW), dim=1))
        related = [
            self.conv_gl(torch.cat((map_BCHW, key_BCHW), dim=1)) * weight
            for map_BCHW, weight in zip(past, self.weight[:-1], strict=True)
        ]
        related_BCHW = self.conv_gl_mix(torch.stack(related).sum(0))
        return self.conv_final(torch.cat((related_BCHW, current_BCHW), dim=1))
