"""The blocks of YOLOX (Ge et al. 2021) that the host is made of.

Attributes are named as in YOLOX's released weights, so that these load by name.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from irstd.models.ggl_net.blocks import Float32Conv2d


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation as YOLOX sets it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.03)


class BaseConv(nn.Module):
    """Convolution without bias that keeps the size (unless strided), batch normalisation, activation (SiLU)."""

    chain = ("conv", "bn")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        act: nn.Module | None = None,
        conv: type[nn.Conv2d] = nn.Conv2d,
    ) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, kernel_size, stride, padding=(kernel_size - 1) // 2, bias=False)
        self.bn = BatchNorm(out_channels)
        self.act = act or nn.SiLU(inplace=True)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x_BCHW)))


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolutions, with the input added where `shortcut`."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = BaseConv(channels, channels, 1)
        self.conv2 = BaseConv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW = self.conv2(self.conv1(x_BCHW))
        return y_BCHW + x_BCHW if self.shortcut else y_BCHW


class CSPLayer(nn.Module):
    """Cross-stage partial layer, "C3": half of the channels pass `depth` bottlenecks, half go round them."""

    def __init__(self, in_channels: int, out_channels: int, depth: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.conv1 = BaseConv(in_channels, hidden, 1)
        self.conv2 = BaseConv(in_channels, hidden, 1)
        self.conv3 = BaseConv(2 * hidden, out_channels, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut) for _ in range(depth)))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.conv3(torch.cat((self.m(self.conv1(x_BCHW)), self.conv2(x_BCHW)), dim=1))


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling: the map beside its maxima over 5, 9 and 13 cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = BaseConv(channels, channels // 2, 1)
        self.conv2 = BaseConv(channels // 2 * 4, channels, 1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.conv1(x_BCHW)
        pooled = [F.max_pool2d(x_BCHW, size, 1, size // 2) for size in (5, 9, 13)]
        return self.conv2(torch.cat((x_BCHW, *pooled), dim=1))


class Focus(nn.Module):
    """Stem: each 2x2 of pixels becomes four times the channels, then a 3x3 convolution, which stays float32."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = BaseConv(4 * in_channels, out_channels, 3, conv=Float32Conv2d)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        even, odd = x_BCHW[..., ::2, :], x_BCHW[..., 1::2, :]
        # Top left, bottom left, top right, bottom right: YOLOX's order, which its weights expect.
        return self.conv(torch.cat((even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2]), dim=1))
