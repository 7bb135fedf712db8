"""Networks that are not ours: found, made, fed, hashed, carried along, and refused in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import Keeper

from irstd import config as configuration
from irstd import foreign
from irstd.commands.train import prepare
from irstd.config import Config
from irstd.data.manifest import read_all
from irstd.errors import InputError, WorkError
from irstd.inference import package
from irstd.inference.detector import Detector
from irstd.models import DetectionAdapter, SegmentationAdapter, build_model
from irstd.training import loop, step
from irstd.training.identity import identity
from irstd.workspace import Workspace

TOYS = Path(__file__).resolve().parent.parent / "toy_networks"


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A folder of someone's: a package, a module beside it that it imports, and one that it does not."""
    place = tmp_path / "theirs"
    shutil.copytree(TOYS, place, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "unrelated.py").write_text("raise RuntimeError\n")
    # Other test files import the same networks from where they lie, in the same process.
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("toy_")}
    monkeypatch.setattr(sys, "path", [str(place), *(p for p in sys.path if p != str(TOYS))])
    yield place
    for name in [m for m in sys.modules if m.startswith("toy_")]:
        del sys.modules[name]
    sys.modules.update(others)


def config(name: str, **more) -> Config:
    overrides = {"data.crop": 32, "train.batch": 4, "train.epochs": 2, "train.lr": 1e-3}
    return configuration.load(
        overrides=overrides | {k.replace("__", "."): v for k, v in more.items()}, model=f"toy_irstd.nets:{name}"
    )


def batch(frames=1, sizes=((32, 40), (24, 36)), seed=0):
    random = np.random.default_rng(seed)
    height, width = (max(s[i] for s in sizes) for i in (0, 1))
    count = len(sizes)
    found = {
        "frames": random.integers(100, 400, (count, frames, height, width)).astype(np.uint16),
        "masks": np.zeros((count, height, width), np.uint8),
        "offset": np.full(count, 100, np.float32),
        "scale": np.full(count, 1 / 300, np.float32),
        "size": np.array(sizes, np.int64),
        "boxes": [np.array([[4, 5, 3, 2]], np.float32)] * count,
        "key": [("s/q", b) for b in range(count)],
    }
    found["masks"][:, 5:7, 4:7] = 1
    return found


# -- the configuration -------------------------------------------------------------------------------------------


def test_options_task_and_frames_reach_the_class(toys):
    found = config("Plain", model__options__width=6)
    assert (found.model.task, found.model.frames, found.objective, found.registered_name) == (
        "segmentation", 1, "iou", "plain"
    )  # fmt: skip
    assert build_model(found).module.head.in_channels == 6
    assert config("Boxes").model.task == "detection" and config("Boxes").objective == "ap50"
    assert config("Clips").model.frames == 3
    # What workers get: nothing of the class is asked again.
    assert Config.model_validate(found.model_dump(mode="json")) == found
    values = configuration.flatten(found.model_dump(mode="json"), "here")
    assert values["model.options.width"] == 6 and configuration.nest(values)["model"]["options"] == {"width": 6}


def test_an_entry_point_stands_for_its_class(toys, monkeypatch):
    place = toys / "toy_dist-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-dist\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text("[irstd.models]\ntoy-net = toy_irstd.nets:Plain\n")
    found = configuration.load(model="toy-net")
    assert found.model.name == "toy_irstd.nets:Plain"
    with pytest.raises(InputError, match="unknown model 'toy-nt' .did you mean 'toy-net'.*package.module:Class"):
        configuration.load(model="toy-nt")


