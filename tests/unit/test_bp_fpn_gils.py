"""GILS: isolation by autograd, what each knob changes, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from irstd import config as configuration
from irstd.config import DGRConfig, GILSConfig
from irstd.errors import InputError
from irstd.models.bp_fpn import BPFPN
from irstd.models.bp_fpn.backbone import Stages
from irstd.models.bp_fpn.gils import GILS, blur_pool, shrink
from irstd.models.bp_fpn.pyramid import Pyramid


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def pyramid(**gils) -> Pyramid:
    """A small pyramid in double precision with an alpha that lets the shortcut through."""
    found = Pyramid(3, 0.125, GILSConfig(**gils), DGRConfig(variant="none")).double().eval()
    for alpha in found.gils.alpha.values():
        nn.init.constant_(alpha, 0.7)
    return found


def frames(count: int = 2, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    grey = torch.rand(count, 1, side, side, dtype=torch.float64)
    return grey.expand(-1, 3, -1, -1), grey


def gradients(module: nn.Module) -> dict[str, bool]:
    """For each parameter whether a gradient other than 0 reached it."""
    return {n: p.grad is not None and bool(p.grad.any()) for n, p in module.named_parameters()}


# Isolation


@pytest.mark.parametrize("source", ["stem", "dark2", "stem+dark2"])
@pytest.mark.parametrize("op", ["s2d", "maxpool", "avgpool", "conv", "blurpool"])
def test_a_loss_on_the_shortcut_trains_the_shortcut_alone(source, op):
    model = pyramid(source=source, op=op).train()
    image, grey = frames()
    maps = {"image": grey, **model.backbone(image)._asdict()}
    model.gils.shortcuts["p3"](maps).square().sum().backward()
    reached = gradients(model)
    assert {n for n, yes in reached.items() if yes} == {n for n in reached if n.startswith("gils.shortcuts.")}


def test_without_detach_the_backbone_is_reached():
    model = pyramid(detach=False).train()
    image, grey = frames()
    maps = {"image": grey, **model.backbone(image)._asdict()}
    model.gils.shortcuts["p3"](maps).square().sum().backward()
    reached = gradients(model.backbone)
    assert all(yes for n, yes in reached.items() if n.startswith(("stem", "dark2")))
    assert not any(yes for n, yes in reached.items() if n.startswith(("dark3", "dark4", "dark5")))


@pytest.mark.parametrize("fuse", ["add", "gate"])
def test_detach_changes_the_gradient_by_the_shortcuts_path_alone(fuse):
    """dL/dC2 without detach - dL/dC2 with it = (dS/dC2)^T dL/dS; the forward pass is the same."""
    isolated, direct = pyramid(fuse=fuse), pyramid(fuse=fuse, detach=False)
    direct.load_state_dict(isolated.state_dict())
    image, grey = frames()
    dark2 = isolated.backbone(image).dark2.detach().requires_grad_()

    def run(model: Pyramid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dark3 = model.backbone.dark3(dark2)
        dark4 = model.backbone.dark4(dark3)
        stages = Stages(model.backbone.stem(image), dark2, dark3, dark4, model.backbone.dark5(dark4))
        levels = model.top_down(stages, grey)
        loss = levels.p3.sin().sum()
        (gradient,) = torch.autograd.grad(loss, dark2, retain_graph=True)
        return levels.p3, gradient, torch.autograd.grad(loss, levels.p3)[0]

    with_detach, without = run(isolated), run(direct)
    assert torch.equal(with_detach[0], without[0])
    assert not torch.allclose(with_detach[1], without[1])
    s = direct.gils.shortcuts["p3"]({"dark2": dark2})
    alpha = direct.gils.alpha["p3"].detach()
    joined = alpha * s
    if fuse == "gate":
        a3 = isolated.top_down(isolated.backbone(image), grey).a3.detach()
        joined = alpha * a3 * torch.sigmoid(s)
    (path,) = torch.autograd.grad(joined, dark2, grad_outputs=without[2])
    torch.testing.assert_close(without[1] - with_detach[1], path, rtol=1e-9, atol=1e-12)


# Operators


def test_shrinking_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert shrink(x, "maxpool", 2).flatten().tolist() == [5, 7, 13, 15]
    assert shrink(x, "avgpool", 4).flatten().tolist() == [7.5]


def test_blur_pool_by_hand():
    """(1, 3, 3, 1) / 8 over four pixels, two of which are the cell's; a flat map stays, and a ramp keeps its place."""
    row = torch.tensor([1.0, 2.0, 4.0, 8.0]).expand(1, 1, 4, 4)
    assert blur_pool(row)[0, 0, 0].tolist() == [(1 + 3 * 1 + 3 * 2 + 4) / 8, (2 + 3 * 4 + 3 * 8 + 8) / 8]
    assert torch.equal(shrink(torch.full((1, 2, 8, 8), 3.0), "blurpool", 4), torch.full((1, 2, 2, 2), 3.0))
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert blur_pool(ramp)[0, 0, 0, 1:3].tolist() == [2.5, 4.5]


