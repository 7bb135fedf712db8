"""The blocks that GGL-Net's stages are made of, as in the released code of Zhao et al. 2023.

Every convolution has a bias, also where a batch normalisation follows, and keeps the size unless a stride is given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from irstd.models.convolution import Conv2d


def mean(x_BCHW: torch.Tensor, dim: tuple[int, ...], keepdim: bool = False) -> torch.Tensor:
    """`x.mean(dim, keepdim)`, whose gradient is a view.

    That of `Tensor.mean` is one number written many times over, in the usual memory layout whatever that of x.
    """
    exact = torch.promote_types(x_BCHW.dtype, torch.float32)  # a sum of half precision can exceed its range
    total = x_BCHW.sum(dim, keepdim, dtype=exact)
    return (total / (x_BCHW.numel() // total.numel())).to(x_BCHW.dtype)


class Float32Conv2d(nn.Conv2d):
    """A convolution that autocast leaves in the precision of its weights: the first of each branch.

    Small targets may rise a few counts out of several hundred; bfloat16 would round the image to fewer levels than
    that. A model that was itself converted to half precision still runs, in that precision.

    One channel stands for equal ones: it meets the sum of the weights over the input channels, which is the same up to
    rounding and needs neither copies of the channel nor as many products.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled(input.device.type):
            return self._convolved(input)
        with torch.autocast(input.device.type, enabled=False):
            return self._convolved(input)

    def _convolved(self, input: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if input.shape[1] == 1 < self.in_channels:
            weight = weight.sum(1, keepdim=True)
            if self.weight.stride(1) == 1:
                # Channels last, which nothing shows in a weight of one channel but its strides.
                weight = weight.to(memory_format=torch.channels_last)
        return self._conv_forward(input.to(weight.dtype), weight, self.bias)


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, conv: type[nn.Conv2d] = Conv2d
) -> nn.Sequential:
    """Convolution and batch normalisation."""
    return nn.Sequential(
        conv(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2),
        nn.BatchNorm2d(out_channels),
    )


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, conv: type[nn.Conv2d] = Conv2d
) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU."""
    return conv_bn(in_channels, out_channels, kernel_size, stride, conv).append(nn.ReLU(inplace=True))


class SqueezeExcitation(nn.Module):
    """Channel weights from the channel means: x * sigmoid(W2 ReLU(W1 mean(x))), no biases (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)
        self.inplace = False
        """Whether x may be overwritten: not while its values are wanted for gradients."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        weight_BC = torch.sigmoid(self.excite(F.relu(self.squeeze(mean(x_BCHW, (2, 3))))))
        weight_BC11 = weight_BC[:, :, None, None]
        return x_BCHW.mul_(weight_BC11) if self.inplace else x_BCHW * weight_BC11


class ResidualBlock(nn.Module):
    """ReLU(BN(Conv(SE(ReLU(BN(Conv x))))) + x); the squeeze-and-excitation sits between the convolutions."""

    def __init__(self, channels: int, squeeze_excitation: bool = True) -> None:
        super().__init__()
        self.first = conv_bn_relu(channels, channels)
        self.attention = SqueezeExcitation(channels) if squeeze_excitation else nn.Identity()
        self.second = conv_bn(channels, channels)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        # In place: fresh memory for maps of the frame's size costs more than the sums. No gradient needs what was there.
        return self.second(self.attention(self.first(x_BCHW))).add_(x_BCHW).relu_()


class DownBlock(nn.Module):
    """Halves the size: max pooling between the convolutions of the main path, a strided one on the shortcut.

    The shortcut has its own ReLU before the sum, as in the released code.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *conv_bn_relu(in_channels, out_channels), nn.MaxPool2d(2), *conv_bn(out_channels, out_channels)
        )
        self.shortcut = conv_bn_relu(in_channels, out_channels, stride=2)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.main(x_BCHW).add_(self.shortcut(x_BCHW)).relu_()


def local_contrast(channels: int) -> nn.Sequential:
    """Local contrast learning: ReLU(Conv3x3(ReLU(Conv1x1 x))), no normalisation, one for each level."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(inplace=True),
        Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
    )
