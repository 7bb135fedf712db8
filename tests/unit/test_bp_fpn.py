"""BP-FPN: its size and cost, shapes, start, precision, streaming, YOLOX's weights, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from irstd import config as configuration
from irstd import models
from irstd.config import DGRConfig, GILSConfig
from irstd.errors import InputError
from irstd.models.bp_fpn import BPFPN
from irstd.models.bp_fpn.blocks import BatchNorm, CSPLayer, Focus, SPPBottleneck
from irstd.models.bp_fpn.neck import MotionNeck
from irstd.models.bp_fpn.weights import load_yolox
from irstd.models.ggl_net.blocks import Float32Conv2d


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(frames: int = 3, **switches) -> BPFPN:
    return BPFPN(frames, width=0.125, **switches).eval()


def lively(model: BPFPN) -> BPFPN:
    """Weights that pass signals on: with the host's start, of deviation 0.02, the past drowns in rounding."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for alpha in model.backbone.gils.alpha.values():
        nn.init.constant_(alpha, 0.7)
    return model


def clips(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


# Size and cost


def test_parameters_at_full_width():
    host = BPFPN(bp=False)
    assert parameters(host) == 11_949_003
    assert parameters(host.backbone.backbone) == 4_212_672
    assert parameters(host.neck) == 4_722_688 + 5
    assert parameters(host.head) == 2_396_166
    # GILS: 256 * 128 weights, 2 * 128 of the normalisation, and alpha. DGR: nothing.
    assert parameters(BPFPN()) == 11_949_003 + 33_025
    assert parameters(BPFPN(dgr=DGRConfig(variant="none"))) == parameters(BPFPN())


def test_parameters_of_the_motion_branch():
    host, one, two = (BPFPN(bp=False, motion_branch=b, motion_slices=s) for b, s in ((0, 1), (1, 1), (1, 2)))
    # The released module has 10.03 M here. 8,855,808 belong to a state that the last slice has no use for, and 81,920 to
    # a mapping that nothing calls.
    assert parameters(one) - parameters(host) == 1_094_496
    state = two.motion.slices[0].motion
    assert parameters(state) == 8_855_808
    assert parameters(two) - parameters(one) == 8_855_808 + 295_168 + 590_080
    assert 10_025_000 < 1_094_496 + 8_855_808 + 81_920 < 10_035_000


def test_multiply_adds(monkeypatch):
    """Torch's counter counts a multiply-add as two operations."""
    monkeypatch.setattr(BPFPN, "check", lambda self, frames: None)  # counted without values

    def counted(**switches) -> float:
        with FakeTensorMode():
            model = BPFPN(**switches).eval()
            with FlopCounterMode(display=False) as counter:
                model(torch.rand(1, 5, 512, 512))
        return counter.get_total_flops() / 2

    host = counted(bp=False)
    assert host == pytest.approx(61.44e9, rel=0.005)
    assert pytest.approx(counted() - host, rel=0.005) == 0.67e9 and 0.67e9 / host < 0.011


# Shapes


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 33), (64, 32), (70, 45)])
def test_any_size(height, width):
    raw_BCHW = small()(clips(2, 3, height, width))
    assert raw_BCHW.shape == (2, 6, -(-height // 8), -(-width // 8))
    assert raw_BCHW.isfinite().all()


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_any_number_of_frames(frames):
    model = small(frames)
    assert model(clips(1, frames, 32, 40)).shape == (1, 6, 4, 5)
    assert (model.neck is None) == (frames == 1)


def test_classes_and_channels():
    assert BPFPN(2, 1, classes=4, width=0.125).eval()(clips(1, 2, 32, 32)).shape == (1, 9, 4, 4)
    assert models.BPFPN is BPFPN


def test_padding_is_a_copy_of_the_border():
    model, frames_BTHW = small(), clips(1, 3, 30, 50)
    padded = nn.functional.pad(frames_BTHW, (0, 14, 0, 2), mode="replicate")
    assert torch.equal(model(frames_BTHW), model(padded)[..., :7])


def test_every_frame_of_a_clip_counts():
    model, frames_BTHW = lively(small()), clips(1, 3, 32, 32)
    expected = model(frames_BTHW)
    for t in range(3):
        changed = frames_BTHW.clone()
        changed[:, t] = 0.5
        assert (model(changed) - expected).abs().max() > 1e-3


# Blocks


def test_focus_takes_each_two_by_two_in_yolox_order():
    focus = Focus(1, 2)
    seen = []
    focus.conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    focus(torch.arange(16.0).reshape(1, 1, 4, 4))
    assert seen[0][0, :, 0, 0].tolist() == [0, 4, 1, 5]
    assert seen[0][0, :, 1, 1].tolist() == [10, 14, 11, 15]


def test_normalisation_and_shortcuts_are_those_of_yolox():
    norm = BatchNorm(3)
    assert (norm.eps, norm.momentum) == (1e-3, 0.03)
    model = small(bp=False)
    with_shortcut = {n for n, m in model.named_modules() if isinstance(m, CSPLayer) and m.m[0].shortcut}
    assert with_shortcut == {"backbone.backbone.dark2.1", "backbone.backbone.dark3.1", "backbone.backbone.dark4.1"}
    depths = [len(m.m) for m in model.modules() if isinstance(m, CSPLayer)]
    assert depths == [1, 3, 3, 1, 1, 1]


def test_spatial_pyramid_pooling_looks_at_5_9_and_13_cells():
    block = SPPBottleneck(2).eval()
    seen = []
    block.conv2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block.conv1 = nn.Identity()
    x = torch.zeros(1, 1, 15, 15)
    x[0, 0, 7, 7] = 1
    with torch.no_grad():
        block.conv2 = nn.Identity()
        found = block(x)
    assert found.sum((2, 3))[0].tolist() == [1, 25, 81, 169]


def test_the_neck_by_hand():
    """One channel, convolutions replaced by sums and products: which maps meet where."""
    neck = MotionNeck(1, 3).eval()
    for name in ("conv_ref", "conv_cur", "conv_gl", "conv_gl_mix", "conv_cr_mix", "conv_final"):
        setattr(neck, name, _Weigh())
    one, two, key = (torch.full((1, 1, 1, 1), value) for value in (2.0, 3.0, 5.0))
    gate = 1 * 2 + 2 * 3
    current = 1 * (gate * 5) + 2 * 5
    related = 0.5 * (2 + 2 * 5) + 0.5 * (3 + 2 * 5)
    assert neck([one, two], key).item() == related + 2 * current
    assert neck.weight.tolist() == [0.5, 0.5, 0.5]
    assert MotionNeck(1, 5).weight.tolist() == [0.25] * 5


class _Weigh(nn.Module):
    """First channel + 2 * second one."""

    def forward(self, x):
        return (x * torch.arange(1.0, x.shape[1] + 1)[:, None, None]).sum(1, keepdim=True)


# Start


def test_initialisation():
    model = BPFPN(width=0.5).requires_grad_(False)
    convs = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, nn.Conv2d)])
    assert float(convs.std()) == pytest.approx(0.02, rel=0.02) and abs(float(convs.mean())) < 1e-4
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    weights = torch.cat([m.weight for m in norms])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.05) and float(weights.mean()) == pytest.approx(1, abs=1e-3)
    assert all(not m.bias.any() for m in norms)
    assert float(model.backbone.gils.alpha["p3"]) == 0