@pytest.mark.parametrize("op", ["s2d", "conv"])
def test_space_to_depth_and_a_1x1_convolution(op):
    shortcut = pyramid(op=op, source="stem+dark2", norm=False, act=False).gils.shortcuts["p3"]
    maps = {"stem": torch.rand(2, 4, 32, 32).double(), "dark2": torch.rand(2, 8, 16, 16).double()}
    weight = torch.cat([shortcut.blocks[name].weight.flatten(1) for name in maps], dim=1)[..., None, None]
    deep = torch.cat([F.pixel_unshuffle(maps["stem"], 4), F.pixel_unshuffle(maps["dark2"], 2)], dim=1)
    expected = F.conv2d(deep, weight, shortcut.blocks["stem"].bias)
    torch.testing.assert_close(shortcut(maps), expected)
    assert shortcut.blocks["dark2"].bias is None


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({}, 33_025),
        ({"fuse": "concat"}, 16_512 + 2 * 64 * 64),
        ({"fuse": "concat", "channels": 32}, 8_256 + 2 * 64 * 32),
        ({"op": "maxpool"}, 8_449),
        ({"op": "conv3"}, 73_985),
        ({"source": "stem", "fuse": "concat"}, 32_896 + 2 * 64 * 64),
        ({"source": "stem", "op": "maxpool"}, 4_353),
    ],
)
def test_parameters_of_the_options(options, added):
    """The table of overheads at full width; alpha included, 1 under add."""
    meta = torch.device("meta")
    with meta:
        host, ours = BPFPN(bp=False), BPFPN(gils=GILSConfig(**options))
    count = [sum(p.numel() for p in model.parameters()) for model in (host, ours)]
    assert count[1] - count[0] == added


# Places, ways of joining, frames


def run(**options) -> tuple[Pyramid, dict[str, torch.Tensor]]:
    model = pyramid(**options)
    image, grey = frames(4)
    return model, model(image, grey, slice(1, None, 2))._asdict()


@pytest.mark.parametrize(
    ("level", "changed"),
    [("p3", {"p3"}), ("p3+p4", {"p3", "a3", "a4r"}), ("c3_p3", {"p3", "a3"}), ("all", {"p3", "a3", "a4r"})],
)
@pytest.mark.parametrize("fuse", ["add", "gate"])
def test_a_shortcut_changes_what_lies_behind_it_in_its_frames(level, fuse, changed):
    model, ours = run(level=level, fuse=fuse)
    host = Pyramid(3, 0.125, GILSConfig(source="none"), DGRConfig(variant="none")).double().eval()
    host.load_state_dict(model.state_dict(), strict=False)
    torch.manual_seed(0)
    pyramid(level=level, fuse=fuse)  # draws what `run` drew
    image, grey = frames(4)
    theirs = host(image, grey)._asdict()
    names = [name for name in theirs if theirs[name] is not None]
    assert {n for n in names if not torch.equal(ours[n][1::2], theirs[n][1::2])} == changed
    assert all(torch.equal(ours[n][::2], theirs[n][::2]) for n in names)


