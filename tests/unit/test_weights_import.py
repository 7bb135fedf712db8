"""Released weights under our names: a network with the authors' names gives what ours gives with its weights."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from irstd import config as configuration
from irstd.cli import run
from irstd.commands import weights
from irstd.data.manifest import read_all
from irstd.errors import InputError
from irstd.inference.package import Package
from irstd.models import BPFPN, GGLNet
from irstd.models.contract import load_weights
from irstd.models.ggl_net.released import from_released, modules
from irstd.registry import lineage, verification
from irstd.training import loop, start
from irstd.training.identity import identity
from irstd.workspace import Workspace

# The authors' structure, from a description of it: their attribute names, and what each module computes.


def conv(a, b, kernel=3, stride=1):
    return nn.Conv2d(a, b, kernel, stride, kernel // 2)


def run_of(*layers):
    """Convolution, normalisation, ReLU one after the other; None ends without the ReLU."""
    return nn.Sequential(*(layer for layer in layers if layer is not None))


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(c, c // 4, bias=False), nn.ReLU(), nn.Linear(c // 4, c, bias=False), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[..., None, None]


class First(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layer = run_of(conv(c, c), nn.BatchNorm2d(c), nn.ReLU(), conv(c, c), nn.BatchNorm2d(c))

    def forward(self, x):
        return F.relu(self.layer(x) + x)


class Down(nn.Module):
    def __init__(self, a, c):
        super().__init__()
        self.layer1 = run_of(
            conv(a, c), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2), conv(c, c), nn.BatchNorm2d(c)
        )  # fmt: skip
        self.layer2 = run_of(conv(a, c, 3, 2), nn.BatchNorm2d(c), nn.ReLU())

    def forward(self, x):
        return F.relu(self.layer1(x) + self.layer2(x))


class Attentive(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layer1 = run_of(conv(c, c), nn.BatchNorm2d(c), nn.ReLU())
        self.layer2 = run_of(conv(c, c), nn.BatchNorm2d(c))
        self.SEAttention = Attention(c)

    def forward(self, x):
        return F.relu(self.layer2(self.SEAttention(self.layer1(x))) + x)


class Supplement(nn.Module):
    def __init__(self, a, c):
        super().__init__()
        self.layer1 = run_of(
            conv(a, c), nn.BatchNorm2d(c), nn.ReLU(), Attention(c), conv(c, c), nn.BatchNorm2d(c), nn.ReLU()
        )
        self.layer2 = run_of(conv(2 * c, c), nn.BatchNorm2d(c), nn.ReLU(), Attention(c), conv(c, c), nn.BatchNorm2d(c))

    def forward(self, x, gradient):
        return F.relu(self.layer2(torch.cat((x, self.layer1(gradient)), 1)) + x)


class Contrast(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layer1 = nn.Sequential(conv(c, c, 1), nn.ReLU(), conv(c, c), nn.ReLU())

    def forward(self, x):
        return self.layer1(x)


class ChannelWeight(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.se = nn.Sequential(
            nn.Conv2d(c, c // 8, 1, bias=False), nn.ReLU(), nn.Conv2d(c // 8, c, 1, bias=False)
        )  # fmt: skip

    def forward(self, x):
        return torch.sigmoid(self.se(F.adaptive_max_pool2d(x, 1)) + self.se(F.adaptive_avg_pool2d(x, 1)))


class PlaceWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv(2, 1, 7)

    def forward(self, x):
        return torch.sigmoid(self.conv(torch.cat((x.max(1, keepdim=True)[0], x.mean(1, keepdim=True)), 1)))


class Guide(nn.Module):
    def __init__(self, a, c):
        super().__init__()
        self.hl_layer = nn.Sequential(
            nn.UpsamplingBilinear2d(scale_factor=2), conv(a, c, 1), nn.BatchNorm2d(c), nn.ReLU()
        )
        self.hl_layer_2 = ChannelWeight(c)
        self.ll_layer = PlaceWeight()

    def forward(self, high, low):
        high = self.hl_layer(high)
        return low * self.hl_layer_2(high) + high * self.ll_layer(low)


class Stages(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        c = [width * 2**i for i in range(5)]
        self.layer1 = run_of(
            conv(channels, width),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            conv(width, width),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        for i in range(5):
            setattr(self, f"resnet{i + 1}_1", Down(c[i - 1], c[i]) if i else First(width))
            setattr(self, f"resnet{i + 1}_2", Attentive(c[i]))
            setattr(self, f"resnet{i + 1}_3", Attentive(c[i]))
            setattr(self, f"Res{i + 1}", Supplement(channels, c[i]))

    def forward(self, x):
        padded = F.pad(x, (1, 1, 1, 1))
        across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
        down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
        gradient = torch.sqrt(across**2 + down**2)
        x, found = self.layer1(x), []
        for i in range(1, 6):
            for place in (1, 2, 3):
                x = getattr(self, f"resnet{i}_{place}")(x)
            x = getattr(self, f"Res{i}")(x, gradient)
            gradient = F.max_pool2d(gradient, 2)
            found.append(x)
        return found


class TheirGGLNet(nn.Module):
    def __init__(self, channels=3, width=16):
        super().__init__()
        self.stage = Stages(channels, width)
        for i in range(1, 6):
            setattr(self, f"lcl{i}", Contrast(width * 2 ** (i - 1)))
        for i in range(1, 5):
            setattr(self, f"sbam{i}", Guide(width * 2**i, width * 2 ** (i - 1)))
        self.layer = nn.Sequential(conv(width, width, 1), nn.ReLU(), conv(width, 1, 1), nn.Sigmoid())

    def forward(self, x):
        levels = [getattr(self, f"lcl{i}")(found) for i, found in enumerate(self.stage(x), 1)]
        fused = levels[4]
        for i in (4, 3, 2, 1):
            fused = getattr(self, f"sbam{i}")(fused, levels[i - 1])
        return self.layer(fused)


def theirs(channels=3, width=16) -> TheirGGLNet:
    torch.manual_seed(0)
    model = TheirGGLNet(channels, width)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path, tmp_path / ".irstd")


def test_every_tensor_has_one_name_on_either_side():
    published, ours = TheirGGLNet(), GGLNet(border="authors")
    assert sum(p.numel() for p in published.parameters()) == sum(p.numel() for p in ours.parameters()) == 8_988_093
    named = {n for n, m in ours.named_modules() if next(m.parameters(recurse=False), None) is not None}
    also = {n for n, m in published.named_modules() if next(m.parameters(recurse=False), None) is not None}
    table = modules()
    assert set(table) == named and sorted(table.values()) == sorted(also)
    tensors, options, left = from_released(published.state_dict(), "w.pth")
    assert options == {"in_channels": 3, "width": 16} and left == []
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in ours.state_dict().items()}


@pytest.mark.parametrize(("channels", "form"), [(3, "plain"), (1, "parallel"), (3, "checkpoint"), (3, "safetensors")])
def test_an_imported_package_gives_what_the_authors_network_gives(workspace, tmp_path, capsys, channels, form):
    published = theirs(channels, 8)
    tensors = {f"module.{k}" if form == "parallel" else k: v for k, v in published.state_dict().items()}
    path = tmp_path / ("theirs.safetensors" if form == "safetensors" else "theirs.pth")
    if form == "safetensors":
        save_file(tensors, path)
    else:
        # A counter of operations, as profilers leave it behind.
        more = {"stage.total_ops": torch.zeros(1)} if form == "checkpoint" else {}
        torch.save({"epoch": 3, "state_dict": tensors | more} if form == "checkpoint" else tensors, path)
    weights.import_(workspace, path, "ggl-net", tmp_path / "package", ["data.resize=native"])
    said = capsys.readouterr().out
    assert "1 not: stage.total_ops" in said if form == "checkpoint" else " not: " not in said
    package = Package.read(tmp_path / "package")
    assert (
        package.content["metrics"]["chosen"] == "imported" and package.content["lineage"]["source"]["file"] == path.name
    )
    assert package.config.model.border == "authors" and package.config.model.in_channels == channels
    frame_HW = np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8)
    from irstd.inference.detector import Detector

    (found,) = Detector(package)(frame_HW[None])
    image = torch.from_numpy(frame_HW / np.float32(255)).expand(1, channels, -1, -1)
    expected = published(image)[0, 0].detach().numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(found.probability_HW, expected, atol=1e-4)
    assert dict(lineage.chain(package, None))["imported from"] == path.name
    assert {reason for _, reason in verification.verify(workspace, package, None, tmp_path)} == {None}


def test_an_imported_package_is_scored(workspace, tmp_path, sample_shards, capsys, monkeypatch):
    from irstd.commands import evaluate, scores

    monkeypatch.setattr(scores, "COMPARABLE", -1)  # no baselines beside it
    torch.save(theirs(1, 8).state_dict(), tmp_path / "w.pth")
    weights.import_(workspace, tmp_path / "w.pth", "ggl-net", tmp_path / "package", ["data.resize=stretch:32"])
    evaluate.run(workspace, str(tmp_path / "package"), [], "test", str(sample_shards), tmp_path / "numbers.json")
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert found["chosen"] == "imported" and found["run"].startswith("imported-")
    assert "its numbers are not logged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        ({"conv.weight": torch.ones(1)}, [], "is not the authors' GGL-Net: of its 1 tensors 0"),
        ("lacking", [], r"is not whole, it lacks lcl1\.layer1\.0"),
        ("shape", [], r"of another shape are head\.0\.weight \[8, 9, 1, 1\] for \[8, 8, 1, 1\]"),
        ("rubbish", [], "cannot be read as tensors alone"),
        ("module", [], r"tensors alone \(it holds other objects.*\); save its weights alone"),
        (None, [], "no such file"),
        ("whole", ["train.lr=1"], "decides nothing for weights that are there"),
    ],
)
def test_a_wrong_file_is_one_line(workspace, tmp_path, content, arguments, words):
    path = tmp_path / "w.pth"
    tensors = theirs(3, 8).state_dict()
    if content == "lacking":
        tensors = {k: v for k, v in tensors.items() if not k.startswith("lcl1.layer1.0")}
    elif content == "shape":
        tensors["layer.0.weight"] = torch.ones(8, 9, 1, 1)
    elif content == "module":
        tensors = torch.nn.Linear(1, 1)
    elif isinstance(content, dict):
        tensors = content
    if content == "rubbish":
        path.write_bytes(b"PK\x03\x04rubbish")
    elif content is not None:
        torch.save(tensors, path)
    with pytest.raises(InputError, match=words) as caught:
        weights.import_(workspace, path, "ggl-net", tmp_path / "package", arguments)
    assert "\n" not in str(caught.value) and not (tmp_path / "package").exists()


def test_nothing_is_overwritten(workspace, tmp_path):
    taken = tmp_path / "taken.safetensors"
    taken.write_text("mine")
    for kind, out, words in (
        ("bp-fpn", taken, "is there already"),
        ("ggl-net", taken, "holds something else"),
        ("bp-fpn", tmp_path / "w.bin", "ends in .safetensors"),
        ("ggl", tmp_path / "new", "no such network .did you mean 'ggl-net'"),
    ):
        with pytest.raises(InputError, match=words):
            weights.import_(workspace, tmp_path / "w.pth", kind, out, [])
    assert taken.read_text() == "mine"


# -- starting from weights ---------------------------------------------------------------------------------------


def yolox_s() -> dict[str, torch.Tensor]:
    """Tensors under the names of YOLOX-s at an eighth of its width, with a pyramid that the host does not have."""
    own = BPFPN(2, width=0.125, bp=False).state_dict()
    found = {k: torch.randn_like(v.float()).to(v.dtype) for k, v in own.items() if k.startswith("backbone.")}
    return found | {"backbone.bu_conv2.conv.weight": torch.randn(16, 16, 3, 3)}


SMALL = {"model.width": 0.125, "model.frames": 2, "data.crop": 32, "train.batch": 4, "train.epochs": 1}


def test_yolox_becomes_a_start(workspace, tmp_path, sample_shards, capsys):
    torch.manual_seed(0)
    tensors = yolox_s()
    torch.save({"start_epoch": 300, "model": tensors}, tmp_path / "yolox_s.pth")
    out = tmp_path / "yolox_s.safetensors"
    weights.import_(workspace, tmp_path / "yolox_s.pth", "bp-fpn", out, ["model.width=0.125", "model.frames=2"])
    said = capsys.readouterr().out
    assert "1 not: backbone.bu_conv2.conv.weight" in said and "stay fresh: backbone.gils, head" in said
    assert load_file(out).keys() == tensors.keys() - {"backbone.bu_conv2.conv.weight"}
    with safe_open(out, "pt") as file:
        assert file.metadata()["file"] == "yolox_s.pth" and len(file.metadata()["sha256"]) == 64
    lines = []
    config = configuration.load(overrides=SMALL | {"train.init": str(out)}, model="bp-fpn")
    begun = loop.Run(config, sample_shards, "cpu", lines.append)
    assert f"starts from {out}: {len(tensors) - 1} of" in lines[0]
    state = begun.model.state_dict()
    assert all(torch.equal(state[k], tensors[k]) for k in load_file(out))
    fresh = loop.Run(configuration.load(overrides=SMALL, model="bp-fpn"), sample_shards, "cpu", lines.append)
    assert torch.equal(state["head.stems.0.conv.weight"], fresh.model.state_dict()["head.stems.0.conv.weight"])


def test_what_a_run_starts_from_is_part_of_it(tmp_path, sample_shards):
    manifests = read_all(sample_shards)
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path, value in zip(paths, (1.0, 2.0, 1.0), strict=True):
        save_file({"head.obj_preds.0.bias": torch.full((1,), value)}, path)
    configs = [configuration.load(overrides=SMALL | {"train.init": str(p)}, model="bp-fpn") for p in paths]
    first, other, same = (identity(c, manifests) for c in configs)
    assert first == same and first != other
    assert first != identity(configuration.load(overrides=SMALL, model="bp-fpn"), manifests)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"head.obj_preds.0.bias": torch.ones(2)}, r"of another shape are head.obj_preds.0.bias \[2\] for \[1\]"),
        ({"nose": torch.ones(1)}, "the network has not, nose"),
        ({}, "holds no tensors"),
        ("rubbish", "not readable as safetensors"),
        (None, "no such file, and no folder of a model package"),
    ],
)
def test_a_start_that_does_not_fit(tmp_path, content, words):
    path = tmp_path / "w.safetensors"
    if content == "rubbish":
        path.write_text("rubbish")
    elif content is not None:
        save_file(content, path)
    with pytest.raises(InputError, match=words) as caught:
        start.start_from(BPFPN(2, width=0.125), str(path))
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_named():
    model = GGLNet(1, 4)
    tensors = model.state_dict()
    with pytest.raises(InputError, match=r"p: not the weights of this GGLNet: it lacks head\.2\.bias$"):
        load_weights(model, {k: v for k, v in tensors.items() if k != "head.2.bias"}, "p")
    with pytest.raises(InputError, match=r"it lacks .* and \d+ more; it has, and the network has not, .*backbone"):
        load_weights(model, BPFPN(1, width=0.125).state_dict(), "p")
    with pytest.raises(InputError, match=r"of another shape are stem\.0\.0\.weight \[5, 1, 3, 3\] for \[4, 1, 3, 3\]"):
        load_weights(model, GGLNet(1, 5).state_dict(), "p")


def test_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "data.dvc").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which the command adds
    torch.save({"model": yolox_s()}, "yolox_s.pth")
    call = ["weights", "import", "yolox_s.pth", "--out", "w.safetensors", "model.width=0.125", "--as"]
    assert run([*call, "nothing"]) == 2
    assert "irstd: --as nothing: no such network" in capsys.readouterr().err
    assert run([*call, "bp-fpn"]) == 0
    assert "irstd train bp-fpn train.init=w.safetensors" in capsys.readouterr().out
