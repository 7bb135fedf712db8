"""The whole road with BP-FPN on real thermal videos: flows on a running stack, and a second clone that pulls and goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from irstd.stack import processes
from tests.integration.conftest import ROOT, git, irstd, new_workspace
from tests.integration.test_road import last
from tests.unit.recordings import shared

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning"),
]

# A view of its own each, so that every split has some.
VIDEOS = [
    *("IR_AIRPLANE_010", "IR_AIRPLANE_040", "IR_AIRPLANE_050", "IR_BIRD_001", "IR_DRONE_015", "IR_DRONE_039"),
    *("IR_DRONE_051", "IR_HELICOPTER_010", "IR_HELICOPTER_033"),
]
LATER = "IR_BIRD_020"
RECIPE = "recipes/bp-fpn-halmstad.yaml"
SMALL = {
    "model.width": 0.0625,
    "data.crop": 64,
    "train.epochs": 3,
    "train.epoch_share": 0.05,
    "train.batch": 4,
    "train.warmup": 5,
    "train.val_every": 3,  # once: it looks at whole frames, and takes longer than the training
    "train.ema": 0.9,
}
OVERRIDES = [f"{key}={value}" for key, value in SMALL.items()]


def copy(videos: list[str], folder: Path) -> Path:
    real = shared("halmstad")
    for name in videos:
        for part, suffix in (("Video_IR", ".mp4"), ("labels_csv", ".csv")):
            (folder / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(real / part / f"{name}{suffix}", folder / part)
    shutil.copy(real / "LICENSE", folder)
    return folder


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, capture_output=True)


def digest(folder: Path) -> str:
    return json.loads((folder / "shards" / "halmstad" / "manifest.json").read_text())["digest"]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A workspace that pushed its recordings to a remote of its own, with free ports for the stack."""
    base = tmp_path_factory.mktemp("mission")
    folder = new_workspace(base / "first")
    shutil.copy(ROOT / "prefect.yaml", folder)
    ports = {name: processes.free_port() for name in ("prefect_port", "mlflow_port", "ray_port", "ray_dashboard_port")}
    (folder / "settings.toml").write_text("[stack]\n" + "".join(f"{k} = {v}\n" for k, v in ports.items()))
    space = yaml.safe_load((folder / "tune_spaces" / "gils_dgr.yaml").read_text())
    space |= {"recipe": RECIPE, "fixed": SMALL, "budget": {"trials": 3}, "confirmation": {"best": 1, "seeds": 2}}
    space["scheduler"] = "none"
    (folder / "tune_spaces" / "small.yaml").write_text(yaml.safe_dump(space))
    (base / "remote").mkdir()
    dvc(folder, "remote", "add", "mine", str(base / "remote"))
    done = irstd(folder, "ingest", str(copy(VIDEOS, base / "source")), "--name", "halmstad", "--push", "mine")
    assert "9 sequences added" in done.stdout and "pushed to mine" in done.stdout
    irstd(folder, "shard")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "nine videos")
    return folder


def flow(folder: Path, name: str, *parameters: str, check: int = 0) -> str:
    return irstd(folder, "run", name, *parameters, check=check, timeout=1500).stdout


def test_flows_train_search_promote_and_detect(first, tmp_path):
    irstd(first, "up")
    try:
        said = flow(first, "train-flow", "model=bp-fpn", f"recipe={RECIPE}", "workers=2", *OVERRIDES)
        assert "AP50" in said and "bp-fpn version 1" in said and "Completed" in said
        said = flow(first, "tune-flow", "space=small")
        assert "confirm" in said and "bp-fpn version 2" in said
        # One group in the gate split: no interval, so the numbers alone are asked to decide.
        irstd(first, "run", "promote-flow", "model=models:/bp-fpn@challenger", "accept_insufficient=true", check=None)
        (run,) = (first / ".irstd" / "sweeps").glob("*/sweep.json")
        assert json.loads(run.read_text())["confirmation"]
        video = tmp_path / "never-seen.mp4"
        shutil.copy(shared("halmstad") / "Video_IR" / f"{LATER}.mp4", video)
        out = tmp_path / "found"
        said = flow(first, "detect-flow", f"video={video}", "model=models:/bp-fpn@champion", f"out={out}")
        (lines,) = out.rglob("detections.jsonl")
        assert len(lines.read_text().splitlines()) > 300
        done = irstd(first, "lineage", "models:/bp-fpn@champion", "--verify")
        assert "broken" not in done.stdout
        assert "champion" in irstd(first, "list", "models").stdout
    finally:
        irstd(first, "down")


def test_a_second_clone_pulls_and_goes_on(first):
    second = first.parent / "second"
    git(first.parent, "clone", "--quiet", str(first), str(second))
    dvc(second, "pull", "-r", "mine")
    irstd(second, "shard")
    assert digest(second) == digest(first)
    splits = json.loads((second / "data" / "halmstad" / "splits.json").read_text())
    done = irstd(second, "ingest", str(copy([LATER], first.parent / "later")), "--name", "halmstad")
    assert "1 sequences added" in done.stdout
    irstd(second, "shard")
    assert digest(second) != digest(first)
    grown = json.loads((second / "data" / "halmstad" / "splits.json").read_text())
    assert splits["groups"].items() <= grown["groups"].items()  # what was given stays
    done = irstd(second, "train", "bp-fpn", "--recipe", RECIPE, "--workers", "1", *OVERRIDES, timeout=900)
    assert last(done)["model"] == "models:/bp-fpn/1"
