"""`seeds=3`: each its own run, what they have in common, the median registered, and all of them measured."""

from __future__ import annotations

import json
import os
from statistics import fmean, stdev

import numpy as np
import pytest
from runs import trained

from irstd import config as configuration
from irstd.commands import evaluate, seeds, siblings, train
from irstd.errors import InputError
from irstd.inference.package import Package
from irstd.metrics import SegmentationMetrics, bootstrap
from irstd.registry import models, tracking
from irstd.workspace import Workspace

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")

TINY = ["model.width=4", "model.in_channels=1", "data.crop=32", "train.batch=4", "train.epochs=2"]


@pytest.fixture(scope="module")
def workspace(sample_shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds")
    (root / "data.dvc").touch()
    (root / "shards").symlink_to(sample_shards)
    before = dict(os.environ)
    os.environ.pop("IRSTD_MLFLOW_URI", None)
    yield Workspace(root, root / ".irstd")
    os.environ.clear()
    os.environ.update(before)
    import mlflow

    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def call(workspace, *more):
    train.run(workspace, "ggl-net", [*TINY, *more], None, None, True, None, None)


@pytest.fixture(scope="module")
def several(workspace):
    """Two finished runs, their record as `irstd train` left it, and what the command then made of them."""
    values = configuration.parse_overrides(TINY)
    for seed in (3, 4):
        config = configuration.load(workspace.root, None, values | {"train.seed": seed}, "ggl-net")
        name = train.prepare(config, workspace.shards).name
        trained(workspace, config, tracking.start(workspace, name, {}, {}))
    call(workspace, "seeds=[3,4]")
    (path,) = (workspace.home / "seeds").glob("*/seeds.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_every_seed_is_its_own_run_and_the_median_is_registered(workspace, several):
    assert several["n"] == 2 and several["seeds"] == [3, 4] and len(set(several["runs"])) == 2
    states = [json.loads((workspace.runs / r / "checkpoint" / "state.json").read_text()) for r in several["runs"]]
    best, last = ([s["best"]["val_iou"] for s in states], [s["history"][-1]["val_iou"] for s in states])
    assert several["values"]["iou"] == best and several["last"]["values"]["iou"] == last
    assert several["mean"]["iou"] == pytest.approx(fmean(best)) and several["deviation"]["iou"] == pytest.approx(
        stdev(best)
    )
    client = tracking.client(workspace)
    (version,) = client.search_model_versions("name = 'ggl-net'")
    middle = best.index(min(best))  # the lower of the two
    assert version.tags["irstd.run"] == several["runs"][middle] and version.tags["irstd.seeds"] == several["group"]
    package = models.package(workspace, "models:/ggl-net/1")
    about = package.content["metrics"]["seeds"]
    assert about == {k: v for k, v in several.items() if k != "about"}
    assert "Seeds: 2 (3, 4); registered is seed" in (package.folder / "MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_the_runs_lie_below_one_in_mlflow(workspace, several):
    client = tracking.client(workspace)
    parent = tracking.run_of(workspace, several["group"], "")
    assert parent.info.status == "FINISHED" and parent.data.tags["irstd.seeds"] == "[3,4]"
    assert parent.data.metrics["best_val_iou_mean"] == pytest.approx(several["mean"]["iou"])
    below = {
        run.data.tags["irstd.run"]
        for run in client.search_runs(
            [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        )
    }
    assert below == set(several["runs"])
    assert "seeds.json" in [file.path for file in client.list_artifacts(parent.info.run_id)]


@pytest.mark.slow
def test_the_same_command_takes_what_is_there(workspace, several, capsys):
    call(workspace, "seeds=[3,4]")
    printed = capsys.readouterr().out
    assert printed.count("trained before, nothing has changed") == 2 and "is this run's" in printed
    assert (
        "deviation (n-1)" in printed
        and "val of each seed" in printed
        and "strict, grid native, threshold 0.5" in printed
    )
    assert len(tracking.client(workspace).search_model_versions("name = 'ggl-net'")) == 1
    # One of them alone is a version of its own: it says nothing of the others.
    call(workspace, f"train.seed={several['seeds'][several['runs'].index(_registered(workspace))]}")
    assert len(tracking.client(workspace).search_model_versions("name = 'ggl-net'")) == 2


def _registered(workspace):
    return tracking.client(workspace).get_model_version("ggl-net", "1").tags["irstd.run"]


@pytest.mark.slow
def test_all_seeds_are_measured_and_each_look_at_test_is_counted(workspace, several, tmp_path, capsys):
    evaluate.run(workspace, "models:/ggl-net/1", [], "test", None, None, beside=[])
    printed = capsys.readouterr().out
    assert "measured on test once" in printed and "are not measured on test: --seeds measures all" in printed
    out = tmp_path / "numbers.json"
    evaluate.run(workspace, "models:/ggl-net/1", [], "test", None, out, beside=[], seeds=True)
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    assert "measured on test 2 times" in printed and "over 2 seeds (3, 4) on test" in printed
    strict = found["seeds"]["protocols"][0]
    alone = [
        json.loads((workspace.home / "evaluations" / f"{run}-test" / "report.json").read_text())
        for run in several["runs"]
    ]
    values = [each["protocols"][0]["iou"] for each in alone]
    assert strict["values"]["iou"] == values and strict["deviation"]["iou"] == pytest.approx(stdev(values))
    assert found["test_uses"] == 2 and [a["test_uses"] for a in alone if a["run"] != found["run"]] == [1]
    client = tracking.client(workspace)
    assert client.get_model_version("ggl-net", "1").tags["irstd.uses.test"] == "2"
    # Now they are known, without being measured again.
    package = models.package(workspace, "models:/ggl-net/1")
    assert sorted(siblings.known(workspace, package, found, "test")) == [3, 4]


@pytest.mark.slow
def test_a_model_of_one_seed_has_no_others(workspace, several):
    package = Package.read(workspace.runs / several["runs"][0] / "package")
    content = package.content | {"metrics": {k: v for k, v in package.content["metrics"].items() if k != "seeds"}}
    folder = workspace.root / "alone"
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="not one of several seeds; train them with"):
        evaluate.run(workspace, str(folder), [], "test", None, None, seeds=True)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["seeds=0"], "give how many, from 1 on"),
        (["seeds=-2"], "give how many"),
        (["seeds=many"], "give how many"),
        (["seeds=true"], "give how many"),
        (["seeds=[]"], "give how many"),
        (["seeds=[1,-1]"], "whole numbers from 0"),
        (["seeds=[5,0,5]"], "5 is there twice"),
        (["seeds=[0,0]"], "0 is there twice"),
        (["seeds=2", "train.seed=1"], "seeds=2 and train.seed=1"),
    ],
)
def test_seeds_that_say_nothing_are_refused(workspace, asked, words):
    with pytest.raises(InputError, match=words):
        call(workspace, *asked)


