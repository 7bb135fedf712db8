"""A network of a few thousand weights, which learns to find bright points in seconds; to measure what is around a training."""

from __future__ import annotations

import torch
from torch import nn


class Small(nn.Module):
    """frame_B1HW -> logit_B1HW: `depth` convolutions of 3x3 and `width` channels, normalised, and one of 1x1."""

    def __init__(self, width: int = 8, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(depth):
            layers += [nn.Conv2d(width if index else 1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))

    def forward(self, frame_B1HW: torch.Tensor) -> torch.Tensor:
        return self.layers(frame_B1HW)
