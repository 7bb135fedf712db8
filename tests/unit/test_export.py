"""Exported graphs and ONNX give what the network gives, at any batch, height and width, and say what they are."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from toys import TOYS

from irstd import config as configuration
from irstd.bench import exports
from irstd.cli import run as cli
from irstd.errors import InputError, WorkError
from irstd.export import graph, metadata, pt2
from irstd.export import onnx as onnx_files
from irstd.inference import package
from irstd.inference.detector import Detector
from irstd.models import BPFPN, DetectionAdapter, GGLNet, SegmentationAdapter, build_model
from irstd.models.bp_fpn.postprocess import _suppressed, detections_of
from irstd.models.contract import memory_format, state

if TOYS not in sys.path:
    sys.path.insert(0, TOYS)
from toy_irstd import nets

ROOT = Path(__file__).resolve().parents[2]
# Below a cell, at and across the multiples of both strides.
SIZES = [(1, 33, 70), (2, 48, 64), (1, 17, 5), (1, 1, 1), (3, 1, 20), (1, 16, 200), (4, 64, 32)]


def settled(model, frames: int = 1):
    """With batch statistics of noise: fresh ones let everything saturate, and then nothing differs."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    random = torch.Generator().manual_seed(0)
    x_BTHW = 0.5 + 0.1 * torch.randn(2, frames, 64, 64, generator=random)
    with torch.no_grad():
        model.train()(x_BTHW)
    return model.eval()


def made(name: str):
    torch.manual_seed(1)
    return {
        "ggl-net": lambda: settled(GGLNet(width=4)),
        "ggl-net of the authors": lambda: settled(GGLNet(in_channels=1, width=4, border="authors")),
        "bp-fpn": lambda: settled(BPFPN(frames=3, width=0.0625), 3),
        "bp-fpn of two classes": lambda: settled(BPFPN(frames=2, width=0.0625, classes=2, in_channels=1), 2),
        "module": lambda: SegmentationAdapter(nets.Plain(), stride=8),
        "module of clips": lambda: SegmentationAdapter(nets.Clips(), frames=3, stack=False, stride=4),
        "module of probabilities": lambda: SegmentationAdapter(nets.Probable(), 1, output="probability", stride=4),
    }[name]()


def results(found) -> list[torch.Tensor]:
    return [torch.as_tensor(v) for v in (found if isinstance(found, list | tuple) else [found])]


def largest_difference(model, run, sizes=SIZES) -> float:
    """Between `run(frames)` and the network as it was trained, neither folded nor exported; shapes are compared too."""
    eager = (graph.DetectionGraph if isinstance(model, BPFPN) else graph.SegmentationGraph)(model).eval()
    worst, spread = 0.0, 0.0
    for size in sizes:
        frames_BTHW = graph.example(eager, *size)
        with torch.no_grad():
            expected, found = results(eager(frames_BTHW)), results(run(frames_BTHW))
        assert [f.shape for f in found] == [e.shape for e in expected]
        assert [f.dtype for f in found] == [e.dtype for e in expected]
        worst = max(worst, graph.difference(found, expected, max(size[1:])))
        spread = max(spread, float(expected[-2 if len(expected) > 1 else 0].std(correction=0)))
    assert spread > 1e-5, "nothing could differ"
    return worst


NAMES = [
    "ggl-net", "ggl-net of the authors", "bp-fpn", "bp-fpn of two classes",
    "module", "module of clips", "module of probabilities",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_onnx_gives_what_the_network_gives(tmp_path: Path, name: str) -> None:
    model = made(name)
    exported = graph.graph_of(model, name)
    out = tmp_path / "model.onnx"
    apart = onnx_files.save(exported, out, {"threshold": "0.5"}, name)
    assert 0 <= apart <= 1e-4
    run = onnx_files.session(out.read_bytes())
    assert largest_difference(model, lambda frames: run(frames.numpy())) <= 1e-4
    inputs = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in onnx.load(out).graph.input
    }
    assert inputs == {"frames": ["batch", model.frames, "height", "width"]}


