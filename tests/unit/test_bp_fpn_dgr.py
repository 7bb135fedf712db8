"""DGR: its directions and distances, its variants V1 to V7 against what autograd and paper say, and its warm-up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irstd import config as configuration
from irstd.config import DGRConfig, GILSConfig
from irstd.errors import InputError
from irstd.models.bp_fpn import BPFPN
from irstd.models.bp_fpn.coupling import project_gradient, projected, scale_gradient
from irstd.models.bp_fpn.dgr import (
    AuxiliaryHeads,
    consistency,
    directed,
    directed_gradients,
    distance,
    foreground,
    masked_mean,
)
from irstd.models.bp_fpn.pyramid import Levels

MASKS = ("all", "foreground", "weighted")
VARIANTS = ("none", "feature", "gradient", "projection", "scaling", "auxiliary")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def leaves(side: int = 8, channels: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """A fine and a coarse map that depend on nothing."""
    low = torch.randn(2, channels, side, side, dtype=torch.float64, requires_grad=True)
    high = torch.randn(2, channels, side // 2, side // 2, dtype=torch.float64, requires_grad=True)
    return low, high


def total(terms) -> torch.Tensor:
    return torch.stack([value.mean() for _, value in terms]).mean()


def batch(frames: int = 2, side: int = 64, count: int = 2) -> dict:
    random = np.random.default_rng(0)
    return {
        "frames": random.integers(7000, 7300, (count, frames, side, side)).astype(np.uint16),
        "offset": np.full(count, 7000, np.float32),
        "scale": np.full(count, 1 / 300, np.float32),
        "size": np.full((count, 2), side, np.int64),
        "boxes": [np.array([[9, 10, 5, 5], [40, 40, 6, 4]], np.float32)] + [np.zeros((0, 4), np.float32)] * (count - 1),
        "key": [("s/q", b) for b in range(count)],
    }


def small(**switches) -> BPFPN:
    return BPFPN(2, width=0.125, **switches).train()


# The loss on features: V1 to V3


@pytest.mark.parametrize("kind", ["cosine", "l2", "smooth_l1"])
@pytest.mark.parametrize(("direction", "reached"), [("high-to-low", (1, 0)), ("low-to-high", (0, 1)), ("both", (1, 1))])
def test_the_target_side_gets_no_gradient(kind, direction, reached):
    low, high = leaves()
    config = DGRConfig(direction=direction, distance=kind)
    total(directed(low, high, low, config)).backward()
    for leaf, expected in zip((low, high), reached, strict=True):
        assert (leaf.grad is not None and bool(leaf.grad.any())) == bool(expected)


@pytest.mark.parametrize("kind", ["cosine", "l2", "smooth_l1"])
@pytest.mark.parametrize("direction", ["high-to-low", "low-to-high"])
def test_the_loss_is_0_where_both_maps_point_one_way_and_large_where_not(kind, direction):
    _, high = leaves()
    up = F.interpolate(high, scale_factor=2, mode="nearest")
    config = DGRConfig(direction=direction, distance=kind)
    assert total(directed(up, high, up, config)).item() == pytest.approx(0, abs=1e-10)
    assert total(directed(-up, high, -up, config)).item() > 1.5


@pytest.mark.parametrize("kind", ["cosine", "l2", "smooth_l1"])
def test_the_length_of_channel_vectors_does_not_count(kind):
    a, b = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    scaled = a * (0.1 + torch.rand(2, 1, 4, 4) * 10)
    torch.testing.assert_close(distance(scaled, b, kind), distance(a, b, kind))


def test_distances_by_hand():
    a = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    b = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    assert distance(a, b, "cosine").item() == pytest.approx(1 - 0.6)
    assert distance(a, b, "l2").item() == pytest.approx(0.4**2 + 0.8**2)
    assert distance(a, b, "smooth_l1").item() == pytest.approx(0.4 - 0.05 + 0.8 - 0.05)
    assert distance(torch.zeros_like(a), b, "cosine").item() == 1  # no direction, and no NaN


def test_the_loss_of_a_network_is_the_mean_over_its_pairs():
    model = small()
    levels = model.levels(torch.rand(1, 2, 64, 64))
    values = {}
    for pairs in ("a", "b", "a+b"):
        values[pairs] = consistency(levels, DGRConfig(pairs=pairs), [np.zeros((0, 4))], levels.p3.sum())[0].item()
    by_hand = [
        (1 - F.cosine_similarity(low, F.interpolate(high, scale_factor=2), dim=1)).mean().item()
        for low, high in ((levels.a4, levels.a5), (levels.a3, levels.a4r))
    ]
    assert [values["a"], values["b"]] == pytest.approx(by_hand, rel=1e-5)
    assert values["a+b"] == pytest.approx(sum(by_hand) / 2, rel=1e-5)


def test_hard_isolation_cuts_the_way_through_the_finer_block():
    """Without it the fine map still depends on the coarse one; with it the loss reaches A3's block and below, not A5."""

    def reached(pair: str, **options) -> tuple[bool, bool]:
        model = small(dgr=DGRConfig(pairs=pair, **options))
        levels = model.levels(torch.rand(1, 2, 64, 64))
        value, _ = consistency(levels, model.dgr_config, [np.zeros((0, 4))], levels.p3.sum())
        value.backward()
        pyramid = model.backbone
        down = {"a": pyramid.lateral_conv0, "b": pyramid.reduce_conv1}[pair]
        block = {"a": pyramid.C3_p4, "b": pyramid.C3_p3}[pair]
        return down.conv.weight.grad is not None, block.conv3.conv.weight.grad is not None

    for pair in ("a", "b"):
        assert reached(pair) == (True, True)
        assert reached(pair, hard_isolation=True) == (False, True)