def test_a_prior_is_what_objectness_and_class_start_at():
    config = configuration.load(
        overrides={"model.prior": 0.01, "model.width": 0.125, "model.frames": 3}, model="bp-fpn"
    )
    model = models.build_model(config).eval()
    raw_BCHW = model(clips(1, 3, 64, 64))
    assert torch.sigmoid(raw_BCHW[:, 4:]).flatten().tolist() == pytest.approx([0.01] * 128, rel=0.05)
    torch.manual_seed(0)
    plain = small()
    torch.manual_seed(0)
    given = small(prior=0.25)
    changed = {n for n, p in plain.named_parameters() if not torch.equal(p, given.get_parameter(n))}
    assert changed == {"head.obj_preds.0.bias", "head.cls_preds.0.bias"}
    assert given.head.obj_preds[0].bias.item() == pytest.approx(-np.log(3))


@pytest.mark.parametrize(
    "gils",
    [GILSConfig(), GILSConfig(level="all", fuse="gate", source="stem+dark2"), GILSConfig(frames="key", level="c3_p3")],
)
@pytest.mark.parametrize("training", [False, True])
def test_it_starts_as_its_host_bit_for_bit(gils, training):
    host, ours = small(bp=False).train(training), small(gils=gils).train(training)
    missing, unexpected = ours.load_state_dict(host.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("backbone.gils.") for name in missing)
    frames_BTHW = clips(2, 3, 40, 48)
    assert torch.equal(ours(frames_BTHW), host(frames_BTHW))


