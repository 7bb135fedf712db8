"""What a registered version holds, and that it runs without this repository or not at all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from irstd.commands import detect, going_on
from irstd.errors import InputError, WorkError
from irstd.files import sha256_file
from irstd.inference import card, domain, package
from irstd.inference.detector import Detector
from irstd.registry import layers, models, tracking
from irstd.training.preparation import prepare
from tests.unit import versions

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, sample_data, sample_shards):
    with versions.made(tmp_path_factory.mktemp("versions"), sample_data, sample_shards) as found:
        for kind in versions.CONFIGS:
            number = versions.registered(found, kind, kind)
            models.set_alias(found, kind, "champion", number)
        yield found


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(3000, 3100, (4, 34, 46)).astype(np.uint16)


def store(workspace, name: str) -> Path:
    """The folder of a version's package in MLflow's artifacts."""
    (found,) = [
        p.parent
        for p in (workspace.home / "mlflow" / "artifacts").rglob("artifacts/*/package.json")
        if json.loads(p.read_text())["config"]["registry"]["name"] == name
    ]
    return found


@pytest.mark.slow
def test_a_version_runs_with_mlflow_alone(workspace, tmp_path):
    """In a new process, elsewhere, where neither this repository nor what MLflow does not bring can be imported."""
    blocked = (
        "scipy",
        "natsort",
        "pycocotools",
        "fsspec",
        "webdataset",
        "requests_blocked",
        "filelock_blocked",
        "ray",
        "typer",
    )
    code = f"""
import sys
sys.path = [p for p in sys.path if p not in ("", {str(ROOT)!r})]
sys.meta_path = [f for f in sys.meta_path if "editable" not in (type(f).__module__ + repr(f)).lower()]
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name)
import numpy as np, mlflow, mlflow.pyfunc.loaders.code_model
sys.meta_path.insert(0, Block())
try:
    import irstd
    sys.exit("the repository can be imported")
except ModuleNotFoundError:
    pass
mlflow.set_tracking_uri({workspace.mlflow_uri!r})
frames = np.random.default_rng(0).integers(3000, 3100, (4, 34, 46)).astype(np.uint16)
for uri in ("models:/ggl-net@champion", "models:/bp-fpn/1"):
    model = mlflow.pyfunc.load_model(uri)
    rows = model.predict(frames)
    import irstd
    assert {str(ROOT)!r} not in irstd.__file__, irstd.__file__
    print([(r["frame"], r["boxes"], r["scores"]) for r in rows])
    # Each version brings code of its own.
    for name in [m for m in sys.modules if m.partition(".")[0] == "irstd"]:
        del sys.modules[name]
print(len(model.input_example), model.input_example.dtype)
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    for line, uri in zip(lines, ("models:/ggl-net@champion", "models:/bp-fpn/1"), strict=False):
        here = Detector(models.package(workspace, uri))(frames())
        assert line == str([(i, f.boxes_N4.tolist(), f.scores_N.tolist()) for i, f in enumerate(here)])
        assert any(len(f) for f in here)
    assert lines[2] == "3 uint16"


def test_what_a_version_holds(workspace):
    found = models.package(workspace, "models:/bp-fpn@champion")
    folder = found.folder.parents[1]
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    package_files = {"weights.safetensors", "package.json", card.FILE, package.EXAMPLE}
    assert {f"artifacts/{found.folder.name}/{name}" for name in package_files} <= names
    assert "code/irstd/models/bp_fpn/network.py" in names and "MLmodel" in names
    # Nothing that is loaded by unpickling, and nothing of the upper layers.
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    assert not [n for n in names if n.startswith(("code/irstd/registry", "code/irstd/commands", "code/irstd/cluster"))]
    version = models.resolve(workspace, "models:/bp-fpn/1")
    assert version.tags[models.SEAL] == found.sha256
    text = (found.folder / card.FILE).read_text()
    assert version.description.startswith("# bp-fpn\n") and len(version.description) <= models.DESCRIPTION
    for said in (
        "| sample | CC0-1.0 |", "val-best", "ap50 0.25", "strict", "Seen: 14 bits", "34 x 46", "T=3",
        "Intensity rule `frame`", "greater than 0.01", "Not measured on test", found.content["lineage"]["weights_sha256"],
    ):  # fmt: skip
        assert said in text, said
    # Written again from what was read, it is the same.
    assert card.render(found.content) == text
    by_split = found.content["data"][0]["splits"]
    cells = [
        f"{by_split[s]['groups']} groups, {by_split[s]['labelled']} frames" for s in ("train", "val", "gate", "test")
    ]
    assert f"| sample | CC0-1.0 | {' | '.join(cells)} |" in text and len(set(cells)) > 1
    example = np.load(found.folder / package.EXAMPLE, allow_pickle=False)
    assert example.dtype == np.uint16 and example.shape == (3, 32, 48) and example.max() < 2**14
    content = found.content
    assert content["input"] == {"frames": 3, "bit_depths": [14], "sizes": [[34, 46], [40, 32]]}
    groups = content["lineage"]["groups"]["sample"]
    assert sorted(g for split in groups.values() for g in split) == ["a", "b", "c", "d", "e", "empty", "f", "g"]