def test_hard_isolation_changes_neither_values_nor_statistics():
    one, other = small(), small(dgr=DGRConfig(hard_isolation=True))
    other.load_state_dict(one.state_dict())
    frames_BTHW = torch.rand(2, 2, 64, 64)
    first, second = one.levels(frames_BTHW), other.levels(frames_BTHW)
    assert torch.equal(second.isolated_a3, second.a3) and torch.equal(second.isolated_a4, second.a4)
    assert torch.equal(first.p3, second.p3)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# Places


def test_foreground_is_what_a_box_touches():
    boxes = [np.array([[15.0, 8.0, 2.0, 8.0]]), np.zeros((0, 4)), np.array([[-3.0, -3.0, 4.0, 4.0], [31, 23, 9, 9]])]
    found = foreground(boxes, (3, 4), 8, torch.device("cpu"))
    assert found[0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert not found[1].any()
    assert found[2].tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_means_over_places():
    """Two clips of two frames, the second one the key frame; one cell of the first clip holds a target."""
    value = torch.arange(16.0).reshape(4, 2, 2)
    key = torch.zeros(2, 2, 2)
    key[0, 0, 1] = 1
    assert masked_mean(value, "all", key).item() == 7.5
    assert masked_mean(value, "foreground", key).item() == 5
    assert masked_mean(value, "weighted", key).item() == 6.25
    assert masked_mean(value, "foreground", torch.zeros(2, 2, 2)).item() == 0


@pytest.mark.parametrize("mask", MASKS)
def test_both_means_are_reported(mask):
    model = small(dgr=DGRConfig(mask=mask, warmup=0))
    _, parts = model.loss(batch())
    assert parts["dgr"] != parts["dgr_foreground"] and parts["dgr_foreground"] > 0


def test_the_mask_chooses_the_mean_that_is_the_loss():
    levels = small().levels(torch.rand(2, 2, 64, 64))
    boxes = batch()["boxes"]
    found = {mask: consistency(levels, DGRConfig(mask=mask), boxes, levels.p3.sum()) for mask in MASKS}
    everywhere, foreground_alone = (found["all"][1][name].item() for name in ("dgr", "dgr_foreground"))
    expected = {"all": everywhere, "foreground": foreground_alone, "weighted": (everywhere + foreground_alone) / 2}
    assert {mask: value.item() for mask, (value, _) in found.items()} == pytest.approx(expected, rel=1e-5)
    assert everywhere != pytest.approx(foreground_alone, rel=1e-2)


# V4: the loss on gradients


@pytest.mark.parametrize("kind", ["cosine", "l2", "smooth_l1"])
@pytest.mark.parametrize("direction", ["high-to-low", "low-to-high"])
def test_gradcheck_of_the_loss_on_gradients(kind, direction):
    """On a smooth toy in double: the derivative of L_DGR is the numerical one with the target's gradient held constant."""
    weight = torch.randn(4, 3, 1, 1, dtype=torch.float64)
    config = DGRConfig(variant="gradient", pairs="a", distance=kind, direction=direction)

    def toy(x: torch.Tensor) -> tuple[Levels, torch.Tensor]:
        low = torch.tanh(F.conv2d(x, weight))
        high = torch.tanh(F.conv2d(F.avg_pool2d(x, 2), 2 * weight))
        return Levels(low, low, high, a4=low, a5=high), low.sin().prod(1).sum() + high.cos().prod(1).sum()

    def moving(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels, loss = toy(x)
        return torch.autograd.grad(loss, (levels.a4, levels.a5), create_graph=True)

    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    fixed = [gradient.detach() for gradient in moving(x)]

    def held(x: torch.Tensor) -> torch.Tensor:
        low, high = moving(x)
        pair = (low, fixed[1]) if direction == "high-to-low" else (fixed[0], high)
        return total(directed_gradients(*pair, config))

    assert torch.autograd.gradcheck(held, x)
    levels, loss = toy(x)
    value, _ = consistency(levels, config, [np.zeros((0, 4))], loss)
    torch.testing.assert_close(value, held(x))
    (found,) = torch.autograd.grad(value, x)
    (expected,) = torch.autograd.grad(held(x), x)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("direction", "reached"), [("high-to-low", (1, 0)), ("low-to-high", (0, 1)), ("both", (1, 1))])
def test_the_target_gradient_is_fixed(direction, reached):
    low, high = leaves()
    total(directed_gradients(low, high, DGRConfig(variant="gradient", direction=direction))).backward()
    assert tuple(bool(leaf.grad is not None and leaf.grad.any()) for leaf in (low, high)) == reached


def test_the_networks_gradients_are_what_is_compared():
    model = small(dgr=DGRConfig(variant="gradient", pairs="b"))
    levels = model.levels(torch.rand(1, 2, 64, 64))
    loss = model.neck([levels.p3[:1]], levels.p3[1:]).square().sum()
    value, _ = consistency(levels, model.dgr_config, [np.zeros((0, 4))], loss)
    low, high = torch.autograd.grad(loss, (levels.a3, levels.a4r), retain_graph=True)
    by_hand = 1 - F.cosine_similarity(F.avg_pool2d(low, 2).double(), high.double(), dim=1, eps=1e-30)
    assert value.item() == pytest.approx(by_hand.mean().item(), rel=1e-4)
    value.backward()
    assert model.backbone.C3_p3.conv3.conv.weight.grad.any()


# V5 and V6: edits of the gradient


def test_projection_by_hand():
    g = torch.tensor([[1.0, -2.0], [1.0, 2.0], [3.0, 4.0]]).reshape(3, 2, 1, 1)
    d = torch.tensor([[0.0, 4.0], [0.0, 4.0], [0.0, 0.0]]).reshape(3, 2, 1, 1)
    # Against d: the part along it goes. Along d, or without a d: nothing changes.
    assert projected(g, d, "vector").flatten().tolist() == [1, 0, 1, 2, 3, 4]
    # Over a whole map two places decide together: <g, d> = -8 + 4 = -4, |d|^2 = 20.
    g = torch.tensor([1.0, -2.0, 1.0, 2.0]).reshape(1, 2, 1, 2)
    d = torch.tensor([0.0, 4.0, 0.0, 2.0]).reshape(1, 2, 1, 2)
    assert projected(g, d, "map").flatten().tolist() == pytest.approx([1, -1.2, 1, 2.4])


@pytest.mark.parametrize("over", ["vector", "map"])
def test_the_gradient_of_the_coarse_map_is_projected(over):
    low_0, high = leaves()
    low_0 = low_0 * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)  # turns g and leaves d: one clip opposes, one does not

    def run(edited: bool) -> tuple[torch.Tensor, torch.Tensor]:
        coarse = high * 1  # the map that the pyramid sends down
        low = low_0 * F.interpolate(coarse, scale_factor=2, mode="nearest").cos()
        if edited:
            project_gradient(low, coarse, over)
        loss = low.sin().sum()
        return torch.autograd.grad(loss, (high, low))

    g, d = run(edited=False)
    found, d_again = run(edited=True)
    d = F.avg_pool2d(d, 2)
    dims = 1 if over == "vector" else (1, 2, 3)
    dot = (g * d).sum(dims, keepdim=True)
    assert (dot < 0).any() and (dot > 0).any()
    by_hand = torch.where(dot < 0, g - dot / d.square().sum(dims, keepdim=True) * d, g)
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(F.avg_pool2d(d_again, 2), d)  # the fine map's own gradient stays
    assert ((found * d).sum(dims) > -1e-9).all()


