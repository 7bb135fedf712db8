"""Winograd's convolution against exact sums, and where it takes a convolution's place."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from irstd.models.ggl_net import GGLNet
from irstd.models.winograd import SIDE, TILE, WinogradConv2d, transforms, with_winograd


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_the_transforms_of_one_axis_are_exact():
    data, weights, output = transforms()
    rng = np.random.default_rng(0)
    d, w = rng.normal(size=SIDE), rng.normal(size=3)
    expected = [w @ d[i : i + 3] for i in range(TILE)]
    np.testing.assert_allclose(output @ ((weights @ w) * (data @ d)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(2, 16, 12), (1, 17, 30), (1, 1, 3), (1, 39, 46), (2, 33, 90)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_values_are_those_of_the_convolution(shape, bias):
    batch, height, width = shape
    conv = nn.Conv2d(160, 128, 3, padding=1, bias=bias)
    x_BCHW = torch.randn(batch, 160, height, width).relu_()
    exact_BCHW = deepcopy(conv).double()(x_BCHW.double())
    fast, kept = WinogradConv2d(conv), x_BCHW.clone()
    for given in (x_BCHW, x_BCHW.to(memory_format=torch.channels_last)):
        apart = (fast(given) - exact_BCHW).abs() / exact_BCHW.std()
        assert apart.max() < 4e-5 and apart.mean() < 2e-6
    assert torch.equal(x_BCHW, kept)


@pytest.mark.parametrize(
    ("conv", "replaced"),
    [
        (nn.Conv2d(128, 128, 3, padding=1), True),
        (nn.Conv2d(128, 127, 3, padding=1), False),
        (nn.Conv2d(127, 128, 3, padding=1), False),
        (nn.Conv2d(128, 128, 3), False),
        (nn.Conv2d(128, 128, 3, padding=1, stride=2), False),
        (nn.Conv2d(128, 128, 3, padding=2, dilation=2), False),
        (nn.Conv2d(128, 128, 3, padding=1, groups=2), False),
        (nn.Conv2d(128, 128, 3, padding=1, padding_mode="replicate"), False),
        (nn.Conv2d(128, 128, 1), False),
    ],
    ids=str,
)
def test_what_it_takes_the_place_of(conv, replaced):
    assert isinstance(with_winograd(nn.Sequential(conv))[0], WinogradConv2d) == replaced


def test_ggl_net_has_it_where_it_is_folded_and_nowhere_else():
    model = GGLNet(1, 16)
    assert sum(isinstance(m, WinogradConv2d) for m in model.folded().modules()) == 19
    assert not any(isinstance(m, WinogradConv2d) for m in model.modules())
