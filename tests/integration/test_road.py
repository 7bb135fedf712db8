"""The road from raw video to detections, by the commands a user types, with the real DVC, Ray and MLflow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml

from tests.integration.conftest import irstd, new_workspace
from tests.integration.forks import forked

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")

TINY = ["train.epochs=2", "train.val_every=1", "data.crop=32", "train.batch=4", "model.width=4"]


def last(done: subprocess.CompletedProcess[str]) -> dict:
    """The result that a command prints for flows."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("irstd-result: ")]
    assert len(lines) == 1, done.stdout
    return json.loads(lines[0].removeprefix("irstd-result: "))


@pytest.fixture(scope="module")
def trained(workspace):
    """A run of two workers under Ray Train, registered; what the command printed."""
    return irstd(workspace, "train", "ggl-net", "--recipe", "recipes/demo.yaml", "--workers", "2", *TINY)


def test_ingest_again_changes_nothing(workspace, source):
    before = (workspace / "data.dvc").read_text()
    done = forked(workspace, "ingest", str(source), "--name", "sample")
    assert "0 sequences added" in done.stdout and "nothing has changed" in done.stdout
    assert (workspace / "data.dvc").read_text() == before


def test_shard_again_keeps_what_is_there(workspace):
    tars = {p: p.stat().st_mtime_ns for p in (workspace / "shards").rglob("*.tar")}
    assert tars
    done = forked(workspace, "shard")
    assert "nothing has changed" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in (workspace / "shards").rglob("*.tar")} == tars


def test_training_registers_a_version(trained):
    found = last(trained)
    assert found["model"] == "models:/ggl-net/1"
    assert "2 worker(s) with 1 CPU each" in trained.stdout
    assert "epoch 2/2" in trained.stdout
    # The numbers carry what they depend on.
    assert "strict, grid native, threshold 0.5" in trained.stdout


def test_the_same_run_is_taken_not_trained_again(workspace, trained):
    done = forked(workspace, "train", "ggl-net", "--recipe", "recipes/demo.yaml", *TINY)
    assert "trained before" in done.stdout and "epoch" not in done.stdout.replace("irstd-result", "")
    assert last(done) == last(trained)


def test_every_epoch_is_in_mlflow(workspace, trained):
    import mlflow

    uri = f"sqlite:///{workspace}/.irstd/mlflow/mlflow.db"
    client = mlflow.MlflowClient(uri, uri)
    (run,) = client.search_runs([client.get_experiment_by_name("irstd").experiment_id])
    manifest = json.loads((workspace / "shards" / "sample" / "manifest.json").read_text())
    # Batches of 4 over both workers; the rest of an epoch is dropped.
    steps = manifest["counts"]["train"]["labelled"] // 4
    assert steps
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val_iou")] == [steps, 2 * steps]
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "2"
    assert json.loads(run.data.tags["irstd.shards"]) == {"sample": manifest["digest"]}
    assert run.data.tags["irstd.data_md5"] == yaml.safe_load((workspace / "data.dvc").read_text())["outs"][0]["md5"]


def test_champion_detects_in_a_new_process(workspace, trained, tmp_path):
    video = next((workspace / "data" / "sample").glob("*/*.mkv"))
    out = tmp_path / "found"
    irstd(
        workspace, "detect", str(video), "--model", "models:/ggl-net@champion", "--out", str(out), "--bit-depth", "14"
    )
    rows = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    sequence = json.loads((video.parent / "sequence.json").read_text())
    assert [r["frame"] for r in rows] == list(range(sequence["frames"]))
    assert all(set(r) == {"video", "frame", "boxes", "scores"} and len(r["boxes"]) == len(r["scores"]) for r in rows)
    film = cv2.VideoCapture(str(out / "overlay.webm"))
    count = 0
    while film.read()[0]:
        count += 1
    assert count == sequence["frames"]
    assert not list(out.glob(".*"))