def test_scaling_passes_values_bit_for_bit_and_a_share_of_the_gradient():
    x = torch.randn(1000, requires_grad=True)
    found = scale_gradient(x, 0.3)
    assert torch.equal(found, x)
    (found * torch.arange(1000.0)).sum().backward()
    torch.testing.assert_close(x.grad, 0.3 * torch.arange(1000.0))


def lateral_gradient(frames_BTHW: torch.Tensor, state: dict | None = None, **dgr) -> tuple[torch.Tensor, dict]:
    """The gradient that leaves A5 for the layer below it, and the network's weights."""
    model = small(dgr=DGRConfig(**dgr))
    if state is not None:
        model.load_state_dict(state)
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    model(frames_BTHW).square().sum().backward()
    return model.backbone.lateral_conv0.bn.bias.grad, kept


def test_scaling_inside_the_network():
    """beta for the coarsest level's way, beta squared where both ways are scaled."""
    frames_BTHW = torch.rand(2, 2, 64, 64)
    plain, state = lateral_gradient(frames_BTHW, variant="none")
    assert plain.any()
    for pairs, share in (("a", 0.25), ("b", 0.25), ("a+b", 0.0625)):
        scaled, _ = lateral_gradient(frames_BTHW, state, variant="scaling", pairs=pairs, beta=0.25)
        torch.testing.assert_close(scaled, share * plain)
    cut, _ = lateral_gradient(frames_BTHW, state, variant="scaling", pairs="a", beta=0)
    assert not cut.any()