def test_the_carried_code_needs_five_packages():
    """What detection imports at all, against what MLflow itself requires (pydantic, PyYAML)."""
    import importlib.metadata
    import re

    from irstd.foreign import imported

    inside = [p for p in layers._closure(layers.ROOTS) if not p.startswith("models/classical/")]
    tops = {t for t in imported(layers.source(inside).files) if t not in sys.stdlib_module_names} - {"irstd"}
    assert tops == {"torch", "numpy", "cv2", "safetensors", "pydantic", "yaml"}
    brings = {re.split(r"[^\w-]", r)[0].lower() for r in importlib.metadata.requires("mlflow-skinny")}
    assert {"pydantic", "pyyaml"} <= brings


@pytest.mark.parametrize("name", ["weights.safetensors", "package.json", card.FILE])
def test_an_altered_version_is_refused(workspace, name):
    number = versions.registered(workspace, "ggl-net", f"altered-{name[0].lower()}")
    uri = f"models:/altered-{name[0].lower()}/{number}"
    kept = models.package(workspace, uri)
    # A damaged copy is fetched again.
    path = kept.folder / name
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-2] + b"0\n")
    assert models.package(workspace, uri).sha256 == kept.sha256
    # In the registry itself there is no other.
    path = store(workspace, uri.split("/")[1]) / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0.25", b"0.95") if name == "package.json" else content[:-2] + b"0\n")
    (kept.folder / name).write_bytes(path.read_bytes())
    with pytest.raises(WorkError, match=f"{uri}: .* is not what was registered: {name}") as error:
        models.package(workspace, uri)
    assert "\n" not in str(error.value)
    if name != "package.json":  # MLflow by itself: the package says so
        with pytest.raises(WorkError, match="damaged"):
            Detector.load(path.parent)
    path.unlink()
    with pytest.raises(WorkError, match="gone|cannot be fetched|cannot be read"):
        models.package(workspace, uri)


def test_a_kept_version_whose_source_is_gone(workspace):
    import shutil

    number = versions.registered(workspace, "ggl-net", "gone")
    shutil.rmtree(store(workspace, "gone").parents[1])
    with pytest.raises(WorkError, match=r"the files of gone version 1 (are gone|cannot be fetched)") as error:
        models.package(workspace, f"models:/gone/{number}")
    assert "\n" not in str(error.value)


def test_what_is_given_against_what_was_seen(workspace, tmp_path, capsys):
    found = models.package(workspace, "models:/ggl-net@champion")
    detector = Detector(found)
    with pytest.raises(InputError, match=r"uint16 \[4, 34, 46, 3\]; a model takes one grey channel"):
        detector(np.zeros((4, 34, 46, 3), np.uint16))
    with pytest.raises(InputError, match="counts are whole numbers"):
        detector(np.zeros((4, 34, 46), np.float32))
    content = found.content
    assert domain.check(content, 14, 34, 46) == []
    assert domain.check(content, 8, 64, 80) == [
        "8 bits, the model saw 14: adapted by its intensity rule frame",
        "frames of 64 x 80, the model saw 34 x 46, 40 x 32: taken as they are (data.resize=native)",
    ]
    # Counts of 16-bit type are taken for the model's own depth.
    assert domain.depth_of(content, np.dtype(np.uint16)) == 14 and domain.depth_of(content, np.dtype(np.uint8)) == 8
    for rule, words in (("dataset", "takes 14 bits"), ("full_scale", "takes 8 bits")):
        other = content | {"intensity": content["intensity"] | {"rule": rule}}
        with pytest.raises(InputError, match=f"a 12-bit recording, and the model {words}"):
            domain.check(other, 12)
    cv2.imwrite(str(tmp_path / "still.png"), np.full((20, 24), 90, np.uint8))
    detect.run(workspace, [str(tmp_path / "still.png")], "models:/ggl-net/1", tmp_path / "out", 8, False)
    assert "still.png: 8 bits, the model saw 14: adapted by its intensity rule frame" in capsys.readouterr().out


