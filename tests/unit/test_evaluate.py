"""`irstd evaluate`: what it prints and writes, the threshold for a wanted Fa, groups and ignore regions."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from irstd import cli
from irstd.commands import evaluate
from irstd.data.manifest import read_all
from irstd.errors import InputError
from irstd.metrics import SegmentationMetrics, lowest_threshold
from irstd.training import loop
from irstd.training.evaluation import measure
from irstd.workspace import Workspace
from tests.unit.test_shards_elsewhere import packaged

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")


@pytest.fixture
def workspace(tmp_path, sample_shards):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "data.dvc").touch()
    (tmp_path / "w" / "shards").symlink_to(sample_shards)
    return Workspace(tmp_path / "w", tmp_path / "w" / ".irstd")


def threshold_of(folder, shards, share=0.002):
    """A threshold at which an untrained network marks few pixels."""
    made = packaged(folder, shards)
    loader = loop.loader_for(made.config, shards, "val", read_all(shards), batch_size=1)
    model = made.model()
    return float(np.quantile(np.concatenate([model.predict(b)[0].probability_HW.ravel() for b in loader]), 1 - share))


def test_every_evaluation_leaves_its_files_and_says_what_its_numbers_are(workspace, sample_shards, tmp_path, capsys):
    made = packaged(tmp_path / "p", sample_shards, threshold=threshold_of(tmp_path / "q", sample_shards))
    out = tmp_path / "numbers.json"
    evaluate.run(workspace, str(tmp_path / "p"), [], "val", None, out, fa=0.01)
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    (manifest,) = read_all(sample_shards)
    groups = {manifest.content["sequences"][name]["group"] for name in manifest.content["splits"]["val"]}
    assert found["groups"] == len(groups) and found["digests"] == {"sample": manifest.digest}
    for words in (
        f"split val of sample {manifest.digest[:12]}: {found['frames']} frames",
        f"{len(groups)} groups; checkpoint val-best, threshold {found['threshold']:g}",
        f"insufficient: {len(groups)} groups",
        "strict     grid native",
        "dnanet     grid 256",
        "by SCR (strict, grid native",
        "is the lowest above which Fa never exceeds 0.01 on val (strict, grid native)",
        "beside classical baselines",
    ):
        assert words in printed, words
    last = json.loads(printed.splitlines()[-1].removeprefix("irstd-result: "))
    assert (last["protocol"], last["chosen"], last["digests"]) == ("strict", "val-best", found["digests"])
    folder = workspace.home / "evaluations" / f"{found['run']}-val"
    assert last["report"] == str(folder) and json.loads((folder / "report.json").read_text()) == found
    rows = list(csv.DictReader((folder / "images.csv").read_text().splitlines()))
    assert len(rows) == found["frames"] == manifest.count("val", "labelled")
    assert {row["group"] for row in rows} == {f"sample/{group}" for group in groups}
    names = sorted(path.name for path in folder.iterdir())
    assert {"roc.png", "roc.csv", "froc.csv", "pr.png", "sequences.csv", "gallery.html", "gallery.png"} <= set(names)
    # The gallery counts what the report counts.
    row = found["protocols"][0]
    page = (folder / "gallery.html").read_text()
    for count, what in ((row["targets"] - row["hits"], "missed targets"), (row["false_alarms"], "false alarms")):
        assert f"<li><b>{count:,}</b>{what}</li>" in page
    assert f"val of sample {manifest.digest[:12]}: {found['frames']} labelled frames" in page

    # The threshold is the exact one of all probabilities.
    model = made.model()
    batches = list(loop.loader_for(made.config, sample_shards, "val", [manifest], batch_size=1))
    maps = [model.predict(batch)[0].probability_HW for batch in batches]
    masks = [evaluate.mask_of(batch) for batch in batches]
    point = lowest_threshold(maps, masks, 0.01)
    assert found["wanted_fa"]["threshold"] == point.threshold and found["wanted_fa"]["pd"] == point.pd
    metrics = SegmentationMetrics("strict", point.threshold)
    for pair in zip(maps, masks, strict=True):
        metrics.update(*pair)
    assert metrics.compute()["fa"] == found["wanted_fa"]["fa"] <= 0.01


def test_another_folder_for_the_report(workspace, sample_shards, tmp_path, monkeypatch):
    packaged(tmp_path / "p", sample_shards, threshold=1.0)
    evaluate.run(workspace, str(tmp_path / "p"), [], "val", None, None, tmp_path / "mine")
    assert (tmp_path / "mine" / "report.json").is_file() and not (workspace.home / "evaluations").exists()
    monkeypatch.chdir(workspace.root)
    (tmp_path / "file").touch()
    assert cli.run(["evaluate", str(tmp_path / "p"), "--report", str(tmp_path / "file")]) == 2


@pytest.mark.parametrize(
    ("split", "fa", "words"),
    [
        ("test", 1e-3, "a threshold is chosen on val"),
        ("val", 1e-7, "too little to tell: Fa 1e-07 needs 1e.08 pixels"),
        ("val", 2.0, "between 0 and 1"),
    ],
)
def test_a_wanted_fa_that_cannot_be_told_is_refused(workspace, sample_shards, tmp_path, split, fa, words):
    packaged(tmp_path / "p", sample_shards)
    out = tmp_path / "numbers.json"
    with pytest.raises(InputError, match=words):
        evaluate.run(workspace, str(tmp_path / "p"), [], split, None, out, fa=fa)
    assert not out.exists() and not (workspace.home / "evaluations").exists()


def test_what_a_batch_says_to_ignore_is_not_scored(sample_shards, tmp_path):
    made = packaged(tmp_path / "p", sample_shards, threshold=threshold_of(tmp_path / "q", sample_shards, 0.02))
    loader = loop.loader_for(made.config, sample_shards, "val", read_all(sample_shards), batch_size=1)
    batches = [batch | {"ignore": [np.array([[0, 0, 25.5, 100]], np.float32)]} for batch in loader]

    class Regions:
        manifests, windows, pseudo_masks = loader.manifests, loader.windows, None

        def __iter__(self):
            return iter(batches)

    model = made.model()
    found, whole = (evaluate.fill(model, given).compute()["protocols"][0] for given in (Regions(), loader))
    metrics = SegmentationMetrics("strict", model.threshold)
    for batch in batches:
        ignore = batch["ignore"][0]
        metrics.update(model.predict(batch)[0].probability_HW, evaluate.mask_of(batch), ignore_K4=ignore)
    assert {k: found[k] for k in ("pd", "fa", "iou", "pixels")} == {
        k: metrics.compute()[k] for k in ("pd", "fa", "iou", "pixels")
    }
    assert found["pixels"] < whole["pixels"] and found["false_alarms"] < whole["false_alarms"]
    measured = measure(model, Regions(), made.config.evaluate).compute()
    assert measured["pixels"] == found["pixels"] and measured["fa"] == found["fa"]


def test_progress_goes_by_the_clock_not_by_the_number_of_frames(capsys):
    """Frames with hundreds of blobs take a second each: a line every hundred of them would be silence for minutes."""
    from irstd.commands.show import counting

    now = iter([0, 1, 6, 7, 12, 20])
    done = counting("evaluate", 5, "frames", seconds=5, clock=lambda: next(now))
    for count in range(1, 6):
        done(count)
    assert capsys.readouterr().out.splitlines() == [
        "evaluate: 2 of 5 frames, about 9 s left",
        "evaluate: 4 of 5 frames, about 3 s left",
    ]