@pytest.mark.parametrize("over", ["vector", "map"])
@pytest.mark.parametrize(("pair", "low", "high"), [("a", "a4", "a5"), ("b", "a3", "a4r")])
def test_projection_inside_the_network(pair, low, high, over):
    """What leaves the coarse map for the layer below it is the plain gradient, projected by hand."""
    frames_BTHW = torch.rand(2, 2, 64, 64)
    below = {"a": "lateral_conv0", "b": "reduce_conv1"}[pair]

    def run(**dgr) -> tuple[Levels, torch.Tensor, torch.Tensor]:
        torch.manual_seed(4)
        model = small(dgr=DGRConfig(**dgr))
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):  # with the host's start gradients of levels hardly oppose
                torch.nn.init.kaiming_normal_(module.weight)
        levels = model.levels(frames_BTHW)
        raw_BCHW = model.heads(levels.p3, frames_BTHW)
        loss = (raw_BCHW * torch.randn(raw_BCHW.shape)).sum()
        return levels, loss, getattr(model.backbone, below).bn.bias

    levels, loss, bias = run(variant="none")
    d, g = torch.autograd.grad(loss, (getattr(levels, low), getattr(levels, high)), retain_graph=True)
    d = F.avg_pool2d(d, 2)
    dims = 1 if over == "vector" else (1, 2, 3)
    dot = (g * d).sum(dims, keepdim=True)
    assert (dot < 0).any()
    by_hand = torch.where(dot < 0, g - dot / d.square().sum(dims, keepdim=True) * d, g)
    (expected,) = torch.autograd.grad(getattr(levels, high), bias, grad_outputs=by_hand, retain_graph=True)
    (plain,) = torch.autograd.grad(loss, bias)
    _, edited, bias = run(variant="projection", pairs=pair, projection=over)
    (found,) = torch.autograd.grad(edited, bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert (found - plain).norm() > 1e-3 * plain.norm()


# V7: objectness of each level


def test_auxiliary_objectness_by_hand():
    model = small(dgr=DGRConfig(variant="auxiliary"))
    levels = model.levels(torch.rand(1, 2, 64, 64))
    for head in (model.auxiliary.a4, model.auxiliary.a5):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    # 16 cells of 16 px, 4 of 32 px; the box touches two and one of them.
    value = model.auxiliary(levels, [np.array([[14.0, 4.0, 4.0, 4.0]])])
    assert value.item() == pytest.approx(np.log(2) * (16 / 2 + 4 / 1) / 2, rel=1e-6)
    assert sum(p.numel() for p in AuxiliaryHeads(256).parameters()) == 2 * 257


def test_auxiliary_objectness_pulls_the_key_frames_maps_alone():
    model = small(dgr=DGRConfig(variant="auxiliary"))
    maps = [x.detach().requires_grad_() for x in model.levels(torch.rand(2, 2, 64, 64))[3:5]]
    levels = Levels(None, None, None, *maps)
    value = model.auxiliary(levels, [np.array([[14.0, 4.0, 4.0, 4.0]])] * 2)
    for gradient in torch.autograd.grad(value, maps):
        assert gradient.flatten(1).any(1).tolist() == [False, True, False, True]


# In the network


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_all_parameters(variant):
    model = small(dgr=DGRConfig(variant=variant))
    loss, parts = model.loss(batch())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert ("dgr" in parts) == (variant in ("feature", "gradient", "auxiliary"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_does_not_know_the_variant(variant):
    """Outputs, and for variants without parameters the state too, are those of the network without DGR."""
    plain, ours = small(dgr=DGRConfig(variant="none")).eval(), small(dgr=DGRConfig(variant=variant)).eval()
    left = ours.load_state_dict(plain.state_dict(), strict=False)
    assert [n for n in left.missing_keys if not n.startswith("auxiliary.")] == [] == left.unexpected_keys
    assert bool(left.missing_keys) == (variant == "auxiliary")
    frames_BTHW = torch.rand(1, 2, 40, 48)
    found, expected = ours(frames_BTHW), plain(frames_BTHW)
    assert torch.equal(found, expected)
    # The graph too: what flows back through it.
    found.square().sum().backward()
    expected.square().sum().backward()
    for (name, a), b in zip(plain.backbone.named_parameters(), ours.backbone.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize("variant", ["projection", "scaling"])
def test_editing_gradients_leaves_training_outputs_as_they_are(variant):
    plain, ours = small(dgr=DGRConfig(variant="none")), small(dgr=DGRConfig(variant=variant))
    ours.load_state_dict(plain.state_dict())
    frames_BTHW = torch.rand(1, 2, 40, 48)
    assert torch.equal(ours(frames_BTHW), plain(frames_BTHW))


def test_the_weight_rises_over_the_warm_up():
    model = small(gils=GILSConfig(), dgr=DGRConfig(weight=0.5, warmup=0.2))

    def share(progress: float) -> float:
        model.progress = progress
        loss, parts = model.loss(batch())
        rest = sum(w * parts[n].item() for n, w in (("box", 5), ("objectness", 1), ("classification", 1)))
        return (loss.item() - rest) / parts["dgr"].item()

    assert [share(p) for p in (0, 0.1, 0.2, 1)] == pytest.approx([0, 0.25, 0.5, 0.5], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "feature", "beta": 0.1}, "beta decides nothing in variant=feature"),
        ({"variant": "scaling", "weight": 1.0}, "weight decides nothing"),
        ({"variant": "projection", "distance": "l2"}, "distance decides nothing"),
        ({"variant": "auxiliary", "pairs": "b"}, "pairs decides nothing"),
        ({"variant": "gradient", "hard_isolation": True}, "hard_isolation decides nothing"),
        ({"variant": "none", "mask": "foreground"}, "mask decides nothing"),
        ({"direction": "low-to-high", "hard_isolation": True}, "fixed target already"),
        ({"variant": "v1"}, "model.dgr.variant=v1"),
        ({"warmup": 2}, "model.dgr.warmup=2"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused_with_the_reason(options, words):
    with pytest.raises(InputError, match=words) as caught:
        configuration.load(overrides={f"model.dgr.{k}": v for k, v in options.items()}, model="bp-fpn")
    assert "\n" not in str(caught.value)


def test_gradients_of_gradients_are_not_compiled():
    """torch.compile has no second backward pass: such a run would stop in its first step."""
    with pytest.raises(InputError, match=r"train\.compile=true.*model\.dgr\.variant=gradient"):
        configuration.load(overrides={"train.compile": True, "model.dgr.variant": "gradient"}, model="bp-fpn")
    assert configuration.load(overrides={"train.compile": True}, model="bp-fpn").train.compile