SEEDS = {
    "n": 3,
    "seeds": [0, 1, 2],
    "runs": ["a", "b", "c"],
    "group": "g",
    "registered": "seed 1: the median",
    "mean": {"iou": 0.5},
    "deviation": {"iou": 0.1},
    "values": {"iou": [0.4, 0.5, 0.6]},
    "last": {"mean": {"iou": 0.4}, "deviation": {"iou": 0.2}, "values": {"iou": [0.2, 0.4, 0.6]}},
}


def test_seeds_and_intervals_are_on_the_card(workspace):
    content = models.package(workspace, "models:/ggl-net@champion").content
    metrics = content["metrics"] | {"seeds": SEEDS, "intervals": {"iou": [0.125, 0.5]}}
    row = {"protocol": "strict", "grid": None, "iou": 0.75, "intervals": {"iou": [0.5, 1.0]}}
    evaluation = {"split": "test", "digests": {"sample": "d" * 64}, "threshold": 0.5, "groups": 12, "protocols": [row]}
    text = card.render(content | {"metrics": metrics}, "mine", [evaluation], ["version 2 promoted"])
    assert "Seeds: 3 (0, 1, 2); registered is seed 1: the median" in text
    assert (
        "best checkpoint iou 0.5 +- 0.1; last epoch iou 0.4 +- 0.2" in text
        and "iou 0.25 [0.125, 0.5]" in text
        and "- version 2 promoted" in text
    )
    assert "| test | strict | native | 0.5 | iou 0.75 [0.5, 1] | 12 | sample `dddddddddddd` |" in text
    assert "Not measured on test" not in text
    short = card.shortened(text, 400)
    assert len(short) <= 400 and card.FILE in short


def test_the_run_and_the_version_carry_the_same_seal(workspace):
    version = models.resolve(workspace, "models:/ggl-net/1")
    run = tracking.client(workspace).get_run(version.run_id)
    assert run.data.tags[f"{models.SEAL}.ggl-net.1"] == version.tags[models.SEAL]


def test_training_starts_from_a_version(workspace, capsys):
    started, origin = going_on.start(workspace, versions.CONFIGS["ggl-net"], "models:/ggl-net@champion")
    assert origin["model"] == "models:/ggl-net/1" and origin["run"].startswith("ggl-net-")
    assert "starts from models:/ggl-net/1 (models:/ggl-net@champion)" in capsys.readouterr().out
    job = replace(prepare(started, workspace.shards), origin=origin)
    assert (
        job.identity.content["init"]
        == models.package(workspace, "models:/ggl-net/1").content["lineage"]["weights_sha256"]
    )
    assert going_on.begin(workspace.runs / job.name, job) == {"init_from": origin}
    with pytest.raises(InputError, match="ggl-net has no alias 'champoin'"):
        going_on.start(workspace, versions.CONFIGS["ggl-net"], "models:/ggl-net@champoin")


@pytest.mark.slow
def test_an_exported_graph_goes_with_its_version(workspace, tmp_path, capsys):
    import mlflow
    import onnx

    from irstd.commands import export
    from irstd.registry import exports, verification

    export.model(workspace, "models:/ggl-net@champion", None, "onnx", True)
    version = models.resolve(workspace, "models:/ggl-net@champion")
    uri = f"models:/ggl-net/{version.version}/exports/model.onnx"
    assert f"attached: {uri}" in capsys.readouterr().out
    file = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    assert sha256_file(file) == version.tags[f"{exports.TAG}onnx"]
    about = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert about["irstd.model"] == f"models:/ggl-net/{version.version}"
    assert about["irstd.package_sha256"] == version.tags[models.SEAL]
    assert (about["irstd.intensity"], about["irstd.bit_depth"]) == ("frame", "14")

    def link():
        fetched = models.package(workspace, "models:/ggl-net@champion", checked=False)
        return dict(verification.verify(workspace, fetched, version, workspace.shards))["exported graphs"]

    assert link() is None
    (kept,) = (workspace.home / "mlflow" / "artifacts").rglob("exports/model.onnx")
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert re.match(r"model.onnx is [0-9a-f]{12}, attached was [0-9a-f]{12}", link())
    kept.unlink()
    assert "model.onnx cannot be read" in link()