@pytest.mark.parametrize("level", ["p3", "p3+p4"])
def test_concat_gives_zeros_to_frames_without_a_shortcut(level):
    model, ours = run(level=level, fuse="concat")
    seen = []
    model.C3_p3.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image, grey = frames(4)
    model(image, grey, slice(1, None, 2))
    added = seen[0][:, 2 * 16 :]
    assert added.shape[1] == 8 and not added[::2].any() and added[1::2].any()
    assert model.gils.widens("p4") == (8 if "p4" in level else 0)


def test_key_frames_alone():
    model = BPFPN(3, width=0.125, gils=GILSConfig(frames="key")).eval()
    assert model.gils_config.frames == "key"
    nn.init.constant_(model.backbone.gils.alpha["p3"], 5.0)
    frames_BTHW = torch.rand(2, 3, 32, 32)
    levels = model.levels(frames_BTHW)
    different = (levels.p3 != levels.a3).flatten(1).any(1)
    assert different.tolist() == [False, False, True] * 2


def test_norm_and_activation_can_be_left_out():
    plain = GILS(GILSConfig(norm=False, act=False), 0.125)
    names = set(dict(plain.named_parameters()))
    assert names == {"alpha.p3", "shortcuts.p3.blocks.dark2.weight", "shortcuts.p3.blocks.dark2.bias"}
    maps = {"dark2": torch.rand(1, 8, 4, 4)}
    a, b = plain.shortcuts["p3"](maps), plain.shortcuts["p3"]({"dark2": 2 * maps["dark2"]})
    bias = plain.shortcuts["p3"].blocks["dark2"].bias[:, None, None]
    torch.testing.assert_close(b - bias, 2 * (a - bias))


def test_the_image_as_a_source():
    model = BPFPN(2, width=0.125, gils=GILSConfig(source="image"))
    assert model.backbone.gils.shortcuts["p3"].blocks["image"].kernel_size == (8, 8)
    model(torch.rand(2, 2, 40, 40)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# What makes no sense


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model.gils.fuse": "concat", "model.gils.level": "c3_p3"}, "always joins at the input"),
        ({"model.gils.fuse": "concat", "model.gils.level": "all"}, "always joins at the input"),
        ({"model.gils.channels": 64}, "level's own channels"),
        ({"model.gils.op": "conv3", "model.gils.source": "stem"}, "skips pixels"),
        ({"model.gils.op": "conv3", "model.gils.level": "p3+p4"}, "skips pixels"),
        ({"model.gils.source": "none", "model.gils.op": "maxpool"}, "op decides nothing"),
        ({"model.gils.source": "none", "model.dgr.variant": "none"}, "bp=false"),
        ({"model.bp": False, "model.gils.op": "maxpool"}, "host without GILS"),
        ({"model.bp": False, "model.dgr.beta": 0.1, "model.dgr.variant": "scaling"}, "host without GILS"),
        ({"model.frames": 1, "model.gils.frames": "key"}, "says nothing"),
        ({"model.frames": 1, "model.motion_branch": True}, "no past"),
        ({"model.motion_slices": 2}, "motion_branch=true"),
        ({"model.gils.level": "p5"}, "model.gils.level=p5"),
        ({"model.gils.sources": "stem"}, "no such option .did you mean 'model.gils.source'"),
        ({"model.squeeze_excitation": False}, "bp-fpn has no such option"),
        ({"evaluate.protocol": "dnanet"}, "does not score detection"),
        ({"evaluate.objective": "iou"}, "no number of detection"),
        ({"evaluate.objective": "ap"}, "under strict; use ap50, f1"),
        ({"evaluate.objective": "ap50", "evaluate.protocol": "centroid"}, "under centroid; use ap, f1"),
        ({"evaluate.grid": 256}, "for masks"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused_with_the_reason(options, words):
    with pytest.raises(InputError, match=words) as caught:
        configuration.load(overrides=options, model="bp-fpn")
    assert "\n" not in str(caught.value)


def test_options_of_one_network_are_refused_by_the_other():
    with pytest.raises(InputError, match="ggl-net has no such option"):
        configuration.load(overrides={"model.gils.level": "p3"}, model="ggl-net")
    with pytest.raises(InputError, match="no number of segmentation"):
        configuration.load(overrides={"evaluate.objective": "ap50"})
    with pytest.raises(InputError, match="does not score segmentation"):
        configuration.load(overrides={"evaluate.protocol": "nnlab"})
