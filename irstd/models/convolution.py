"""3x3 convolutions whose training on a CPU is quick in channels last.

In that layout oneDNN's forward pass and gradient of the input are its best, and its gradient of the weights its worst: half
as fast as in the usual layout where it was measured (benchmarks/RESULTS.md). The gradient of a 3x3 kernel is nine matrix
products,

    dW[:, :, down, across] = sum over pixels p of grad[p] x[p + shift]^T        shift = (down - 1) * width + across - 1

and in channels last both factors are slices of the images as they lie in memory: rows of pixels, columns of channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

LEAST_CHANNELS = 16
"""Of both sides. Products of narrower matrices are slower than oneDNN (benchmarks/RESULTS.md)."""
LEAST_SIDE = 8
"""Of the image, px, for the same reason."""
IN_CACHE = 1 << 19
"""Values of image and gradient that the nine products read one after the other."""
SUMS = 1 << 20
"""Values of the sums of all frames that are worked on together: each frame has its own, so that they run side by side."""
SHIFTS = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, with the gradient of its weights as said above where that is quicker; the same up to rounding.

    There it can be differentiated once only, and not by `torch.func`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self._suits(input):
            return _Convolution.apply(input, self.weight, self.bias)
        return super().forward(input)

    def of_pair(self, first_BCHW: torch.Tensor, second_BCHW: torch.Tensor) -> torch.Tensor:
        """`self(torch.cat((first, second), 1))`, in training without joining them.

        The joined image is the largest there is, and from many channels to few is what oneDNN is slowest at.
        """
        if not (self._suits(first_BCHW) and self._suits(second_BCHW)):
            return self(torch.cat((first_BCHW, second_BCHW), dim=1))
        weights = self.weight.split((first_BCHW.shape[1], second_BCHW.shape[1]), dim=1)
        first, second = (weight.contiguous(memory_format=torch.channels_last) for weight in weights)
        return _Convolution.apply(first_BCHW, first, self.bias).add_(_Convolution.apply(second_BCHW, second, None))

    def _suits(self, x_BCHW: torch.Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or not x_BCHW.numel():
            return False
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return False
        if x_BCHW.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        if x_BCHW.dtype != self.weight.dtype or x_BCHW.dtype not in (torch.float32, torch.float64):
            return False
        shape = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.padding_mode)
        if shape != ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") or x_BCHW.ndim != 4:
            return False
        if min(self.in_channels, self.out_channels) < LEAST_CHANNELS or min(x_BCHW.shape[2:]) < LEAST_SIDE:
            return False
        return all(value.is_contiguous(memory_format=torch.channels_last) for value in (x_BCHW, self.weight))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: torch.Tensor, weight_OC33: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x_BCHW, weight_OC33)
        return F.conv2d(x_BCHW, weight_OC33, bias_O, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BOHW: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_BCHW, weight_OC33 = ctx.saved_tensors
        grad_BOHW = grad_BOHW.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = torch.nn.grad.conv2d_input(x_BCHW.shape, weight_OC33, grad_BOHW, padding=1)
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(x_BCHW, grad_BOHW)
        if ctx.needs_input_grad[2]:
            of_bias = grad_BOHW.sum((0, 2, 3))
        return of_x, of_weight, of_bias


def weight_gradient(x_BCHW: torch.Tensor, grad_BOHW: torch.Tensor) -> torch.Tensor:
    """Gradient [O, C, 3, 3] of a kernel with stride and padding 1, from its input and the gradient of its output.

    Both floating, of one dtype and size, in channels last.
    """
    height, width = x_BCHW.shape[2:]
    x_BNC, grad_BNO = (value.permute(0, 2, 3, 1).flatten(1, 2) for value in (x_BCHW, grad_BOHW))
    batch, inputs, outputs = len(x_BNC), x_BNC.shape[2], grad_BNO.shape[2]
    together = min(batch, max(1, SUMS // (len(SHIFTS) * inputs * outputs)))
    sums_33FCO = x_BNC.new_zeros(3, 3, together, inputs, outputs)
    for x_FNC, grad_FNO in zip(x_BNC.split(together), grad_BNO.split(together), strict=True):
        _add_products(sums_33FCO[:, :, : len(x_FNC)], x_FNC, grad_FNO, height, width)
    return sums_33FCO.sum(2).permute(3, 2, 0, 1)


def _add_products(
    sums_33FCO: torch.Tensor, x_FNC: torch.Tensor, grad_FNO: torch.Tensor, height: int, width: int
) -> None:
    """Add the nine products of each of F frames."""
    frames, pixels, values = *x_FNC.shape[:2], x_FNC.shape[2] + grad_FNO.shape[2]

    def add(down: int, across: int, begin: int, end: int, step: int = 1, factor: int = 1) -> None:
        """`factor` times the product over every `step`-th pixel from `begin` on whose neighbour is in memory."""
        shift = down * width + across
        begin -= min(0, begin + shift) // step * step
        end = min(end, pixels - max(0, shift))
        if begin < end:
            x_FnC = x_FNC[:, begin + shift : end + shift : step]
            sums_33FCO[down + 1, across + 1].baddbmm_(x_FnC.mT, grad_FNO[:, begin:end:step], alpha=factor)

    rows = max(1, IN_CACHE // (frames * width * values))
    for top in range(0, height, rows):
        for down, across in SHIFTS:
            add(down, across, top * width, (top + rows) * width)
    # At both sides the neighbour in memory is one of the row above or below, where the padding has a zero: it goes again.
    for down, across in SHIFTS:
        if across:
            add(down, across, 0 if across < 0 else width - 1, pixels, width, -1)
