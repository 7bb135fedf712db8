"""`irstd shard` and the stage's own command: where they write, with how many workers, and what they refuse."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import tree

from irstd import environment
from irstd.commands import shard
from irstd.data import shards
from irstd.data.manifest import Manifest
from irstd.errors import InputError
from irstd.workspace import Workspace
from tests.conftest import CONFIG


@pytest.fixture
def workspace(sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    root = tmp_path / "workspace"
    shutil.copytree(sample_data, root / "data")
    (root / "data.dvc").touch()
    (root / "params.yaml").write_text("shard: {frames: 5, chunk: 4}\n")
    monkeypatch.delenv("IRSTD_SHARD_WORKERS", raising=False)
    monkeypatch.chdir(root)
    return Workspace.find()


def stage(workspace: Workspace, **variables: str) -> subprocess.CompletedProcess[str]:
    """The stage's command as DVC runs it; it may import neither Ray nor anything else of the upper stack."""
    code = """if True:
        import runpy, sys
        for name in ("ray", "prefect", "mlflow", "dvc", "optuna", "typer", "torch"):
            sys.modules[name] = None
        runpy.run_module("irstd.data.shards", run_name="__main__")
    """
    return subprocess.run(
        [sys.executable, "-W", "ignore::RuntimeWarning:runpy", "-c", code],
        cwd=workspace.root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_stage_writes_in_its_output_alone(workspace, sample_data, tmp_path):
    before = tree(workspace.root)
    done = stage(workspace)
    assert done.returncode == 0 and not done.stderr
    after = tree(workspace.root)
    assert {name: sha for name, sha in after.items() if not name.startswith("shards/")} == before
    digest = shards.build(sample_data, tmp_path / "out", CONFIG)["sample"]
    assert tree(workspace.shards) == tree(tmp_path / "out")
    lines = done.stdout.splitlines()
    count = len([*(workspace.shards / "sample").glob("*.tar")])
    assert lines[0] == f"shard sample: 0 of {count} tars" and lines[-2] == f"shard sample: {count} of {count} tars"
    assert lines[-1] == f"shard sample: digest {digest[:12]}"


def test_the_stage_says_one_line(workspace):
    done = stage(workspace, IRSTD_SHARD_WORKERS="many")
    assert done.returncode == 2 and done.stderr.startswith("irstd: ") and done.stderr.count("\n") == 1
    assert "resources.shard_workers='many': give a whole number" in done.stderr
    (workspace.root / "shards").write_text("not a folder")
    done = stage(workspace)
    assert done.returncode == 2 and "is no folder" in done.stderr and done.stderr.count("\n") == 1


def test_workers_come_from_the_option_the_settings_and_the_cores(workspace, monkeypatch):
    assert workspace.shard_workers == environment.cores()
    (workspace.root / "settings.toml").write_text("[resources]\nshard_workers = 3\n")
    assert Workspace.find().shard_workers == 3
    monkeypatch.setenv("IRSTD_SHARD_WORKERS", "2")
    assert Workspace.find().shard_workers == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_of_another_folder_in_another_place(workspace, sample_data, tmp_path, capsys, monkeypatch, workers):
    monkeypatch.setattr(shards, "Lines", lambda say: None)
    monkeypatch.setenv("IRSTD_SHARD_WORKERS", "1")  # is put back after the test
    before = tree(workspace.root)
    out = tmp_path / "elsewhere" / "deep"
    shard.run(workspace, ["shard.chunk=3", "shard.gradient.operator=none"], sample_data, out, workers)
    config = CONFIG.model_copy(update={"chunk": 3, "gradient": CONFIG.gradient.model_copy(update={"operator": "none"})})
    digest = shards.build(sample_data, tmp_path / "plain", config)["sample"]
    assert tree(out) == tree(tmp_path / "plain") and tree(workspace.root) == before
    assert Manifest.read(out / "sample").content["chunk"] == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last.removeprefix("irstd-result: ")) == {"sample": digest}


def test_what_the_workspace_s_shards_do_not_take(workspace, sample_data, tmp_path):
    for overrides, data in ((["shard.chunk=3"], None), ([], sample_data)):
        with pytest.raises(InputError, match="follow params.yaml; .*--out DIR"):
            shard.run(workspace, overrides, data, None)
    with pytest.raises(InputError, match="no data to shard"):
        shard.run(workspace, [], tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="unknown key"):
        shard.run(workspace, ["shard.chunks=3"], sample_data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "out", "message"),
    [
        (["data.sets=[sample]"], "out", r"data\.sets: decides nothing about shards; irstd shard takes shard\.\*"),
        (["train.epochs=3"], "out", r"train\.epochs: decides nothing"),
        ([], "https:/host/bucket", "are written to a folder"),
        ([], "s3:/bucket", "are written to a folder"),
        ([], "data/x", "lies in the data folder"),
        ([], "{data}/x", "lies in the data folder"),
        (["shard.chunk=3"], "shards", "the workspace's shards follow params.yaml"),
        ([], "shards", "the workspace's shards follow params.yaml"),
    ],
)
def test_what_is_no_place_for_shards(workspace, sample_data, overrides, out, message):
    before = tree(workspace.root), tree(sample_data)
    with pytest.raises(InputError, match=message):
        shard.run(workspace, overrides, sample_data, Path(out.format(data=sample_data)))
    assert (tree(workspace.root), tree(sample_data)) == before


def test_a_set_without_labels_is_said_to_be_so(sample_shards):
    manifest = Manifest.read(sample_shards / "sample")
    assert "train 37 key frames" in shard.counted(manifest)
    for counts in manifest.content["counts"].values():
        counts["key_frames"] = 0
    assert shard.counted(manifest) == "no labelled recording, so nothing to train on"


def test_progress_has_an_estimate(monkeypatch):
    lines: list[str] = []
    now = iter([100.0, 103.0, 120.0, 140.0, 200.0])
    monkeypatch.setattr(shards.time, "monotonic", lambda: next(now))
    show = shards.Lines(lines.append)
    for done in (3, 4, 5, 9):
        show("sample", done, 9)
    show("other", 0, 2)
    assert lines == [
        "shard sample: 3 of 9 tars",
        "shard sample: 4 of 9 tars",
        "shard sample: 5 of 9 tars, about 40 s left",
        "shard sample: 9 of 9 tars",
        "shard other: 0 of 2 tars",
    ]
