"""YOLOX's decoupled head on one level of stride 8, and what its raw output means."""

from __future__ import annotations

import math

import torch
from torch import nn

from irstd.models.bp_fpn.blocks import BaseConv

STRIDE = 8
LARGEST = 12.0
"""Raw sizes are cut here: exp(12) cells are beyond any frame, and a diverging network gives no infinity."""


class Head(nn.Module):
    """Features [B, C, H, W] to raw [B, 5 + classes, H, W]: x, y, w, h, objectness, classes, none of them activated.

    The members are lists of one, as in YOLOX's released weights, which have one for each level.
    """

    def __init__(self, in_channels: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stems = nn.ModuleList([BaseConv(in_channels, channels, 1)])
        self.cls_convs = nn.ModuleList([_two(channels)])
        self.reg_convs = nn.ModuleList([_two(channels)])
        self.cls_preds = nn.ModuleList([nn.Conv2d(channels, classes, 1)])
        self.reg_preds = nn.ModuleList([nn.Conv2d(channels, 4, 1)])
        self.obj_preds = nn.ModuleList([nn.Conv2d(channels, 1, 1)])

    def start_at(self, prior: float) -> None:
        """Set the biases of objectness and class so that both start about the probability `prior`.

        Nearly all cells are background: a head that starts at .5 spends its first steps on saying so.
        """
        for layer in (*self.obj_preds, *self.cls_preds):
            nn.init.constant_(layer.bias, -math.log((1 - prior) / prior))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.stems[0](x_BCHW)
        classes = self.cls_preds[0](self.cls_convs[0](x_BCHW))
        place = self.reg_convs[0](x_BCHW)
        return torch.cat((self.reg_preds[0](place), self.obj_preds[0](place), classes), dim=1)


def _two(channels: int) -> nn.Sequential:
    return nn.Sequential(BaseConv(channels, channels, 3), BaseConv(channels, channels, 3))


def decode(raw_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Raw output in float32, cells A = H * W row by row.

    Returns: boxes [B, A, 4] (centre x, centre y, w, h) in px, objectness logits [B, A], class logits [B, A, classes].
    """
    height, width = raw_BCHW.shape[-2:]
    raw_BAC = raw_BCHW.float().flatten(2).transpose(1, 2)
    grid_A2 = cells(height, width, raw_BCHW.device)
    centre = (raw_BAC[..., :2] + grid_A2) * STRIDE
    size = raw_BAC[..., 2:4].clamp(max=LARGEST).exp() * STRIDE
    return torch.cat((centre, size), dim=-1), raw_BAC[..., 4], raw_BAC[..., 5:]


def cells(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Column and row of each cell, float32 [H * W, 2]."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack((columns, rows), dim=-1).reshape(-1, 2).float()
