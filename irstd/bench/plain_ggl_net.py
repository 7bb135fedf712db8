"""GGL-Net as its authors' module computes it, the baseline of `irstd bench models`: for timing, not for use.

Written from the description of the released code (three-channel image and gradient map, NCHW, every convolution, batch
normalisation and activation by itself, features enlarged before they are reduced), with the usual building blocks of
PyTorch. Its parameters have the names of `GGLNet`'s, so a state_dict of one loads into the other; with `border="authors"`
the two are the same function.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def gradient_magnitude(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Central differences of each channel, zeros beyond the border."""
    padded = F.pad(x_BCHW, (1, 1, 1, 1))
    gx = 0.5 * (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2])
    gy = 0.5 * (padded[..., :-2, 1:-1] - padded[..., 2:, 1:-1])
    return torch.sqrt(gx**2 + gy**2)


def conv_bn(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, stride, size // 2), nn.BatchNorm2d(outputs)]


def conv_bn_relu(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(inputs, outputs, size, stride), nn.ReLU(inplace=True))


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Linear(channels, channels // 4, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.excite = nn.Linear(channels // 4, channels, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels = x.shape[:2]
        weight = self.pool(x).view(batch, channels)
        weight = self.sigmoid(self.excite(self.relu(self.squeeze(weight))))
        return x * weight.view(batch, channels, 1, 1).expand_as(x)


class Residual(nn.Module):
    def __init__(self, channels: int, attention: bool = True) -> None:
        super().__init__()
        self.first = conv_bn_relu(channels, channels)
        self.attention = SqueezeExcitation(channels) if attention else nn.Identity()
        self.second = nn.Sequential(*conv_bn(channels, channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.second(self.attention(self.first(x))) + x)


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(*conv_bn_relu(inputs, outputs), nn.MaxPool2d(2), *conv_bn(outputs, outputs))
        self.shortcut = conv_bn_relu(inputs, outputs, stride=2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.main(x) + self.shortcut(x))


class Supplement(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gradient_block = nn.Sequential(
            conv_bn_relu(3, channels), SqueezeExcitation(channels), conv_bn_relu(channels, channels)
        )
        self.merge = nn.Sequential(
            conv_bn_relu(2 * channels, channels),
            SqueezeExcitation(channels),
            nn.Sequential(*conv_bn(channels, channels)),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return self.relu(self.merge(torch.cat([x, self.gradient_block(gradient)], dim=1)) + x)


class ChannelGuide(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.max, self.mean = nn.AdaptiveMaxPool2d(1), nn.AdaptiveAvgPool2d(1)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, channels // 8, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 8, channels, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.mlp(self.max(x)) + self.mlp(self.mean(x)))


class SpatialGuide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        largest, _ = torch.max(x, dim=1, keepdim=True)
        return torch.sigmoid(self.conv(torch.cat([largest, torch.mean(x, dim=1, keepdim=True)], dim=1)))


class Fusion(nn.Module):
    def __init__(self, high: int, low: int) -> None:
        super().__init__()
        self.up = nn.UpsamplingBilinear2d(scale_factor=2)
        self.reduce = conv_bn_relu(high, low, 1)
        self.channel_guide, self.spatial_guide = ChannelGuide(low), SpatialGuide()

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        high = self.reduce(self.up(high))
        return low * self.channel_guide(high) + high * self.spatial_guide(low)


class PlainGGLNet(nn.Module):
    """Image float [B, 3, H, W], H and W multiples of 16, to logits [B, 1, H, W]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(5)]
        self.pool = nn.MaxPool2d(2, 2)
        self.stem = nn.Sequential(conv_bn_relu(3, width), conv_bn_relu(width, width))
        first = [Residual(width, attention=False), *(Down(c // 2, c) for c in channels[1:])]
        self.stages = nn.ModuleList(
            nn.Sequential(block, Residual(c), Residual(c)) for block, c in zip(first, channels, strict=True)
        )
        self.supplements = nn.ModuleList(Supplement(c) for c in channels)
        self.contrasts = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, c, 1), nn.ReLU(inplace=True), nn.Conv2d(c, c, 3, padding=1), nn.ReLU(inplace=True)
            )
            for c in channels
        )
        self.fusions = nn.ModuleList(Fusion(2 * c, c) for c in channels[:-1])
        self.head = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        gradient = gradient_magnitude(image)
        x, levels = self.stem(image), []
        for index, stage in enumerate(self.stages):
            if index:
                gradient = self.pool(gradient)
            x = self.supplements[index](stage(x), gradient)
            levels.append(self.contrasts[index](x))
        fused = levels[4]
        for index in (3, 2, 1, 0):
            fused = self.fusions[index](fused, levels[index])
        return self.head(fused)