def test_flows_pass_options_on(toys):
    from pipelines.parameters import given

    found = Config(model={"name": "toy_irstd.nets:Plain", "options": {"width": 6}})
    assert given(found) == {"model.name": "toy_irstd.nets:Plain", "model.options.width": 6}


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("toy_nowhere.nets:Net", {}, "there is no module 'toy_nowhere'"),
        ("toy_irstd.nowhere:Net", {}, "there is no module 'toy_irstd.nowhere'"),
        ("toy_irstd.nets:Plian", {}, "has no 'Plian' .did you mean 'Plain'"),
        ("toy_irstd.nets", {}, "unknown model 'toy_irstd.nets'.*package.module:Class"),
        ("toy irstd:Net", {}, "names no network"),
        ("toy_irstd.nets:toy_beside", {}, "is a module, not a class"),
        ("toy_irstd.nets:nothing", {}, "gives a str, not a torch.nn.Module"),
        ("toy_irstd.nets:Plain", {"model.options.widht": 3}, "unexpected keyword argument 'widht'"),
        ("toy_irstd.nets:Plain", {"model.options.width": "x"}, "cannot be made with width='x'"),
        ("toy_irstd.nets:Plain", {"model.options.channels": 2, "model.frames": 3}, "takes 2 channels; set model.frames"),
        ("toy_irstd.nets:Frozen", {}, "has no convolution"),
        ("toy_irstd.nets:Frozen", {"model.adapter.in_channels": 1}, "no parameters to train"),
        ("toy_irstd.nets:Adapted", {"model.adapter.stride": 4}, "model.adapter decides nothing"),
        ("toy_irstd.nets:Adapted", {"model.frames": 3}, "has frames 1; set model.frames=1"),
        ("toy_irstd.nets:Plain", {"model.width": 3}, "has no such option"),
        ("toy_irstd.nets:Plain", {"model.options.a.b": 3}, "names no option"),
        ("toy_irstd.nets:Plain", {"model.task": "guessing"}, "model.task=guessing"),
        ("toy_irstd.nets:WrongShape", {}, r"Plain|WrongShape gives \[2, 1, 31, 32\] .*expected a map \[2, 1, 32, 32\]"),
        ("toy_irstd.nets:NotANumber", {}, "NotANumber gives NaN or infinity"),
        ("toy_irstd.nets:Breaks", {}, r"fails on a batch of frames \[2, 1, 32, 32\]: RuntimeError: the sizes"),
        ("toy_irstd.nets:Sided", {"model.adapter.pick": "out"}, "gives 2 maps, and pick='out' is none of them"),
        ("toy_irstd.nets:Hidden", {}, r"in \[0, 1\] alone.*model.adapter.output=probability"),
        ("toy_irstd.nets:Plain", {"model.adapter.output": "probability"}, r"outside \[0, 1\]"),
        ("toy_irstd.nets:Plain", {"model.task": "detection"}, "forward.. takes 2 positional arguments but 3"),
    ],
)  # fmt: skip
def test_a_network_that_will_not_do_is_one_line(toys, sample_shards, name, more, words):
    torch.manual_seed(0)
    with pytest.raises(InputError, match=words) as caught:
        pairs = [f"{key}={value}" for key, value in more.items()]
        overrides = {"data.crop": 32, "train.batch": 4} | configuration.parse_overrides(pairs)
        prepare(configuration.load(overrides=overrides, model=name), sample_shards)
    assert "\n" not in str(caught.value)


def test_logits_that_begin_within_0_and_1_are_logits(toys, sample_shards):
    chosen = config("Shy")
    map_B1HW = build_model(chosen).eval()(torch.rand(1, 1, 32, 32))
    assert map_B1HW.min() > 0 and map_B1HW.max() < 1
    prepare(chosen, sample_shards)


def test_a_package_whose_import_fails_says_why(toys):
    (toys / "toy_irstd" / "broken.py").write_text("import toy_missing\n")
    with pytest.raises(InputError, match="imports 'toy_missing', which is not installed"):
        foreign.find("toy_irstd.broken:Net")
    (toys / "toy_irstd" / "script.py").write_text("import sys\nsys.exit('usage: train.py')\n")
    with pytest.raises(InputError, match="importing toy_irstd.script fails: SystemExit: usage"):
        foreign.find("toy_irstd.script:Net")


def test_the_working_folder_and_the_workspace_are_searched(tmp_path, monkeypatch):
    """Whatever the command was started as: `python -m irstd` has the working folder on its path, `irstd` has not."""
    below = tmp_path / "notes"
    below.mkdir()
    (tmp_path / "data.dvc").touch()
    (tmp_path / "toy_root.py").write_text("class Net: pass\n")
    (below / "toy_here.py").write_text("class Net: pass\n")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(below)
    Workspace.find().enter()
    assert foreign.find("toy_root:Net").__module__ == "toy_root" and foreign.find("toy_here:Net")
    for name in ("toy_root", "toy_here"):
        del sys.modules[name]


# -- adapters ----------------------------------------------------------------------------------------------------


