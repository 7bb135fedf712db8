"""3x3 convolutions with fewer products, for inference: Winograd's minimal filtering (Lavin and Gray, CVPR 2016).

    fast = with_winograd(folded(model))     # in place; the layers in which it gains time

An output tile of 4x4 pixels takes 36 products for each pair of channels instead of 144. Tile and weights stand for
polynomials; they are evaluated at six points along each axis, multiplied there, and the result is interpolated. The
weights are evaluated once, in double precision. Against exact sums the error is two to four times that of the usual
convolution: about 1e-6 of the values' deviation in the mean, 2e-5 at the most.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LEAST_CHANNELS = 128
"""Of both sides of a convolution. The products that are saved grow with the square of the channels, the evaluation and
interpolation around them with the channels alone. GGL-Net with it is 1.04 (256x256) and 1.06 (512x512) times as fast as folded
only; from 64 channels on it was slower than from 128 in each run (benchmarks/RESULTS.md)."""
TILES = 64
"""That are worked on together at the least: fewer read the weights too often, more leave the processor's cache."""
TILE, KERNEL = 4, 3
SIDE = TILE + KERNEL - 1
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""And infinity. Of the usual sets these round least (Barabasz et al. 2020): half the error of 2 in the place of .5."""

Network = TypeVar("Network", bound=nn.Module)


def with_winograd(model: Network) -> Network:
    """`model` with its 3x3 convolutions of `LEAST_CHANNELS` and more replaced, the same function up to rounding."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and _suits(module):
            model.set_submodule(name, WinogradConv2d(module))
    return model


def _suits(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    plain = shape == ((KERNEL, KERNEL), (1, 1), (1, 1), (1, 1), 1, "zeros")
    return plain and min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS


def transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one axis, float64: `data` [6, 6], `weights` [6, 3], `output` [4, 6].

    output @ ((weights @ w) * (data @ d)) are the four sums of products of w with three neighbours each out of six in d.
    """
    points = np.array(POINTS)
    others = [np.delete(points, index) for index in range(len(points))]
    data = np.zeros((SIDE, SIDE))
    for row, roots in zip(data, others, strict=False):
        row[:-1] = np.poly(roots)[::-1]
    data[-1] = np.poly(points)[::-1]
    scale = np.array([np.prod(point - roots) for point, roots in zip(points, others, strict=True)])
    weights = np.vander(points, KERNEL, increasing=True) / scale[:, None]
    output = np.vander(points, TILE, increasing=True)
    return data, np.vstack([weights, np.eye(KERNEL)[-1]]), np.vstack([output, np.eye(TILE)[-1]]).T


class WinogradConv2d(nn.Module):
    """`conv`, a 3x3 convolution with stride and padding 1, as of now: float [B, C, H, W], any size, channels last out."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        data, weights, output = (torch.from_numpy(matrix).to(conv.weight.device) for matrix in transforms())
        dtype = conv.weight.dtype
        weight = torch.einsum("ik,jl,ockl->ijco", weights, weights, conv.weight.detach().double()).flatten(0, 1)
        self.register_buffer("weight", weight.to(dtype, memory_format=torch.contiguous_format))
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())
        self.register_buffer("data", torch.kron(data, data).to(dtype))
        self.register_buffer("output", torch.kron(output, output).to(dtype))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x_BCHW.shape
        borders = (0, 0, 1, 1 + -width % TILE, 1, 1 + -height % TILE)
        x_BHWC = F.pad(x_BCHW.permute(0, 2, 3, 1), borders)
        tiles_BYXCij = x_BHWC.unfold(1, SIDE, TILE).unfold(2, SIDE, TILE)
        down, across = tiles_BYXCij.shape[1:3]
        strips = tiles_BYXCij.split(-(-TILES // (batch * across)), 1)
        y_BYiXjC = torch.cat([self._tiles(strip) for strip in strips], 1)
        y_BHWC = y_BYiXjC.reshape(batch, down * TILE, across * TILE, -1)
        return y_BHWC[:, :height, :width].permute(0, 3, 1, 2)

    def _tiles(self, tiles_BYXCij: torch.Tensor) -> torch.Tensor:
        """The outputs of some rows of tiles, [B, Y, 4, X, 4, O]."""
        batch, down, across, channels = tiles_BYXCij.shape[:4]
        tiles_PM = tiles_BYXCij.permute(4, 5, 0, 1, 2, 3).reshape(SIDE * SIDE, -1)
        values_PNC = (self.data @ tiles_PM).view(SIDE * SIDE, -1, channels)
        products_PNC = torch.bmm(values_PNC, self.weight)
        if self.bias is not None:
            # A constant is its own value at every point but infinity; at (1, 1) all outputs take it with weight 1.
            products_PNC[SIDE + 1] += self.bias
        y_ijBYXC = (self.output @ products_PNC.flatten(1)).view(TILE, TILE, batch, down, across, -1)
        return y_ijBYXC.permute(2, 3, 0, 4, 1, 5)
