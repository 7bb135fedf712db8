"""3x3 convolutions whose weight gradients are matrix products, against PyTorch's own."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from irstd.models import convolution
from irstd.models.convolution import Conv2d, weight_gradient
from irstd.models.ggl_net import GGLNet

CL = torch.channels_last


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def images(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype).to(memory_format=CL)


def of_products(y: torch.Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_ConvolutionBackward"


@pytest.mark.parametrize("cache", [1, 1 << 9, 1 << 19])
@pytest.mark.parametrize("sums", [1, 1 << 20])
@pytest.mark.parametrize("shape", [(3, 17, 9, 13), (1, 16, 30, 8), (2, 3, 1, 1), (2, 3, 5, 1), (2, 3, 1, 5)], ids=str)
def test_the_gradient_of_the_weights(monkeypatch, shape, cache, sums):
    monkeypatch.setattr(convolution, "IN_CACHE", cache)
    monkeypatch.setattr(convolution, "SUMS", sums)
    x_BCHW, grad_BOHW = images(*shape), images(shape[0], 5, *shape[2:])
    expected = torch.nn.grad.conv2d_weight(x_BCHW, (5, shape[1], 3, 3), grad_BOHW, padding=1)
    torch.testing.assert_close(weight_gradient(x_BCHW, grad_BOHW), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_all_gradients_are_those_of_the_convolution(bias):
    theirs = nn.Conv2d(16, 20, 3, padding=1, bias=bias).double().to(memory_format=CL)
    ours = Conv2d(16, 20, 3, padding=1, bias=bias).double().to(memory_format=CL)
    ours.load_state_dict(theirs.state_dict())
    found = []
    for conv in (ours, theirs):
        x_BCHW = (
            torch.sin(torch.arange(2 * 16 * 10 * 9).double()).view(2, 16, 10, 9).to(memory_format=CL).requires_grad_()
        )
        y_BOHW = conv(x_BCHW)
        assert of_products(y_BOHW) == (conv is ours)
        y_BOHW.square().sum().backward()
        found.append([y_BOHW.detach(), x_BCHW.grad, *(p.grad for p in conv.parameters())])
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)


def test_a_gradient_in_the_usual_layout_and_an_input_without_one():
    conv = Conv2d(16, 16, 3, padding=1).double().to(memory_format=CL)
    x_BCHW = images(2, 16, 8, 12)
    y_BOHW = conv(x_BCHW)
    grad_BOHW = torch.randn(y_BOHW.shape, dtype=torch.float64)
    y_BOHW.backward(grad_BOHW)
    expected = torch.nn.grad.conv2d_weight(x_BCHW, conv.weight.shape, grad_BOHW, padding=1)
    torch.testing.assert_close(conv.weight.grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"stride": 2}, (1, 16, 16, 16)),
        ({"padding": 0}, (1, 16, 16, 16)),
        ({"padding": 2, "dilation": 2}, (1, 16, 16, 16)),
        ({"groups": 2}, (1, 16, 16, 16)),
        ({"padding_mode": "replicate"}, (1, 16, 16, 16)),
        ({"kernel_size": 1, "padding": 0}, (1, 16, 16, 16)),
        ({"in_channels": 15}, (1, 15, 16, 16)),
        ({"out_channels": 15}, (1, 16, 16, 16)),
        ({}, (1, 16, 7, 16)),
        ({}, (0, 16, 16, 16)),
    ],
    ids=str,
)
def test_other_convolutions_stay_what_they_are(options, shape):
    known = {"in_channels": 16, "out_channels": 16, "kernel_size": 3, "padding": 1} | options
    y_BOHW = Conv2d(**known).to(memory_format=CL)(images(*shape, dtype=torch.float32))
    assert not of_products(y_BOHW)
    y_BOHW.sum().backward()


def test_layouts_precisions_and_uses_in_which_it_stays_what_it_is():
    conv = Conv2d(16, 16, 3, padding=1).to(memory_format=CL)
    x_BCHW = images(1, 16, 16, 16, dtype=torch.float32)
    assert of_products(conv(x_BCHW))
    assert not of_products(conv(x_BCHW.contiguous()))
    assert not of_products(deepcopy(conv).to(memory_format=torch.contiguous_format)(x_BCHW))
    assert not of_products(deepcopy(conv).bfloat16()(x_BCHW.bfloat16()))
    assert not of_products(deepcopy(conv).requires_grad_(False)(x_BCHW.clone().requires_grad_()))
    with torch.autocast("cpu", torch.bfloat16):
        assert not of_products(conv(x_BCHW))
    with torch.no_grad():
        assert conv(x_BCHW).grad_fn is None
    compiled = torch.compile(conv, backend="eager", fullgraph=True)(x_BCHW)
    assert not of_products(compiled)


def test_a_pair_is_convolved_as_if_it_were_joined():
    conv = Conv2d(32, 16, 3, padding=1).double().to(memory_format=CL)
    first, second = images(2, 16, 9, 8).requires_grad_(), images(2, 16, 9, 8).requires_grad_()
    for layout in (CL, torch.contiguous_format):
        found = []
        given = [x.detach().to(memory_format=layout).requires_grad_() for x in (first, second)]
        for y_BOHW in (conv.of_pair(*given), conv(torch.cat(given, dim=1))):
            grads = torch.autograd.grad(y_BOHW.square().sum(), [*given, *conv.parameters()])
            found.append([y_BOHW.detach(), *grads])
        for mine, expected in zip(*found, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)


class Layouts(TorchDispatchMode):
    """Names of the operations that make an image in the usual layout: those after it are several times as slow."""

    def __init__(self) -> None:
        super().__init__()
        self.usual: set[str] = set()

    @staticmethod
    def is_usual(value: torch.Tensor) -> bool:
        # No weights, and no images of a spatial guide: those of one channel have both layouts at once.
        image = value.shape[1] > 3 and min(value.shape[2:]) > 3
        return image and value.is_contiguous() and not value.is_contiguous(memory_format=CL)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found) if func is not torch.ops.aten.permute.default else ():
            if isinstance(value, torch.Tensor) and value.ndim == 4 and self.is_usual(value):
                self.usual.add(f"{func} {tuple(value.shape)}")
        return found


def test_ggl_net_trains_with_it_and_stays_in_its_layout(monkeypatch):
    calls = []
    monkeypatch.setattr(convolution, "weight_gradient", lambda *given: calls.append(1) or weight_gradient(*given))
    model = GGLNet(3, 16).to(memory_format=CL).train()
    with Layouts() as layouts:
        model(torch.rand(2, 1, 128, 128)).square().mean().backward()
    assert layouts.usual == set()
    # 3x3 convolutions with stride 1, but for the first ones of the image and the map; those of pairs count twice.
    assert len(calls) == 56