def test_an_adapter_gives_what_its_module_gives(toys):
    """Without padding, on the true part of each frame; and the loss is that of the module's own logits."""
    torch.manual_seed(0)
    model = build_model(config("Plain", model__adapter__stride=1)).eval()
    given = batch()
    for b, found in enumerate(model.predict(given)):
        height, width = given["size"][b]
        x = (torch.from_numpy(given["frames"][b, -1, :height, :width].astype(np.float32)) - 100) / 300
        expected = torch.sigmoid(model.module(x[None, None]))[0, 0].detach().numpy()
        np.testing.assert_allclose(found.probability_HW, expected, atol=1e-6)


def test_padding_to_a_stride_is_taken_back(toys):
    seen = []
    model = build_model(config("Plain", model__adapter__stride=16)).eval()
    model.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert model(torch.rand(1, 1, 17, 33)).shape == (1, 1, 17, 33)
    assert seen[0].shape == (1, 1, 32, 48)
    assert torch.equal(seen[0][..., 17:, :33], seen[0][..., 16:17, :33].expand(-1, -1, 15, -1))


@pytest.mark.parametrize(
    ("channels", "frames", "expected"), [(1, 1, (1,)), (3, 1, (3,)), (3, 3, (3,)), (9, 3, (9,))]
)  # fmt: skip
def test_what_the_first_convolution_takes_tells_how_frames_are_fed(toys, channels, frames, expected):
    seen = []
    model = build_model(config("Plain", model__options__channels=channels, model__frames=frames)).eval()
    model.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    given = batch(frames, sizes=((32, 32),))
    model.predict(given)
    assert tuple(seen[0].shape[1:-2]) == expected
    x_THW = (torch.from_numpy(given["frames"][0].astype(np.float32)) - 100) / 300
    torch.testing.assert_close(seen[0][0], x_THW.repeat_interleave(channels // frames, 0))


def test_clips_with_an_axis_of_their_own(toys):
    model = build_model(config("Clips")).to(memory_format=torch.contiguous_format).eval()
    seen = []
    model.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    (found,) = model.predict(batch(3, sizes=((32, 32),)))
    assert seen[0].shape == (1, 1, 3, 32, 32) and found.probability_HW.shape == (32, 32)


def test_deep_supervision_is_the_mean_over_all_maps(toys):
    torch.manual_seed(0)
    one = build_model(config("Sided")).train()
    both = SegmentationAdapter(one.module, stride=32, deep=True)
    both.loss_config = one.loss_config
    side = SegmentationAdapter(one.module, stride=32, pick=0)
    given = batch()
    logit, small = one.maps(one.inputs(one.arrived(given))[0]), both.maps(one.inputs(one.arrived(given))[0])
    assert len(logit) == 1 and len(small) == 2 and small[1].shape == small[0].shape
    total, parts = both.loss(given)
    single, own = one.loss(given)
    assert parts == own and not torch.isclose(total, single)
    with pytest.raises(InputError, match=r"gives \[2, 1, 16, 32\] for frames \[2, 1, 32, 64\]"):
        side.loss(given)


def test_probabilities_become_logits_and_back(toys):
    torch.manual_seed(0)
    model = build_model(config("Probable")).eval()
    assert model.output == "probability"
    x_BTHW = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(torch.sigmoid(model(x_BTHW)), model.module(x_BTHW), atol=2e-6, rtol=1e-5)
    certain = SegmentationAdapter(torch.nn.Hardtanh(0, 1), output="probability")
    assert torch.isfinite(certain(torch.tensor([[[[0.0, 1.0]]]]))).all()


def test_boxes_go_in_as_corners_and_come_out_in_original_pixels(toys):
    told = []

    class Module(torch.nn.Module):
        weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, targets=None):
            if targets is not None:
                told.extend(targets)
                return {"box": self.weight * 2, "score": self.weight + 3}
            boxes = torch.tensor([[1.0, 2.0, 5.0, 9.0], [-3.0, 4.0, 6.0, 8.0], [90.0, 1.0, 99.0, 5.0]])
            return [{"boxes": boxes, "scores": torch.tensor([0.2, 0.9, 0.5])} for _ in x]

    model = DetectionAdapter(Module(), label=3)
    model.register_parameter("weight", torch.nn.Parameter(torch.zeros(())))
    total, parts = model.loss(batch())
    assert float(total.detach()) == 3 and {k: float(v) for k, v in parts.items()} == {"box": 0, "score": 3}
    assert told[0]["boxes"].tolist() == [[4, 5, 7, 7]] and told[0]["labels"].tolist() == [3]
    for found in model.predict(batch()):
        # By score, cut at the border; what lies outside is gone.
        assert found.boxes_N4.tolist() == [[0, 4, 6, 4], [1, 2, 4, 7]]
        assert found.scores_N.tolist() == pytest.approx([0.9, 0.2])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (torch.zeros(2, 4), r"gives a tensor \[2, 4\] for 2 frames"),
        ([{}], "gives a list of 1 for 2 frames"),
        ([{"boxes": torch.zeros(1, 4)}] * 2, "a dict of boxes, not a dict with boxes and scores"),
        ([{"boxes": torch.zeros(2, 4), "scores": torch.zeros(1)}] * 2, r"boxes \[2, 4\] with scores \[1\]"),
        ([{"boxes": torch.full((1, 4), torch.nan), "scores": torch.zeros(1)}] * 2, "NaN or infinite"),
    ],
)
def test_boxes_that_are_none(answer, words):
    module = torch.nn.Conv2d(1, 1, 1)
    module.forward = lambda x: answer
    with pytest.raises(InputError, match=words):
        DetectionAdapter(module).predict(batch(sizes=((32, 32), (32, 32))))
    module.forward = lambda x, targets: answer
    with pytest.raises(InputError, match="no dict of losses in training"):
        DetectionAdapter(module).train().loss(batch())


