"""The two-way guidance fusion module (TGFM) of GGL-Net's decoder, and what it is compared with in ablations.

Each fusion takes the deeper ("high") level at half the size and the shallower ("low") one, and returns features of the
low level's shape. With H' = ReLU(BN(up(Conv1x1 high))) and L = low:

    tgfm   L * Mc(H') + H' * Ms(L)                 high guides low by channel, low guides high by place
    sbam   L + H' * sigmoid(BN(Conv1x1 L))         ALCL-Net's, from the same group
    add    L + H'
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from irstd.models.ggl_net.blocks import conv_bn, conv_bn_relu, mean


class ChannelGuide(nn.Module):
    """Mc(x) = sigmoid(MLP(max x) + MLP(mean x)), [B, C, 1, 1]; one MLP for both, reduction 8, no biases."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        # amax rather than adaptive max pooling: the same value, and its backward is deterministic on a GPU.
        largest = x_BCHW.amax(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.mlp(largest) + self.mlp(mean(x_BCHW, (2, 3), keepdim=True)))


class SpatialGuide(nn.Module):
    """Ms(x) = sigmoid(Conv7x7 [max over channels, mean over channels]), [B, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        largest = x_BCHW.amax(dim=1, keepdim=True)
        return torch.sigmoid(self.conv(torch.cat((largest, mean(x_BCHW, (1,), keepdim=True)), dim=1)))


class Fusion(nn.Module):
    """L + H', the base of the others.

    Args:
        high_channels: channels of the deeper level.
        low_channels: channels of the shallower level and of the result.
    """

    def __init__(self, high_channels: int, low_channels: int) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(high_channels, low_channels, kernel_size=1)

    def forward(self, high_BCHW: torch.Tensor, low_BCHW: torch.Tensor) -> torch.Tensor:
        # The released code enlarges first. A 1x1 convolution and an interpolation, whose weights add up to 1, commute: this
        # way round both have a quarter or half of the work. The corners are aligned, as there.
        reduced_BCHW = self.reduce[0](high_BCHW)
        up_BCHW = F.interpolate(reduced_BCHW, scale_factor=2, mode="bilinear", align_corners=True)
        return self.combine(self.reduce[1:](up_BCHW), low_BCHW)

    def combine(self, high_BCHW: torch.Tensor, low_BCHW: torch.Tensor) -> torch.Tensor:
        """Merge the two levels, both [B, low_channels, H, W] by now."""
        return low_BCHW + high_BCHW


class TwoWayGuidance(Fusion):
    """TGFM. `guidance` keeps both ways, or one of them for ablations; the other term is then added as it is."""

    def __init__(self, high_channels: int, low_channels: int, guidance: str = "two-way") -> None:
        super().__init__(high_channels, low_channels)
        self.channel_guide = ChannelGuide(low_channels) if guidance != "spatial" else None
        self.spatial_guide = SpatialGuide() if guidance != "channel" else None

    def combine(self, high_BCHW: torch.Tensor, low_BCHW: torch.Tensor) -> torch.Tensor:
        guided_low = low_BCHW if self.channel_guide is None else low_BCHW * self.channel_guide(high_BCHW)
        if self.spatial_guide is None:
            return guided_low + high_BCHW
        return torch.addcmul(guided_low, high_BCHW, self.spatial_guide(low_BCHW))


class LocalGate(Fusion):
    """ALCL-Net's fusion (released code): the low level gates the high one at each place and channel."""

    def __init__(self, high_channels: int, low_channels: int) -> None:
        super().__init__(high_channels, low_channels)
        self.gate = conv_bn(low_channels, low_channels, kernel_size=1)

    def combine(self, high_BCHW: torch.Tensor, low_BCHW: torch.Tensor) -> torch.Tensor:
        return low_BCHW + high_BCHW * torch.sigmoid(self.gate(low_BCHW))


def build_fusion(fusion: str, guidance: str, high_channels: int, low_channels: int) -> Fusion:
    """The fusion of one level: "tgfm" (with `guidance`), "sbam" or "add"."""
    if fusion == "tgfm":
        return TwoWayGuidance(high_channels, low_channels, guidance)
    return {"sbam": LocalGate, "add": Fusion}[fusion](high_channels, low_channels)