@pytest.mark.parametrize("name", ["module", "module of clips", "module of probabilities"])
def test_an_exported_graph_gives_what_the_network_gives(tmp_path: Path, name: str) -> None:
    _pt2(tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ggl-net", "ggl-net of the authors", "bp-fpn", "bp-fpn of two classes"])
def test_an_exported_graph_of_our_networks(tmp_path: Path, name: str) -> None:
    _pt2(tmp_path, name)


def _pt2(tmp_path: Path, name: str) -> None:
    # As a package gives it.
    model = made(name)
    model = model.to(memory_format=memory_format(model, channels_last=True))
    out = tmp_path / "model.pt2"
    assert pt2.save(graph.graph_of(model, name), out, {"threshold": "0.5"}, name) <= 1e-4
    files = {pt2.METADATA: ""}
    program = torch.export.load(out, extra_files=files)
    assert json.loads(files[pt2.METADATA])["threshold"] == "0.5"
    assert not any("autocast" in str(node.target) for node in program.graph.nodes)
    # PyTorch holds maps of one cell for another program; frames of one cell in both directions are too small for it.
    sizes = [size for size in SIZES if size != (1, 1, 1)]
    assert largest_difference(model, program.module(), sizes) <= 1e-4


@pytest.mark.slow
def test_an_exported_graph_of_ggl_net_cut_short_accepts_any_size() -> None:
    """The whole network is traced in the slow test; what can tie it to a size is in here too."""
    model = made("ggl-net")
    model = settled(GGLNet(width=4, supplement="add", squeeze_excitation=False, fusion="add"))
    for level, stage in enumerate(model.stages):
        model.stages[level] = stage[:1]
    program = pt2.program_of(graph.graph_of(model, "ggl-net"), "ggl-net")
    assert largest_difference(model, program.module(), [(1, 33, 70), (2, 48, 64)]) <= 1e-4


def test_a_network_that_was_folded_before() -> None:
    model = made("bp-fpn")
    run = onnx_files.session(
        onnx_files.model_of(graph.graph_of(model.folded(), "bp-fpn"), {}, "bp-fpn").SerializeToString()
    )
    assert largest_difference(model, lambda frames: run(frames.numpy())) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ggl-net", "bp-fpn"])
def test_full_width(tmp_path: Path, name: str) -> None:
    torch.manual_seed(2)
    model = settled(GGLNet()) if name == "ggl-net" else settled(BPFPN(), 5)
    if name == "bp-fpn":
        # Random weights give boxes as large as the frame, the exponential of what float32 has rounded: 8e-5 of the side already
        # between PyTorch and float64.
        model.head.reg_preds[0].weight.detach().mul_(0.1)
    sizes = [(1, 256, 256), (2, 100, 131)]
    onnx_files.save(graph.graph_of(model, name), tmp_path / "model.onnx", {}, name)
    run = onnx_files.session((tmp_path / "model.onnx").read_bytes())
    assert largest_difference(model, lambda frames: run(frames.numpy()), sizes) <= 1e-4
    pt2.save(graph.graph_of(model, name), tmp_path / "model.pt2", {}, name)
    assert largest_difference(model, torch.export.load(tmp_path / "model.pt2").module(), sizes) <= 1e-4


def test_boxes_with_their_overlaps_suppressed_are_what_predict_gives() -> None:
    model = made("bp-fpn of two classes")
    exported = graph.graph_of(model, "bp-fpn")
    frames_BTHW = graph.example(exported, 2, 44, 70)
    boxes_BA4, scores_BA, classes_BA = (v.numpy() for v in exported(frames_BTHW))
    with torch.no_grad():
        expected = detections_of(model(frames_BTHW), 44, 70)
    for boxes, scores, classes, theirs in zip(boxes_BA4, scores_BA, classes_BA, expected, strict=True):
        kept = (boxes[:, 2:] > 0).all(1) & (scores >= model.min_score)
        found = _suppressed(boxes[kept], scores[kept], classes[kept], model.nms)
        assert len(theirs) > 1
        np.testing.assert_allclose(found.boxes_N4, theirs.boxes_N4, atol=1e-3)
        np.testing.assert_allclose(found.scores_N, theirs.scores_N, atol=1e-5)


# What cannot be


class Sized(nn.Module):
    """Holds on to the size of what it saw first."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        if x.shape[-1] > 60:
            return self.body(x) + 1
        return self.body(x)


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        values = self.body(x).detach().numpy()
        return torch.from_numpy(np.sort(values))


def test_a_graph_that_depends_on_the_size_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    with pytest.raises(
        WorkError, match="m: what was exported differs from the network by .* at batch 1, 33 x 70; it depends"
    ):
        onnx_files.save(graph.graph_of(SegmentationAdapter(Sized()), "m"), out, {}, "m")
    assert not out.exists()


def test_nan_and_another_shape_are_differences() -> None:
    boxes, scores = torch.rand(2, 6, 4), torch.rand(2, 6)
    assert graph.difference([boxes, scores], [boxes, scores], 64) == 0
    for wrong in ([boxes, torch.full_like(scores, torch.nan)], [boxes * torch.nan, scores]):
        assert not graph.difference(wrong, [boxes, scores], 64) <= graph.TOLERANCE
    flat = torch.full((2, 5, 7), 0.5)
    assert graph.difference([flat[:1]], flat, 64) == float("inf")


def test_a_module_that_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    exported = graph.graph_of(SegmentationAdapter(Unknown()), "mine")
    with pytest.raises(InputError, match=r"\Amine: torch.export cannot export it: [^\n]+\Z"):
        pt2.save(exported, tmp_path / "m.pt2", {}, "mine")
    # What numpy does is a constant of a trace.
    with pytest.raises((InputError, WorkError), match=r"\Amine: [^\n]+\Z"):
        onnx_files.save(exported, tmp_path / "m.onnx", {}, "mine")
    assert not list(tmp_path.iterdir())


def test_a_detector_of_ones_own_is_refused() -> None:
    with pytest.raises(InputError, match="mine: Boxes suppresses overlaps itself"):
        graph.graph_of(DetectionAdapter(nets.Boxes()), "mine")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_files, "NEEDS", ("onnx", "no_such_runtime"))
    with pytest.raises(InputError, match=r"ONNX needs no_such_runtime: pip install 'irstd\[export\]'"):
        onnx_files.save(graph.graph_of(made("module"), "m"), tmp_path / "m.onnx", {}, "m")


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a tiny GGL-Net for 8 bits."""
    config = configuration.load(overrides={"model.width": 4})
    torch.manual_seed(3)
    model = settled(build_model(config))
    place = tmp_path_factory.mktemp("export") / "run" / "package"
    package.write(place, state(model), config, [], lineage={}, metrics={"chosen": "last"})
    return place


def test_the_command_writes_onnx_that_says_what_it_is(trained: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "model.onnx"
    # A run's folder, as well as the package in it.
    assert cli(["export", str(trained.parent), "--to", "onnx", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"largest difference from the network \S+ \(goal 0.0001\)", said)
    about = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    read = package.Package.read(trained)
    expected = {
        "model": str(trained.parent), "network": "ggl-net", "task": "segmentation", "frames": "1", "threshold": "0.5",
        "intensity": "auto", "bit_depth": "8", "resize": "native", "classes": '["target"]',
        "weights_sha256": read.files[package.WEIGHTS], "package_sha256": read.sha256,
    }  # fmt: skip
    assert expected.items() <= {k.removeprefix("irstd."): v for k, v in about.items()}.items()
    assert "multiples of 16" in about["irstd.padding"] and float(about["irstd.difference"]) <= 1e-4
    assert cli(["export", str(trained), "--to", "onnx", "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_metadata_of_a_detector(tmp_path: Path) -> None:
    config = configuration.load(overrides={"model.width": 0.0625, "model.frames": 3}, model="bp-fpn")
    model = build_model(config).eval()
    made = package.write(tmp_path / "p", state(model), config, [], lineage={}, metrics={"chosen": "last"})
    about = metadata.of(made, graph.graph_of(model, "b"), "models:/b/1")
    assert (about["frames"], about["model"], about["largest"]) == ("3", "models:/b/1", "100")
    assert float(about["nms"]) == model.nms and "multiples of 32" in about["padding"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{p}", "--to", "onx", "--out", "m.onnx"], "--to onx: say onnx or pt2 (did you mean 'onnx'?)"),
        (["{p}", "--to", "onnx"], "--out: name a new file, such as model.onnx; or --attach it"),
        (["{p}", "--to", "onnx", "--out", "m.pt2"], "--out m.pt2: name a file that ends in .onnx"),
        (["{p}", "--to", "onnx", "--attach"], "--attach is for a registered version"),
        (["{p}", "--out", "m.onnx"], "is a model; say --to onnx or --to pt2"),
        (["nowhere", "--to", "onnx", "--out", "m.onnx"], "nowhere: no model here; give models:/NAME@ALIAS"),
        (["{p}", "--to", "onnx", "--out", "m.onnx", "--format", "coco"], "--format: is of a set"),
    ],
)
def test_bad_usage_is_one_line(trained: Path, capsys, arguments: list[str], line: str) -> None:
    assert cli(["export", *(a.replace("{p}", str(trained)) for a in arguments)]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1


def test_the_example_of_the_page_runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mask is the detector's."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/EXPORT.md").read_text(encoding="utf-8"), re.S)[:1]
    (tmp_path / "data.dvc").touch()
    monkeypatch.chdir(tmp_path)
    assert cli(["export", str(trained), "--to", "onnx", "--out", "ggl-net.onnx"]) == 0
    frames_THW = np.random.default_rng(0).integers(100, 156, (3, 40, 52), np.uint8)
    np.save("frames.npy", frames_THW)
    names: dict[str, object] = {}
    exec(code, names)
    found = np.stack([item.mask_HW for item in Detector.load(trained)(frames_THW)])
    assert 0 < found.mean() < 1
    assert (names["mask_THW"] == found).mean() > 0.999  # a pixel at the threshold may fall to either side


# The benchmark


@pytest.mark.slow
def test_the_benchmark_sets_three_side_by_side() -> None:
    report = exports.measure(0.05, (32,), ggl_width=4, bp_width=0.0625)
    assert [what for what, _ in report.ratios] == [
        f"{name} 32x32: {side} / torch" for name in ("GGL-Net", "BP-FPN") for side in ("exported graph", "onnxruntime")
    ]
    assert all(float(row["difference"]) <= 1e-4 for row in report.rows if row["side"] != "torch")
    assert [row["side"] for row in report.rows] == ["torch", "exported graph", "onnxruntime"] * 2