# -- the code ----------------------------------------------------------------------------------------------------


def test_the_code_is_the_package_and_what_it_imports_beside_it(toys):
    source = foreign.Source.of("toy_irstd.nets:Plain")
    assert list(source.files) == ["toy_beside.py", "toy_irstd/__init__.py", "toy_irstd/nets.py", "toy_irstd/parts.py"]
    assert [r.partition("==")[0] for r in source.requirements()] == ["torch"]
    assert foreign.Source.of("irstd.models.ggl_net:GGLNet").files == {}
    with source.unpacked():
        assert foreign.Source.of("toy_irstd.nets:Plain").hash == source.hash


def test_a_copy_that_is_gone_leaves_nothing_imported(toys, monkeypatch):
    source = foreign.Source.of("toy_irstd.nets:Plain")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(toys)])
    with pytest.raises(InputError, match="there is no module"):
        foreign.find("toy_irstd.nets:Plain")
    with source.unpacked():
        assert foreign.find("toy_irstd.nets:Plain").__name__ == "Plain"
    assert not [m for m in sys.modules if m.startswith("toy_")]


def test_identity_knows_the_code_and_not_its_comments(toys, sample_shards):
    manifests = read_all(sample_shards)
    chosen = config("Plain")
    first = identity(chosen, manifests)
    assert first.name.startswith("plain-")
    parts, text = toys / "toy_irstd" / "parts.py", (toys / "toy_irstd" / "parts.py").read_text()
    parts.write_text(f'"""Parts."""\n# why\n{text}')
    assert identity(chosen, manifests) == first
    parts.write_text(text.replace("nn.ReLU()", "nn.SiLU()"))
    assert identity(chosen, manifests) != first
    parts.write_text(text)
    (toys / "toy_beside.py").write_text("SCALE = 2.0\n")
    assert identity(chosen, manifests) != first
    assert identity(config("Plain", model__options__width=5), manifests).content["code"] != first.content["code"]


def test_code_that_is_too_large_is_refused(toys, monkeypatch):
    monkeypatch.setattr(foreign, "LARGEST", 1000)
    (toys / "toy_irstd" / "table.csv").write_text("1," * 1000)
    with pytest.raises(InputError, match="move data out of"):
        foreign.Source.of("toy_irstd.nets:Plain")


def test_a_compiled_package_is_a_requirement_and_not_carried(toys):
    (toys / "toy_irstd" / "fast.so").write_bytes(b"")
    source = foreign.Source.of("toy_irstd.nets:Plain")
    assert source.installed == ("toy_irstd",)
    assert list(source.travels()) == ["toy_beside.py"] and "toy_irstd/nets.py" in source.files