def test_a_version_runs_without_this_repository(workspace, trained, tmp_path):
    """Pulled by MLflow alone, with irstd made unimportable except for what the version carries."""
    code = f"""
import sys
sys.path = [p for p in sys.path if p not in ("", {str(Path(__file__).parents[2])!r})]
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in type(f).__module__ and "editable" not in repr(f).lower()]
import numpy as np, mlflow
mlflow.set_tracking_uri("sqlite:///{workspace}/.irstd/mlflow/mlflow.db")
model = mlflow.pyfunc.load_model("models:/ggl-net@champion")
import irstd
found = model.predict(np.full((3, 40, 52), 4000, np.uint16))
print(len(found), sorted(found[0]), {str(workspace)!r} in irstd.__file__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[-2] == "3 ['boxes', 'frame', 'scores'] True", done.stdout + done.stderr


def test_lineage_holds_and_an_altered_shard_is_found(workspace, trained):
    done = forked(workspace, "lineage", "models:/ggl-net@champion", "--verify")
    assert "broken" not in done.stdout and "holds   recordings of sample" in done.stdout
    tar = next((workspace / "shards" / "sample").glob("train-*.tar"))
    data = tar.read_bytes()
    try:
        tar.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
        done = forked(workspace, "lineage", "models:/ggl-net@champion", "--verify", check=1)
        assert f"broken  shards of sample: {tar.name}" in done.stdout
    finally:
        tar.write_bytes(data)


def test_evaluate_prints_protocols_and_baselines(workspace, trained, tmp_path):
    out = tmp_path / "numbers.json"
    done = forked(workspace, "evaluate", "models:/ggl-net@champion", "--out", str(out))
    found = json.loads(out.read_text())
    assert [(r["protocol"], r["grid"]) for r in found["protocols"]] == [
        ("strict", None), ("basicirstd", None), ("dnanet", 256), ("msda", 512)
    ]  # fmt: skip
    assert {b["method"] for b in found["baselines"]} == {"top-hat", "local-contrast"}
    assert all(b["fa"] <= found["protocols"][0]["fa"] for b in found["baselines"])
    manifest = json.loads((workspace / "shards" / "sample" / "manifest.json").read_text())
    assert manifest["digest"][:12] in done.stdout and "val-best" in done.stdout


def test_val_numbers_are_those_of_the_weights_that_are_kept(workspace, trained, tmp_path):
    """Two ranks measured a share each; one process that measures the registered weights finds the same."""
    out = tmp_path / "val.json"
    forked(workspace, "evaluate", "models:/ggl-net/1", "--split", "val", "--out", str(out))
    found = json.loads(out.read_text())["protocols"][0]
    kept = json.loads((workspace / ".irstd" / "runs" / last(trained)["run"] / "run.json").read_text())["metrics"]
    for name in ("iou", "niou", "pd", "fa"):
        assert found[name] == pytest.approx(kept[f"val_{name}"], rel=1e-4), name


@pytest.fixture(scope="module")
def searched(workspace, trained):
    """A search of two trials (one of them written twice), the better registered; what the command printed."""
    space = workspace / "tune_spaces" / "two.yaml"
    space.write_text(
        yaml.safe_dump(
            {
                "recipe": "recipes/demo.yaml",
                "fixed": {p.split("=")[0]: yaml.safe_load(p.split("=")[1]) for p in TINY},
                "space": {"train.lr": {"choice": [0.001, 0.002, 0.001]}},
                "search": "grid",
                "confirmation": "none",
            }
        )
    )
    return irstd(workspace, "tune", "two")


def store(workspace):
    import mlflow

    uri = f"sqlite:///{workspace}/.irstd/mlflow/mlflow.db"
    return mlflow.MlflowClient(uri, uri)


def test_search_trains_each_trial_as_a_child_run(workspace, searched):
    assert "a grid of 3 points; 2 trials (grid)" in searched.stdout
    assert "2 trials side by side" in searched.stdout
    assert last(searched)["best"]["train.lr"] in (0.001, 0.002)
    client = store(workspace)
    runs = client.search_runs([client.get_experiment_by_name("irstd").experiment_id])
    (parent,) = [r for r in runs if r.data.tags.get("irstd.kind") == "tune"]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 2 and {r.info.status for r in children} == {"FINISHED"}
    assert {r.data.params["train.lr"] for r in children} == {"0.001", "0.002"}
    again = forked(workspace, "tune", "two")
    assert "searched before" in again.stdout
    assert last(again)["best"] == last(searched)["best"]


@pytest.mark.slow
def test_a_search_with_a_failed_trial_takes_the_others(workspace, searched):
    """Its journal is what a search goes on from: here it says that the first trial failed."""
    (path,) = (workspace / ".irstd" / "sweeps").glob("*/journal.jsonl")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if event["event"] == "end" and event["trial"] == 1:
            event |= {"state": "failed", "error": "a worker died"}
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    done = irstd(workspace, "tune", "two", "--resume")
    assert "searched before" not in done.stdout
    assert done.stdout.count("was trained before; its result is taken") == 1
    assert last(done)["best"] == last(searched)["best"] and last(done)["model"] == last(searched)["model"]


def test_promotion_compares_on_the_same_frames(workspace, searched):
    client = store(workspace)
    challenger = last(searched)["model"].rpartition("/")[2]

    def holds(alias):
        return str(client.get_model_version_by_alias("ggl-net", alias).version)

    assert holds("challenger") == challenger == "2" and holds("champion") == "1"
    # A handful of groups: the interval cannot be told, and nothing moves unless that is accepted.
    done = forked(workspace, "promote", "models:/ggl-net@challenger", check=1)
    assert last(done)["verdict"] == "insufficient" and holds("champion") == "1" and last(done)["gate_uses"] == 1
    done = forked(workspace, "promote", "models:/ggl-net@challenger", "--accept-insufficient", check=None)
    found = last(done)
    assert found["gate_uses"] == 2
    assert done.returncode == (0 if found["promoted"] else 1)
    champion = holds("champion")
    assert champion == ("2" if found["promoted"] else "1")
    for version in ("1", "2"):
        assert client.get_model_version("ggl-net", version).tags["irstd.promotion"] == found["reason"]
    assert "on split" in done.stdout
    assert (" against " if found["promoted"] else " does not beat ") in found["reason"]
    # The other one does not beat it, whichever it is.
    other = "1" if champion == "2" else "2"
    done = forked(workspace, "promote", f"models:/ggl-net/{other}", "--accept-insufficient", check=1)
    assert last(done)["verdict"] == "kept" and holds("champion") == champion
    # What was promoted is taken back; a first champion has none before it.
    done = forked(workspace, "promote", "models:/ggl-net@champion", "--rollback", check=0 if found["promoted"] else 2)
    assert holds("champion") == "1"


def test_listings(workspace, trained):
    assert "sample" in forked(workspace, "list", "data").stdout
    assert "finished" in forked(workspace, "list", "runs").stdout
    assert "champion" in forked(workspace, "list", "models").stdout
    assert "nothing was removed" in forked(workspace, "clean").stdout


def test_doctor_finds_an_altered_recording(workspace):
    assert "all checks hold" in forked(workspace, "doctor", "data").stdout
    video = next((workspace / "data" / "sample").glob("*/*.mkv"))
    data = video.read_bytes()
    video.chmod(0o644)
    video.unlink()
    try:
        video.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        done = forked(workspace, "doctor", "data", check=1)
        assert "altered" in done.stdout and video.name in done.stdout
    finally:
        video.write_bytes(data)


@pytest.mark.slow
def test_dvc_repro_twice(tmp_path, source):
    """`dvc repro` alone walks shard, train, evaluate; the second time it does nothing."""
    folder = new_workspace(tmp_path / "w")
    irstd(folder, "ingest", str(source), "--name", "sample")
    recipe = folder / "recipes" / "demo.yaml"
    values = yaml.safe_load(recipe.read_text())
    values["train"] |= {"epochs": 1, "batch": 4}
    values["data"]["crop"] = 32
    recipe.write_text(yaml.safe_dump(values))
    # The code is a dependency of the stages; here it is the installed one.
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text("\n".join(line for line in text.splitlines() if "- irstd/" not in line) + "\n")
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    call = [sys.executable, "-m", "dvc", "repro"]
    first = subprocess.run(call, cwd=folder, env=path, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert json.loads((folder / ".irstd" / "repro" / "metrics.json").read_text())["split"] == "test"
    second = subprocess.run(call, cwd=folder, env=path, capture_output=True, text=True, check=False)
    assert "Running stage" not in second.stdout
    assert "up to date" in second.stdout
    shutil.rmtree(folder)
