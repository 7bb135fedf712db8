"""Somebody else's network on the whole road: trained by its name, registered, pulled, and run where it is not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.conftest import irstd
from tests.integration.forks import forked
from tests.integration.test_road import last

ROOT = Path(__file__).resolve().parents[2]
NAME = "toy_irstd.nets:Sided"
TINY = ["train.epochs=2", "data.crop=32", "train.batch=4", "model.options.width=4"]


@pytest.fixture(scope="module")
def theirs(workspace):
    """The package lies in the workspace, as a researcher's own would."""
    for path in (ROOT / "tests" / "toy_networks").iterdir():
        if path.is_dir():
            shutil.copytree(path, workspace / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, workspace / path.name)
    return workspace


@pytest.fixture(scope="module")
def trained(theirs, tmp_path_factory):
    """A run of two workers of a network that leaves parameters unused; what the command printed, and its package."""
    out = tmp_path_factory.mktemp("package") / "toy"
    done = irstd(
        theirs, "train", NAME, "--workers", "2", "--out", str(out), *TINY
    )  # fmt: skip
    return done, out


@pytest.mark.slow
def test_it_is_trained_and_registered_under_its_class(theirs, trained):
    done, out = trained
    found = last(done)
    assert found["model"] == "models:/sided/1" and found["run"].startswith("sided-")
    assert "epoch 2/2" in done.stdout and "2 worker(s)" in done.stdout
    again = irstd(theirs, "train", NAME, *TINY)
    assert "trained before" in again.stdout and last(again) == found
    assert "holds   network's code" in irstd(theirs, "lineage", "models:/sided@champion", "--verify").stdout
    assert {p.name for p in (out / "code").iterdir()} == {"toy_irstd", "toy_beside.py"}


@pytest.fixture
def gone(theirs, trained, tmp_path):
    """The workspace without the package."""
    for name in ("toy_irstd", "toy_beside.py"):
        (theirs / name).rename(tmp_path / name)
    yield theirs
    for name in ("toy_irstd", "toy_beside.py"):
        (tmp_path / name).rename(theirs / name)


@pytest.mark.slow
def test_a_version_runs_without_this_repository_and_without_the_package(gone, tmp_path):
    code = f"""
import sys
sys.path = [p for p in sys.path if p not in ("", {str(ROOT)!r})]
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in type(f).__module__ and "editable" not in repr(f).lower()]
import numpy as np, mlflow
mlflow.set_tracking_uri("sqlite:///{gone}/.irstd/mlflow/mlflow.db")
model = mlflow.pyfunc.load_model("models:/sided@champion")
import irstd, toy_irstd
found = model.predict(np.full((3, 40, 52), 4000, np.uint16))
print(len(found), sorted(found[0]), {str(ROOT)!r} in irstd.__file__, "artifacts" in toy_irstd.__file__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[-2] == "3 ['boxes', 'frame', 'scores'] False True", done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["version", "folder"])
def test_it_detects_and_is_scored_without_the_package(gone, trained, tmp_path, kind):
    uri = "models:/sided@challenger" if kind == "version" else str(trained[1])
    video = next((gone / "data" / "sample").glob("*/*.mkv"))
    irstd(
        gone, "detect", str(video), "--model", uri, "--out", str(tmp_path / "o"), "--bit-depth", "14", "--no-overlay"
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "o" / "detections.jsonl").read_text().splitlines()]
    assert len(rows) == json.loads((video.parent / "sequence.json").read_text())["frames"]
    if kind == "folder":
        irstd(gone, "evaluate", uri, "--split", "val", "--out", str(tmp_path / "numbers.json"))
        kept = json.loads((trained[1] / "package.json").read_text())["metrics"]["values"]
        found = json.loads((tmp_path / "numbers.json").read_text())["protocols"][0]
        assert found["fa"] == pytest.approx(kept["fa"], rel=1e-4)


@pytest.mark.slow
def test_a_search_over_its_options(theirs, trained):
    space = {
        "model": NAME,
        "fixed": {p.split("=")[0]: yaml.safe_load(p.split("=")[1]) for p in TINY[:3]} | {"train.epochs": 1},
        "space": {"model.options.width": {"choice": [4, 6]}},
        "search": "grid",
        "confirmation": "none",
    }
    (theirs / "tune_spaces" / "theirs.yaml").write_text(yaml.safe_dump(space))
    found = last(irstd(theirs, "tune", "theirs"))
    assert found["best"]["model.options.width"] in (4, 6) and found["model"] == "models:/sided/2"


@pytest.mark.slow
def test_boxes_of_somebody_elses_network(theirs):
    done = irstd(
        theirs, "train", "toy_irstd.nets:Boxes", "registry.name=theirs", *TINY
    )  # fmt: skip
    assert last(done)["model"] == "models:/theirs/1" and "val ap50" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["toy_nowhere:Net"], "there is no module 'toy_nowhere'"),
        (["toy_irstd.nets:Nothing"], "has no 'Nothing'"),
        (["toy_irstd.nets:nothing"], "not a torch.nn.Module"),
        (["toy_irstd.nets:Plain", "model.options.depth=3"], "unexpected keyword argument 'depth'"),
        (["toy_irstd.nets:WrongShape"], "expected a map"),
        (["toy_irstd.nets:NotANumber"], "gives NaN or infinity"),
    ],
)
def test_one_that_will_not_do_is_one_line(theirs, arguments, words):
    done = forked(theirs, "train", *arguments, "data.crop=32", "train.batch=4", check=2)
    assert done.stdout == "" and words in done.stderr and done.stderr.count("\n") == 1