# -- training, packages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Plain", "Boxes", "Clips", "Adapted"])
def test_it_trains_and_its_package_runs_without_it(toys, sample_shards, tmp_path, name):
    """A package detects where the network is not installed, and with the code that it was trained with where it is."""
    chosen = config(name)
    job = prepare(chosen, sample_shards)
    keeper = Keeper(tmp_path / "run")
    loop.fit(chosen, sample_shards, keeper, log=lambda line: None)
    assert np.isfinite(keeper.metrics[-1]["loss"])
    best = tmp_path / "run" / "epoch-2" / "best.safetensors"
    source = foreign.Source.of(chosen.model.network)
    folder = tmp_path / "package"
    package.write(folder, best, chosen, job.manifests, {}, {}, source)
    frames_THW = np.random.default_rng(0).integers(3000, 3100, (4, 34, 46)).astype(np.uint16)
    mine = sys.modules["toy_irstd.nets"]
    here = Detector.load(folder)
    assert sys.modules["toy_irstd.nets"] is mine
    expected = [(f.boxes_N4.tolist(), f.scores_N.tolist()) for f in here(frames_THW, 14)]
    # Another state of the code goes by the same name now, and goes on doing so.
    (toys / "toy_irstd" / "nets.py").write_text("raise RuntimeError('edited')\n")
    for module in [m for m in sys.modules if m.startswith("toy_")]:
        del sys.modules[module]
    again = Detector.load(folder)(frames_THW, 14)
    assert [(f.boxes_N4.tolist(), f.scores_N.tolist()) for f in again] == expected
    with pytest.raises(InputError, match="edited"):
        foreign.find("toy_irstd.nets:Plain")
    assert not list(folder.rglob("__pycache__"))
    if name == "Plain":
        # A module that came beside the others would be imported before anything of its name.
        (folder / "code" / "json.py").write_text("raise RuntimeError('not ours')\n")
        with pytest.raises(WorkError, match=r"json.py: was not there when the package was written"):
            Detector.load(folder)
        (folder / "code" / "json.py").unlink()
        code = f"""
import shutil, sys, numpy as np
from irstd.inference.detector import Detector
frames = np.random.default_rng(0).integers(3000, 3100, (4, 34, 46)).astype(np.uint16)
found = Detector.load({str(folder)!r})(frames, 14)
print([(f.boxes_N4.tolist(), f.scores_N.tolist()) for f in found], "toy_irstd" in sys.modules)
shutil.rmtree({str(folder / "code")!r})
for name in [m for m in sys.modules if m.startswith("toy_")]:
    del sys.modules[name]
Detector.load({str(folder)!r})
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == f"{expected} True", done.stderr
        assert "code/toy_" in done.stderr and "cannot be read" in done.stderr


@pytest.mark.parametrize("name, more", [("Plain", {"label": 2}), ("Boxes", {"deep": True}), ("Boxes", {"pick": 0})])
def test_an_adapters_option_of_the_other_task_is_refused(toys, name, more):
    (option,) = more
    with pytest.raises(InputError, match=rf"adapter\.{option} decides nothing"):
        config(name, **{f"model__adapter__{option}": more[option]})


# -- in a step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distort", ["data__noise", "data__zoom"])
def test_new_pixels_get_the_map_of_the_operator_that_was_asked_for(toys, monkeypatch, distort):
    """A network that is not ours has its operator in `model.gradient`."""
    chosen = config("Plain", model__gradient="sobel", **{distort: 0.1})
    seen = []
    for name in ("zoomed", "noisy"):
        own = getattr(step, name)

        def spy(batch, *values, own=own):
            seen.append(values[-1])
            return own(batch, *values)

        monkeypatch.setattr(step, name, spy)
    stepper = step.Stepper(build_model(chosen), chosen, total=1)
    stepper(batch() | {"seeds": np.arange(2, dtype=np.uint64)}, 0)
    assert seen == ["sobel", "sobel"]


@pytest.mark.parametrize("name", ["Plain", "Sided", "Boxes"])
def test_what_is_compiled_is_what_the_loss_calls(toys, name):
    model = build_model(config(name, model__adapter__deep=True) if name == "Sided" else config(name))
    called = []
    for part in model.compiled_parts():
        part.register_forward_hook(lambda module, *_: called.append(module))
    model.loss(batch())
    assert called == model.compiled_parts()