# Precision


def test_a_few_counts_reach_the_first_activation_under_autocast():
    """300 counts at offset 7000 stay apart, as x and as counts; bfloat16 would leave 11 of them."""
    counts = torch.arange(7000.0, 7300.0).reshape(1, 15, 20)
    assert len(counts.bfloat16().unique()) < 12
    model = small()
    for frames_NHW in ((counts - 7000) / 300, counts):
        expected = model.backbone.backbone.stem(model.image(frames_NHW)[0])
        with torch.autocast("cpu", torch.bfloat16):
            image, _ = model.image(frames_NHW)
            found = model.backbone.backbone.stem(image)
        assert image.dtype == found.dtype == torch.float32
        assert len(image[0, 0, :15, :20].unique()) == 300
        assert torch.equal(found, expected)


def test_only_the_first_convolutions_stay_float32_under_autocast():
    model = small(gils=GILSConfig(source="image", op="blurpool"), motion_branch=True)
    types = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, output, name=name: types.update({name: output.dtype}))
    frames_BTHW = clips(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        levels = model.levels(frames_BTHW)
        raw_BCHW = model.heads(levels.p3, frames_BTHW)
        model.motion(model.image(frames_BTHW[0])[0][None], levels.p3[None])
    first = {"backbone.backbone.stem.conv.conv", "backbone.gils.shortcuts.p3.project", "motion.mapping1.0"}
    assert {name for name, dtype in types.items() if dtype == torch.float32} == first
    assert {name for name, m in model.named_modules() if isinstance(m, Float32Conv2d)} == first
    torch.testing.assert_close(raw_BCHW.float(), model(frames_BTHW), rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_the_compiled_stem_is_float32_too(backend):
    model = small()
    frames_NHW = (torch.arange(7000.0, 7300.0).reshape(1, 15, 20) - 7000) / 300

    def first(frames_NHW: torch.Tensor) -> torch.Tensor:
        return model.backbone.backbone.stem(model.image(frames_NHW)[0])

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = torch.compile(first, backend=backend)(frames_NHW)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, first(frames_NHW), rtol=0, atol=1e-5)


def test_a_model_in_half_precision_runs():
    assert small().bfloat16()(clips(1, 3, 32, 32).bfloat16()).isfinite().all()


def test_channels_last():
    model, frames_BTHW = small(), clips(2, 3, 40, 32)
    expected = model(frames_BTHW)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(frames_BTHW), expected, rtol=1e-3, atol=1e-5)


# Streaming


@pytest.mark.parametrize(
    "switches",
    [{}, {"frames": 1}, {"bp": False}, {"gils": GILSConfig(frames="key")}]
    + [
        {"gils": GILSConfig(frames="key", level=level, fuse=fuse)}
        for level, fuse in (("all", "gate"), ("p3+p4", "concat"))
    ],
)
def test_a_stream_gives_what_clips_give(switches):
    model = lively(small(**switches))
    T, video_BTHW = model.frames, clips(2, 6, 40, 33)
    stream = model.stream()
    for t in range(6):
        clip = [max(0, t - back) for back in range(T - 1, -1, -1)]
        torch.testing.assert_close(stream(video_BTHW[:, t]), model(video_BTHW[:, clip]), rtol=1e-4, atol=1e-5)
    stream.reset()
    torch.testing.assert_close(stream(video_BTHW[:1, 2]), model(video_BTHW[:1, [2] * T]), rtol=1e-4, atol=1e-5)


