"""What a recipe leads one to expect, beside what was found: after a training, and by an evaluation."""

from __future__ import annotations

import json

import pytest

from irstd import config as configuration
from irstd.commands import evaluate
from irstd.data.manifest import read_all
from irstd.files import read_json, write_json
from irstd.training import expectations
from irstd.workspace import Workspace
from tests.unit.test_shards_elsewhere import packaged

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")

TEXT = """
train: {epochs: 3}
quick: {train.epochs: 1}
expected:
  - &ours {metric: iou, value: .5, tolerance: .1, mark: measured, source: a run, split: val, protocol: strict, chosen: val-best}
  - {<<: *ours, metric: pd, value: .9}
  - {<<: *ours, protocol: msda, grid: 512}
  - {<<: *ours, split: test, value: .4}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


def test_a_training_ends_with_its_numbers_beside_those_of_the_recipe(recipe):
    measured = configuration.load(recipe=recipe).evaluate
    best = {"val_iou": 0.55, "val_pd": 0.7, "chosen": "val-best"}
    lines = expectations.of_val(measured, best, expectations.of(recipe, [], quick=False))
    assert len(lines) == 3
    assert (
        lines[0]
        == "expected iou 0.5 +- 0.1 (measured: a run; val, strict, native grid, val-best), found 0.55 (val-best): within"
    )
    assert lines[1].endswith("found 0.7 (val-best): 0.1 outside, below")
    assert lines[2] == "mine.yaml expects on test: iou 0.4; irstd evaluate holds them against what it finds"
    changed = expectations.of_val(
        measured, best, expectations.of(recipe, ["train.lr", "train.seed", "registry.name"], quick=False)
    )
    assert "the run changed train.lr of mine.yaml, whose numbers these are" in changed


def test_a_quick_test_is_held_against_nothing(recipe):
    measured = configuration.load(recipe=recipe, quick=True).evaluate
    assert (
        expectations.of_val(measured, {"val_iou": 0.55, "chosen": "val-best"}, expectations.of(recipe, [], quick=True))
        == []
    )


def test_an_evaluation_says_what_the_recipe_expects_on_its_split(recipe, tmp_path, sample_shards, capsys):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "data.dvc").touch()
    (tmp_path / "w" / "shards").symlink_to(sample_shards)
    workspace = Workspace(tmp_path / "w", tmp_path / "w" / ".irstd")
    packaged(tmp_path / "p", sample_shards, threshold=0.999)
    content = read_json(tmp_path / "p" / "package.json")
    content["lineage"]["recipe"] = expectations.of(recipe, [], quick=False)
    content["lineage"]["sets"] = {m.set: m.digest for m in read_all(sample_shards)}
    write_json(tmp_path / "p" / "package.json", content)
    out = tmp_path / "numbers.json"
    evaluate.run(workspace, str(tmp_path / "p"), [], "val", None, out, beside=[])
    printed = capsys.readouterr().out
    said = json.loads(out.read_text())["expected"]
    assert len(said) == 3 and all(line in printed for line in said)
    assert [line.split(", ")[1:3] for line in said] == [
        ["strict", "native grid"],
        ["strict", "native grid"],
        ["msda", "grid 512"],
    ]
    assert all(", found " in line for line in said)

    # Of other shards than the recipe's nothing is expected.
    content["lineage"]["sets"] = {"sample": "0" * 64}
    write_json(tmp_path / "p" / "package.json", content)
    evaluate.run(workspace, str(tmp_path / "p"), [], "val", None, out, beside=[])
    assert "expected iou" not in capsys.readouterr().out and "expected" not in json.loads(out.read_text())
