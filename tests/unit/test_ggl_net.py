"""GGL-Net: its size, its parts by hand, its borders, its precision, and that each switch changes what it should."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from irstd.data.gradient import GradientSpec, gradient_magnitude_torch
from irstd.models.ggl_net import GGLNet
from irstd.models.ggl_net.blocks import DownBlock, Float32Conv2d, ResidualBlock, SqueezeExcitation, mean
from irstd.models.ggl_net.fusion import ChannelGuide, Fusion, LocalGate, SpatialGuide, TwoWayGuidance
from irstd.models.ggl_net.gradient_supplement import GradientSupplement


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(in_channels: int = 1, width: int = 4, **switches) -> GGLNet:
    return GGLNet(in_channels, width, **switches).eval()


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def centre_tap(conv: nn.Conv2d, value: float = 1.0) -> None:
    """Make a one-channel convolution multiply by `value`."""
    conv.weight.zero_()
    conv.weight[0, 0, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = value


# Size


@pytest.mark.parametrize(("in_channels", "count"), [(3, 8_988_093), (1, 8_978_877)])
def test_parameters_at_full_width(in_channels, count):
    assert parameters(GGLNet(in_channels)) == count


def test_parameters_of_the_parts():
    model = GGLNet()
    assert parameters(model.stem) + parameters(model.stages) == 4_814_480
    assert sum(parameters(gsm.gradient_block) for gsm in model.supplements) == 845_680
    assert sum(parameters(gsm.merge) for gsm in model.supplements) == 2_403_616
    assert parameters(model.contrasts) == 873_952
    assert parameters(model.fusions) == 50_076
    assert parameters(model.head) == 289


def test_shapes_of_the_stages():
    model, shapes = small(3, 4), []
    for gsm in model.supplements:
        gsm.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    assert model(images(1, 3, 64, 96)).shape == (1, 1, 64, 96)
    assert shapes == [(4, 64, 96), (8, 32, 48), (16, 16, 24), (32, 8, 12), (64, 4, 6)]


def test_the_gradient_map_is_pooled_from_stage_to_stage():
    model, seen = small(), []
    for gsm in model.supplements:
        gsm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    image_BCHW = images(1, 1, 32, 48)
    model(image_BCHW)
    expected = gradient_magnitude_torch(image_BCHW)
    for level, map_BCHW in enumerate(seen):
        torch.testing.assert_close(map_BCHW, F.max_pool2d(expected, 2**level), rtol=0, atol=0)


# Parts, by hand: batch normalisation in eval mode passes values on but for its epsilon


def test_residual_block_by_hand():
    plain, attentive = ResidualBlock(1, squeeze_excitation=False).eval(), ResidualBlock(1).eval()
    for block in (plain, attentive):
        for part in (block.first, block.second):
            centre_tap(part[0])
            nn.init.zeros_(part[0].bias)
    nn.init.zeros_(attentive.attention.squeeze.weight)  # sigmoid(0) = 1/2
    x_BCHW = torch.tensor([[[[2.0, -6.0]]]])
    torch.testing.assert_close(plain(x_BCHW), torch.tensor([[[[4.0, 0.0]]]]), rtol=1e-4, atol=0)
    torch.testing.assert_close(attentive(x_BCHW), torch.tensor([[[[3.0, 0.0]]]]), rtol=1e-4, atol=0)
    # The attention lies before the second convolution: its effect is convolved, that of a bias there is not halved.
    nn.init.constant_(attentive.second[0].bias, 1.0)
    torch.testing.assert_close(attentive(x_BCHW), torch.tensor([[[[4.0, 0.0]]]]), rtol=1e-4, atol=0)


def test_down_block_by_hand():
    block = DownBlock(1, 1).eval()
    for conv in (m for m in block.modules() if isinstance(m, nn.Conv2d)):
        centre_tap(conv)
        nn.init.zeros_(conv.bias)
    x_BCHW = torch.tensor([[[[1.0, 5.0, -9.0, 2.0], [0.0, 3.0, 4.0, -7.0]]]])
    # Main: the largest of each 2 x 2 after the first ReLU, 5 and 4; shortcut: ReLU of every other pixel, 1 and 0.
    torch.testing.assert_close(block(x_BCHW), torch.tensor([[[[6.0, 4.0]]]]), rtol=1e-4, atol=0)
    # The convolution after the pooling has no ReLU of its own before the sum.
    centre_tap(block.main[4], -0.1)
    torch.testing.assert_close(block(x_BCHW), torch.tensor([[[[0.5, 0.0]]]]), rtol=1e-4, atol=0)


def test_squeeze_excitation_weighs_channels_by_their_means():
    attention = SqueezeExcitation(4, reduction=4)
    assert parameters(attention) == 8
    with torch.no_grad():
        attention.squeeze.weight[:] = 1.0
        attention.excite.weight[:] = torch.tensor([[0.0], [1.0], [-1.0], [2.0]])
    x_BCHW = torch.arange(4.0)[None, :, None, None].expand(1, 4, 2, 2)  # the means sum to 6
    expected = torch.arange(4.0) * torch.sigmoid(torch.tensor([0.0, 6.0, -6.0, 12.0]))
    torch.testing.assert_close(attention(x_BCHW)[0, :, 1, 1], expected)


def test_gradient_supplement_takes_main_features_first_and_adds_them():
    gsm = GradientSupplement(1, 4).eval()
    main_BCHW, map_BCHW = images(1, 4, 8, 8), images(1, 1, 8, 8)
    assert not torch.equal(gsm(main_BCHW, map_BCHW), gsm(main_BCHW, 0 * map_BCHW))
    with torch.no_grad():
        gsm.merge[0][0].weight[:, 4:] = 0  # the second half of the input: the gradient features
    assert torch.equal(gsm(main_BCHW, map_BCHW), gsm(main_BCHW, 0 * map_BCHW))
    nn.init.zeros_(gsm.merge[2][0].weight)
    nn.init.zeros_(gsm.merge[2][0].bias)
    assert torch.equal(gsm(main_BCHW, map_BCHW), main_BCHW)
    assert torch.equal(gsm(main_BCHW - 1, map_BCHW), torch.zeros_like(main_BCHW))


def test_channel_guide_by_hand():
    guide = ChannelGuide(8)
    assert parameters(guide) == 16
    nn.init.ones_(guide.mlp[0].weight)
    nn.init.ones_(guide.mlp[2].weight)
    x_BCHW = torch.zeros(1, 8, 2, 2)
    x_BCHW[0, 0, 0, 0] = 0.4  # largest 0.4, mean 0.1
    torch.testing.assert_close(guide(x_BCHW), torch.full((1, 8, 1, 1), 1 / (1 + math.exp(-0.5))))


def test_spatial_guide_reads_the_maximum_first_and_then_the_mean():
    guide = SpatialGuide()
    assert parameters(guide) == 2 * 49 + 1
    x_BCHW = torch.tensor([0.0, 1.0, 5.0])[None, :, None, None].expand(1, 3, 4, 4)
    for plane, value in ((0, 5.0), (1, 2.0)):
        with torch.no_grad():
            guide.conv.weight.zero_()
            guide.conv.weight[0, plane, 3, 3] = 1.0
            guide.conv.bias.zero_()
        torch.testing.assert_close(guide(x_BCHW), torch.sigmoid(torch.full((1, 1, 4, 4), value)))


@pytest.mark.parametrize(
    ("fusion", "low_weight", "high_weight"),
    [
        (lambda: TwoWayGuidance(4, 4), 0.5, 0.5),
        (lambda: TwoWayGuidance(4, 4, "channel"), 0.5, 1.0),
        (lambda: TwoWayGuidance(4, 4, "spatial"), 1.0, 0.5),
        (lambda: LocalGate(4, 4), 1.0, 0.5),
        (lambda: Fusion(4, 4), 1.0, 1.0),
    ],
    ids=["tgfm", "channel", "spatial", "sbam", "add"],
)
def test_what_a_fusion_weighs(fusion, low_weight, high_weight):
    torch.manual_seed(0)  # weights with which the reduced map is not all zero
    fusion = fusion().eval()
    for name, parameter in fusion.named_parameters():
        if not name.startswith("reduce"):
            nn.init.zeros_(parameter)  # every gate is then sigmoid(0) = 1/2
    high_BCHW, low_BCHW = images(1, 4, 3, 3), images(1, 4, 6, 6) + 1
    reduced = fusion.reduce(F.interpolate(high_BCHW, size=(6, 6), mode="bilinear", align_corners=True))
    assert reduced.max() > 0
    torch.testing.assert_close(fusion(high_BCHW, low_BCHW), low_weight * low_BCHW + high_weight * reduced)


def test_guides_look_at_the_other_level():
    fusion = TwoWayGuidance(4, 4).eval()
    seen = {}
    for name in ("channel_guide", "spatial_guide"):
        getattr(fusion, name).register_forward_hook(lambda m, inputs, output, name=name: seen.update({name: inputs[0]}))
    low_BCHW = images(1, 4, 6, 6)
    fusion(images(1, 4, 3, 3), low_BCHW)
    assert seen["spatial_guide"] is low_BCHW
    assert seen["channel_guide"] is not low_BCHW


# Initialisation


def test_initialisation():
    torch.manual_seed(3)
    model = GGLNet()
    hooked, default = [], []
    for module in model.modules():
        if isinstance(module, ChannelGuide | SpatialGuide):
            default.extend(m for m in module.modules() if isinstance(m, nn.Conv2d))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()
            assert (module.eps, module.momentum) == (1e-5, 0.1)
        elif isinstance(module, nn.Conv2d) and module not in default:
            hooked.append(module)
    assert len(default) == 4 * 3
    for conv in hooked:
        assert not conv.bias.any()
        if conv.weight.numel() > 2000:
            expected = math.sqrt(2 / (conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]))
            assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert conv.weight.abs().max() > 2.5 * expected  # normal; a uniform one ends at 1.73
    for module in (*default, *(m for m in model.modules() if isinstance(m, nn.Linear))):
        fan_in = module.weight[0].numel()
        assert module.weight.abs().max() <= 1 / math.sqrt(fan_in)  # PyTorch's default, uniform
        if module.bias is not None:
            assert module.bias.any()


# Sizes, borders, and the gradient map


@pytest.mark.parametrize("border", ["replicate", "authors"])
@pytest.mark.parametrize("size", [(97, 83), (16, 17), (1, 1), (3, 40)])
def test_any_size(size, border):
    logit_B1HW = small(border=border)(images(2, 1, *size))
    assert logit_B1HW.shape == (2, 1, *size)
    assert logit_B1HW.isfinite().all()


def test_padding_replicates_image_and_gradient_map():
    model, image_BCHW = small(), images(1, 1, 29, 35)
    padded = F.pad(image_BCHW, (0, 13, 0, 3), mode="replicate")
    gradient_BCHW = gradient_magnitude_torch(image_BCHW)
    padded_gradient = F.pad(gradient_BCHW, (0, 13, 0, 3), mode="replicate")
    expected = model(padded, padded_gradient)[..., :29, :35]
    assert torch.equal(model(image_BCHW), expected)
    # Which is not the gradient map of the padded image.
    assert not torch.equal(model(padded)[..., :29, :35], expected)


@pytest.mark.parametrize("operator", ["central", "sobel", "scharr"])
def test_given_and_computed_gradient_maps_are_the_same(operator):
    model, image_BCHW = small(operator=operator), images(2, 1, 33, 20)
    gradient_BCHW = gradient_magnitude_torch(image_BCHW, operator)
    assert torch.equal(model(image_BCHW), model(image_BCHW, gradient_BCHW))
    assert torch.equal(model(image_BCHW.contiguous(memory_format=torch.channels_last)), model(image_BCHW))
    assert not torch.equal(model(image_BCHW), model(image_BCHW, gradient_magnitude_torch(image_BCHW, padding="zero")))
    assert not torch.equal(model(image_BCHW), model(image_BCHW, 2 * gradient_BCHW))


def test_one_channel_stands_for_three_equal_ones():
    model, image_BCHW = small(3), images(2, 1, 20, 20)
    gradient_BCHW = gradient_magnitude_torch(image_BCHW)
    tripled = image_BCHW.repeat(1, 3, 1, 1)
    expected = model(tripled, gradient_BCHW.repeat(1, 3, 1, 1))
    # Up to the rounding of the weights' sums.
    for logit in (model(image_BCHW), model(tripled), model(tripled, gradient_BCHW), model(image_BCHW, gradient_BCHW)):
        torch.testing.assert_close(logit, expected, rtol=1e-5, atol=1e-5)


def test_authors_border_is_zero_padding_of_the_padded_image():
    theirs, ours = small(border="authors"), small()
    ours.load_state_dict(theirs.state_dict())
    assert theirs.gradient_spec == GradientSpec("central", "zero")
    assert ours.gradient_spec == GradientSpec()
    assert (theirs.takes_gradient, ours.takes_gradient) == (False, True)
    image_BCHW = images(1, 1, 30, 32)
    padded = F.pad(image_BCHW, (0, 0, 0, 2), mode="replicate")
    expected = ours(padded, gradient_magnitude_torch(padded, padding="zero"))[..., :30, :]
    assert torch.equal(theirs(image_BCHW), expected)
    with pytest.raises(ValueError, match="border='authors' computes"):
        theirs(image_BCHW, gradient_magnitude_torch(image_BCHW))


# Precision and layout


def test_the_first_convolution_of_each_branch_stays_float32_under_autocast():
    model = small()
    types = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, output, name=name: types.update({name: output.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        logit_B1HW = model(images(1, 1, 32, 32))
    first = {"stem.0.0"} | {f"supplements.{level}.gradient_block.0.0" for level in range(5)}
    assert {name for name, dtype in types.items() if dtype == torch.float32} == first
    assert {name for name, m in model.named_modules() if isinstance(m, Float32Conv2d)} == first
    torch.testing.assert_close(logit_B1HW.float(), model(images(1, 1, 32, 32)), rtol=0.05, atol=0.05)


def test_a_few_counts_survive_autocast():
    """Two images a hundredth apart on a pedestal of 100: the same in bfloat16, different to the network."""
    model = small()
    image_BCHW = 100 + 0.01 * images(1, 1, 16, 16)
    assert len(image_BCHW.bfloat16().unique()) == 1
    with torch.autocast("cpu", torch.bfloat16):
        features = model.stem[0][0](image_BCHW)
    assert features.dtype == torch.float32
    assert len(features[0, 0, 2:-2, 2:-2].unique()) > 100


@pytest.mark.parametrize("in_channels", [1, 3])
def test_300_counts_reach_the_first_activations_under_autocast(in_channels):
    """A span of 300 counts at offset 7000, as x and as counts; bfloat16 would leave 11 of them."""
    model = small(in_channels)
    counts = torch.arange(7000.0, 7300.0).reshape(1, 1, 15, 20)
    assert len(counts.bfloat16().unique()) < 12
    for image_BCHW in ((counts - 7000) / 300, counts):
        gradient_BCHW = gradient_magnitude_torch(image_BCHW)
        expected = [block(x) for block, x in first_convolutions(model, image_BCHW, gradient_BCHW)]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(gradient_magnitude_torch(image_BCHW), gradient_BCHW)
            found = [block(x) for block, x in first_convolutions(model, image_BCHW, gradient_BCHW)]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == torch.float32 and torch.equal(ours, theirs)
        # Of 300 pixels, after convolution, normalisation and ReLU.
        assert len(found[0].unique()) > 250


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_the_compiled_first_activations_are_float32_too(backend):
    model = small(3)
    image_BCHW = (torch.arange(7000.0, 7300.0).reshape(1, 1, 15, 20) - 7000) / 300

    def first(image_BCHW: torch.Tensor) -> list[torch.Tensor]:
        gradient_BCHW = gradient_magnitude_torch(image_BCHW)
        return [block(x) for block, x in first_convolutions(model, image_BCHW, gradient_BCHW)]

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = torch.compile(first, backend=backend)(image_BCHW)
        for ours, theirs in zip(found, first(image_BCHW), strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def first_convolutions(model, image_BCHW, gradient_BCHW):
    """The first convolution, normalisation and activation of each branch, with what they are given."""
    return [(model.stem[0], image_BCHW)] + [(gsm.gradient_block[0], gradient_BCHW) for gsm in model.supplements]


def test_a_model_in_half_precision_runs():
    model = small().bfloat16()
    image_BCHW = images(1, 1, 20, 20)
    for image in (image_BCHW, image_BCHW.bfloat16()):
        assert model(image).isfinite().all()


def test_channels_last():
    model, image_BCHW = small(3).train(), images(2, 3, 40, 24)
    other = small(3).train()
    other.load_state_dict(model.state_dict())
    other = other.to(memory_format=torch.channels_last)
    expected = model(image_BCHW)
    logit_B1HW = other(image_BCHW.to(memory_format=torch.channels_last))
    torch.testing.assert_close(logit_B1HW, expected, rtol=1e-3, atol=1e-4)
    expected.square().sum().backward()
    logit_B1HW.square().sum().backward()
    ours, theirs = model.stem[0][0].weight.grad, other.stem[0][0].weight.grad
    torch.testing.assert_close(theirs, ours, rtol=1e-2, atol=1e-2 * float(ours.abs().max()))


# Training


def test_backward_on_a_flat_image_is_finite():
    model = small().train()
    image_BCHW = torch.full((2, 1, 32, 32), 0.4, requires_grad=True)
    model(image_BCHW).square().sum().backward()
    assert image_BCHW.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_is_used():
    model = small(3).train()
    model(images(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_it_learns_a_small_target():
    model = small(width=4).train()
    image_BCHW = 0.3 + 0.02 * images(2, 1, 32, 32)
    mask_BCHW = torch.zeros_like(image_BCHW)
    mask_BCHW[0, 0, 10:13, 20:23] = mask_BCHW[1, 0, 5:8, 6:9] = 1
    image_BCHW = image_BCHW + 0.2 * mask_BCHW
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        probability = torch.sigmoid(model(image_BCHW))
        if torch.equal(probability > 0.5, mask_BCHW > 0.5):
            return
        both = (probability * mask_BCHW).sum()
        loss = 1 - (both + 1) / (probability.sum() + mask_BCHW.sum() - both + 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    pytest.fail(f"two targets were not learnt in 60 steps, loss {loss.item():.3f}")


# Switches


def test_without_a_gradient_branch():
    model = small(gradient_branch=False)
    assert parameters(GGLNet(gradient_branch=False)) == 8_988_093 - 845_680 - 2_403_616
    assert model.gradient_spec is None
    assert not model.takes_gradient
    image_BCHW = images(1, 1, 20, 20)
    assert torch.equal(model(image_BCHW), model(image_BCHW, gradient_magnitude_torch(image_BCHW)))


def test_without_squeeze_excitation_in_the_supplements():
    model = small(squeeze_excitation=False)
    assert not any(isinstance(m, SqueezeExcitation) for m in model.supplements.modules())
    assert sum(isinstance(m, SqueezeExcitation) for m in model.stages.modules()) == 10
    removed = 2 * sum(2 * c * (c // 4) for c in (4, 8, 16, 32, 64))
    assert parameters(small()) - parameters(model) == removed
    assert model(images(1, 1, 20, 20)).shape == (1, 1, 20, 20)


def test_supplement_by_addition():
    model = small(supplement="add")
    assert all(gsm.merge is None for gsm in model.supplements)
    assert parameters(GGLNet(supplement="add")) == 8_988_093 - 2_403_616
    gsm, main_BCHW, map_BCHW = model.supplements[0], images(1, 4, 8, 8), images(1, 1, 8, 8)
    assert torch.equal(gsm(main_BCHW, map_BCHW), main_BCHW + gsm.gradient_block(map_BCHW))


@pytest.mark.parametrize(
    ("switches", "kind", "guides"),
    [
        ({}, TwoWayGuidance, {ChannelGuide, SpatialGuide}),
        ({"guidance": "channel"}, TwoWayGuidance, {ChannelGuide}),
        ({"guidance": "spatial"}, TwoWayGuidance, {SpatialGuide}),
        ({"fusion": "sbam"}, LocalGate, set()),
        ({"fusion": "add"}, Fusion, set()),
    ],
)
def test_fusion_and_guidance(switches, kind, guides):
    model = small(**switches).train()
    assert [type(fusion) for fusion in model.fusions] == [kind] * 4
    for fusion in model.fusions:
        assert {type(m) for m in fusion.modules()} & {ChannelGuide, SpatialGuide} == guides
    model(images(2, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GGLNet(width=3), "width >= 4, got 3 and 3"),
        (lambda: GGLNet(in_channels=0), "in_channels >= 1"),
        (lambda: GGLNet(operator="laplace"), "'laplace' is not known"),
        (lambda: GGLNet(border="author"), "did you mean 'authors'"),
        (lambda: GGLNet(fusion="tgfn"), "did you mean 'tgfm'"),
        (lambda: GGLNet(guidance="both"), "known: two-way, channel, spatial"),
        (lambda: GGLNet(supplement="mul"), "known: gsm, add"),
        (lambda: GGLNet(fusion="add", guidance="channel"), "part of fusion='tgfm'"),
        (lambda: small()(torch.zeros(1, 1, 16, 16, dtype=torch.uint8)), "floating"),
        (lambda: small()(torch.zeros(1, 3, 16, 16)), r"\[B, 1 or 1"),
        (lambda: small(3)(torch.zeros(3, 16, 16)), r"\[B, 3 or 1"),
        (lambda: small()(torch.zeros(1, 1, 0, 16)), "H >= 1"),
        (lambda: small(3)(torch.zeros(2, 3, 16, 16), torch.zeros(1, 1, 16, 16)), "does not fit"),
        (lambda: small(3)(torch.zeros(1, 3, 16, 16), torch.zeros(1, 2, 16, 16)), "does not fit"),
        (lambda: small(3)(torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, 16)), "does not fit"),
        (lambda: small(3)(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 15)), "does not fit"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dim", [(2, 3), (1,)], ids=str)
@pytest.mark.parametrize("keepdim", [True, False])
def test_means_are_those_of_pytorch_also_where_a_sum_is_out_of_range(dim, keepdim):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x_BCHW = torch.full((2, 3, 300, 300), 4.0, dtype=dtype)
        x_BCHW[1] += torch.rand(3, 300, 300).to(dtype)
        found = mean(x_BCHW, dim, keepdim)
        assert found.dtype == dtype
        torch.testing.assert_close(found, x_BCHW.mean(dim, keepdim), rtol=1e-2 if dtype.itemsize == 2 else 1e-5, atol=0)


@pytest.mark.parametrize("folded", [False, True])
def test_it_compiles_as_one_graph(folded):
    """Where a graph breaks, blocks are compiled one by one, and after the eighth no more."""
    model = GGLNet(3, 16).to(memory_format=torch.channels_last)
    model = model.folded() if folded else model.train()
    torch.compiler.reset()
    with torch.set_grad_enabled(not folded):
        logit_B1HW = torch.compile(model, backend="eager", fullgraph=True)(torch.rand(2, 1, 32, 32))
    assert logit_B1HW.shape == (2, 1, 32, 32)
    torch.compiler.reset()