def test_one_run_alone_is_taken_up():
    with pytest.raises(InputError, match="seeds=2 and --resume there"):
        seeds.drawn("2", 0, {}, "there")


def test_seeds_are_counted_from_the_configuration_s():
    assert seeds.drawn("3", 7, {}) == [7, 8, 9]
    assert seeds.taken(["seeds=2", "train.lr=1"]) == ("2", ["train.lr=1"])
    assert seeds.median([0.5, 0.9, 0.1, 0.6])[0] == 0 and seeds.median([None, 1.0])[0] == 0
    assert seeds.median([0.5, 0.5])[0] == 0 and seeds.median([0.1, 0.5, 0.5])[0] == 1  # of equals the first


def test_the_interval_over_seeds_draws_seeds_and_groups():
    """Seeds that agree add nothing to the interval of groups; seeds that differ widen it."""
    rng = np.random.default_rng(0)

    def samples(shift):
        metrics = SegmentationMetrics()
        for group in range(12):
            mask = np.zeros((24, 24), bool)
            mask[4:8, 4:8] = True
            probability = np.where(mask, 0.9, 0.1)
            probability[4 : 4 + (group + shift) % 4, 4:8] = 0.1
            metrics.update(probability, mask, str(group))
        return metrics.samples(), metrics.intervals()["intervals"]

    (one, interval), (other, _) = samples(0), samples(0)
    assert bootstrap.over_seeds([one, other, one])["iou"] == pytest.approx(interval["iou"])
    far = {"iou": one["iou"] - 0.3 * rng.random()}
    low, high = bootstrap.over_seeds([{"iou": one["iou"]}, far, {"iou": one["iou"]}])["iou"]
    assert high - low > interval["iou"][1] - interval["iou"][0]