def test_a_stream_computes_each_frame_once():
    model, count = small(5), []
    model.backbone.backbone.register_forward_hook(lambda module, inputs, output: count.append(len(inputs[0])))
    stream = model.stream()
    for frame_BHW in clips(4, 1, 32, 32):
        stream(frame_BHW)
    assert count == [1, 1, 1, 1]


# YOLOX's weights


def yolox_s() -> dict[str, torch.Tensor]:
    """Tensors under the names of YOLOX-s at an eighth of its width: its head has half of the host's channels."""
    own = small(bp=False).state_dict()
    found = {k: torch.randn_like(v.float()).to(v.dtype) for k, v in own.items() if k.startswith("backbone.")}
    found["backbone.bu_conv2.conv.weight"] = torch.randn(16, 16, 3, 3)
    found["head.cls_convs.0.0.conv.weight"] = torch.randn(16, 16, 3, 3)
    found["head.obj_preds.0.bias"] = torch.randn(1)
    return found


@pytest.mark.parametrize("form", ["released", "plain", "safetensors"])
def test_yolox_weights_load_by_name_and_shape(tmp_path, form):
    model, tensors = small(), yolox_s()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"start_epoch": 300, "model": tensors} if form == "released" else tensors, path)
    found = load_yolox(model, path)
    after = model.state_dict()
    assert set(found.loaded) == {k for k in after if k in tensors and after[k].shape == tensors[k].shape}
    assert {"backbone.C3_p3.conv1.conv.weight", "head.obj_preds.0.bias"} <= set(found.loaded)
    assert {"head.cls_convs.0.0.conv.weight", "backbone.gils.alpha.p3"} <= set(found.left)
    for name, value in after.items():
        assert torch.equal(value, tensors[name] if name in found.loaded else before[name]), name


class Pickled:
    """An object that a file of tensors does not hold."""


def test_weights_that_do_not_fit_are_refused(tmp_path):
    torch.save({"model": {"backbone.stem": torch.ones(3)}}, tmp_path / "other.pth")
    torch.save({"model": yolox_s(), "args": Pickled()}, tmp_path / "pickled.pth")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04rubbish")
    for name, words in (
        ("other.pth", "none of its 1 tensors fits"),
        ("pickled.pth", "tensors alone"),
        ("torn.pth", "tensors alone"),
        ("none.pth", "no such file"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            load_yolox(small(), tmp_path / name)
        assert "\n" not in str(caught.value)


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BPFPN(0), "frames, classes >= 1"),
        (lambda: BPFPN(width=0), "width > 0"),
        (lambda: BPFPN(in_channels=2), "3 .grey tripled. or 1, got 2"),
        (lambda: BPFPN(1, motion_branch=True), "no past"),
        (lambda: BPFPN(bp=False, gils=GILSConfig()), "bp=False is the host"),
        (lambda: BPFPN(bp=False, dgr=DGRConfig()), "bp=False is the host"),
        (lambda: small()(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)), "floating.*uint8"),
        (lambda: small()(torch.zeros(1, 3, 3, 16, 16)), "without channels"),
        (lambda: small()(torch.zeros(1, 5, 16, 16)), "T=3 frames, got 5"),
        (lambda: small()(torch.zeros(1, 3, 0, 16)), "H >= 1"),
        (lambda: small()(torch.full((1, 3, 8, 8), float("nan"))), "NaN or infinity"),
        (lambda: small()(torch.tensor(np.inf).expand(1, 3, 8, 8)), "NaN or infinity"),
        (lambda: small().train().stream()(torch.zeros(1, 8, 8)), r"model\.eval"),
        (lambda: small().stream()(torch.zeros(1, 1, 8, 8)), "without channels"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_stream_refuses_another_size():
    stream = small().stream()
    stream(clips(1, 32, 32))
    with pytest.raises(InputError, match=r"call reset\(\)"):
        stream(clips(1, 32, 40))
