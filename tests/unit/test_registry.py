"""Versions, aliases and runs in a real MLflow on SQLite; one database for the module, other names in each test."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from irstd import config as configuration
from irstd.cluster.sweep import Trial
from irstd.commands import compare, detect, evaluate, listing
from irstd.commands.train import publish
from irstd.commands.trials import Trials
from irstd.errors import InputError, WorkError
from irstd.registry import models, tracking
from irstd.registry.tracker import TrialTracker
from irstd.workspace import SETTINGS, Workspace

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("registry")
    (root / "package.json").write_text('{"schema": 1, "metrics": {}}')
    # Trackers write to the environment, as in a process of their own.
    before = dict(os.environ)
    os.environ.pop("IRSTD_MLFLOW_URI", None)
    yield Workspace(root, root / ".irstd")
    os.environ.clear()
    os.environ.update(before)
    import mlflow

    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture
def away(workspace, monkeypatch):
    """The same workspace, whose tracking server does not answer."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = {k: dict(v) for k, v in SETTINGS.items()} | {"mlflow": {"uri": "http://127.0.0.1:9"}}
    return Workspace(workspace.root, workspace.home, settings)


def version(workspace, name, run, source="nowhere"):
    """A version of `name` that the run with identity `run` registered."""
    client = tracking.client(workspace)
    models._ensure_name(client, name)
    return str(client.create_model_version(name, str(source), tags={"irstd.run": run}).version)


def job(name, run):
    return SimpleNamespace(name=run, config=SimpleNamespace(registered_name=name))


def test_no_alias_is_not_no_answer(workspace, away):
    from mlflow.exceptions import MlflowException

    assert models.aliased(workspace, "unknown", "champion") is None
    number = version(workspace, "known", "r1")
    assert models.aliased(workspace, "known", "champion") is None
    models.set_alias(workspace, "known", "champion", number)
    assert str(models.aliased(workspace, "known", "champion").version) == number
    with pytest.raises(MlflowException):
        models.aliased(away, "known", "champion")


def test_a_locked_database_is_not_a_missing_champion(workspace, monkeypatch):
    from mlflow.exceptions import MlflowException

    def locked(*_):
        raise MlflowException("database is locked", error_code=1)

    monkeypatch.setattr(
        models, "client", lambda _: SimpleNamespace(get_model_version_by_alias=locked, get_model_version=locked)
    )
    for ask in (
        lambda: models.aliased(workspace, "m", "champion"),
        lambda: models.resolve(workspace, "models:/m@champion"),
        lambda: models.resolve(workspace, "models:/m/1"),
    ):
        with pytest.raises(MlflowException, match="locked"):
            ask()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("models:/nothing@champion", "no registered model 'nothing'"),
        ("models:/named@champion", "no alias 'champion'"),
        ("models:/named/7", "no version '7'"),
        ("models:/named/latest", "no version 'latest'"),
        ("models:/@champion", "no registered model ''"),
    ],
)
def test_a_version_that_is_not_there_is_one_line(workspace, uri, words):
    models._ensure_name(tracking.client(workspace), "named")
    with pytest.raises(InputError, match=words):
        models.resolve(workspace, uri)


def test_publishing_again_sets_the_aliases_that_a_kill_lost(workspace):
    first = version(workspace, "killed", "r1")
    assert publish(workspace, job("killed", "r1"), {}, workspace.root) == first
    for alias in ("challenger", "champion"):
        assert str(models.aliased(workspace, "killed", alias).version) == first
    second = version(workspace, "killed", "r2")
    publish(workspace, job("killed", "r2"), {}, workspace.root)
    assert str(models.aliased(workspace, "killed", "challenger").version) == second
    # The champion stays, and so does a newer challenger.
    publish(workspace, job("killed", "r1"), {}, workspace.root)
    assert str(models.aliased(workspace, "killed", "challenger").version) == second
    assert str(models.aliased(workspace, "killed", "champion").version) == first


def test_another_threshold_is_another_version(workspace):
    plain = version(workspace, "chosen", "r1")
    assert models.version_of(workspace, "chosen", "r1") == plain
    tags = {"irstd.threshold_chosen": "0.7 is the lowest"}
    assert models.version_of(workspace, "chosen", "r1", tags) is None
    found = tracking.client(workspace).create_model_version("chosen", "nowhere", tags={"irstd.run": "r1"} | tags)
    assert models.version_of(workspace, "chosen", "r1", tags) == str(found.version)
    assert models.version_of(workspace, "chosen", "r1") == plain


def test_listed_runs_say_how_val_was_measured(workspace, capsys):
    client = tracking.client(workspace)
    params = {"evaluate.protocol": "centroid", "evaluate.grid": None, "evaluate.threshold": 0.25}
    boxes = tracking.start(workspace, "boxes-listed", {}, params)
    client.log_metric(boxes, "best_val_ap", 0.75)
    trial = tracking.start(workspace, "trial-listed", {}, {"train.lr": 0.1})
    client.log_metric(trial, "best_val_iou", 0.123)
    client.log_metric(trial, "best_val_fa", 1e-6)
    listing.run(workspace, "runs")
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "AP 0.750" in rows["boxes-listed"] and "centroid, grid native, threshold 0.25" in rows["boxes-listed"]
    assert "0.123" not in rows["trial-listed"]  # nothing says how it was measured
    finished_trial(workspace, "trial-listed", {"config": {"evaluate": {"protocol": "strict", "threshold": 0.5}}})
    listing.run(workspace, "runs")
    assert "strict, grid native, threshold 0.5" in capsys.readouterr().out


def test_nothing_is_registered_without_a_run(workspace):
    with pytest.raises(WorkError, match="not in MLflow"):
        models.register(workspace, None, SimpleNamespace(folder="package"), "runless", {})


def test_a_model_that_is_not_ours_is_refused(workspace, tmp_path):
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    number = version(workspace, "theirs", "-", tmp_path.as_uri())
    for _ in range(2):
        with pytest.raises(InputError, match="not registered by irstd"):
            models.package(workspace, f"models:/theirs/{number}")


def test_a_run_that_succeeds_at_last_has_no_error(workspace):
    client = tracking.client(workspace)
    run = tracking.start(workspace, "resumed", {}, {})
    tracking.finish(workspace, run, "out of memory")
    assert client.get_run(run).data.tags["irstd.error"] == "out of memory"
    assert tracking.start(workspace, "resumed", {}, {}) == run
    tracking.finish(workspace, run)
    found = client.get_run(run)
    assert found.info.status == "FINISHED" and "irstd.error" not in found.data.tags


def test_a_trial_goes_on_where_mlflow_is_away(away, capsys):
    tracker = TrialTracker(away, "lonely", {}, {}, "parent")
    track = tracker.begin()
    track({"epoch": 1, "step": 1}, None)
    tracker.end(None)
    said = capsys.readouterr().out
    assert "does not answer; training goes on" in said and "the trial's end did not reach MLflow" in said
    # One whose sweep has no run is logged by the driver.
    assert TrialTracker(away, "lonely", {}, {}).begin() is None


def finished_trial(workspace, name, record):
    folder = workspace.runs / name
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "best.safetensors").touch()
    history = [{"epoch": 1, "step": 12, "loss": 0.25, "val_iou": 0.5, "time": 1.5e9}]
    state = {"best": {"val_iou": 0.5, "chosen": "val-best"}, "step": 12, "history": history}
    (folder / "checkpoint" / "state.json").write_text(json.dumps(state))
    (folder / "run.json").write_text(json.dumps({"run": name, "finished": True} | record))
    return folder


def test_every_finished_trial_gets_a_run(workspace):
    """One that finished below another sweep, one that MLflow never heard of, one recorded without a run."""
    client = tracking.client(workspace)
    killed, parent = (tracking.start(workspace, sweep, {}, {}) for sweep in ("sweep-1", "sweep-2"))
    elsewhere = tracking.start(workspace, "t-elsewhere", {}, {}, killed)
    names = ["t-elsewhere", "t-unheard", "t-runless"]
    folders = [finished_trial(workspace, name, {}) for name in names[:2]]
    folders.append(finished_trial(workspace, "t-runless", {"lineage": {"seed": 7}, "mlflow_run": None}))
    told = Trials(workspace, SimpleNamespace(), {}, workspace.shards)
    told.of = lambda trial: SimpleNamespace(name=trial.run, config=configuration.load())
    told.job = lambda trial: {"tags": {"irstd.kind": "trial"}, "params": {"train.lr": 1}}
    told.chain = lambda job: {"seed": 0}
    below = {n: tracking.start(workspace, n, {}, {}, parent) for n in ("t-slow", "t-bad")}
    trials = [Trial(i, n, {}, state="finished") for i, n in enumerate(names, 1)]
    trials += [
        Trial(4, "t-slow", {}, state="pruned"),
        Trial(5, "t-bad", {}, state="failed", error="the loss became nan"),
    ]
    told.complete(SimpleNamespace(trials=trials), parent)
    records = [json.loads((f / "run.json").read_text()) for f in folders]
    assert records[0]["mlflow_run"] == elsewhere
    assert [r["lineage"]["seed"] for r in records] == [0, 0, 7]
    for record in records:
        run = client.get_run(record["mlflow_run"])
        assert run.info.status == "FINISHED" and run.data.tags["irstd.run"] == record["run"]
        assert run.data.metrics["best_val_iou"] == 0.5
        (logged,) = client.get_metric_history(record["mlflow_run"], "loss")
        assert (logged.step, logged.timestamp, logged.value) == (12, 1_500_000_000_000, 0.25)
    assert client.get_run(records[1]["mlflow_run"]).data.tags["mlflow.parentRunId"] == parent
    ended = {name: client.get_run(run_id) for name, run_id in below.items()}
    assert {name: run.info.status for name, run in ended.items()} == {"t-slow": "KILLED", "t-bad": "FAILED"}
    assert ended["t-slow"].data.tags["irstd.state"] == "pruned"
    assert ended["t-bad"].data.tags["irstd.error"] == "the loss became nan"


def test_a_trial_without_its_folder_is_known_by_its_log(workspace):
    rows = [
        {"epoch": e, "step": 4 * e, "val_iou": v, "best_val_iou": b} for e, v, b in ((1, 0.25, 0.25), (2, 0.125, 0.25))
    ]
    run_id = tracking.start(workspace, "t-removed", {}, {})
    tracking.log_rows(tracking.client(workspace), run_id, map(tracking.row_of, rows))
    assert tracking.reports(workspace, "t-removed", "val_iou") is None  # under way
    tracking.finish(workspace, run_id)
    assert tracking.reports(workspace, "t-removed", "val_iou") == rows
    assert tracking.reports(workspace, "t-removed", "val_ap50") is None
    told = Trials(workspace, SimpleNamespace(), {}, workspace.shards)
    assert told.rows("t-removed", "val_iou", ask=True) == rows and told.rows("t-removed", "val_iou", ask=False) is None


def test_a_trial_is_complete_with_its_folder_and_its_run(workspace):
    finished_trial(workspace, "whole", {"lineage": {}, "mlflow_run": "1"})
    finished_trial(workspace, "runless", {"lineage": {}, "mlflow_run": None})
    told = Trials(workspace, SimpleNamespace(), {}, workspace.shards)
    assert told.complete_folder(Trial(1, "whole", {}))
    assert not told.complete_folder(Trial(2, "runless", {})) and not told.complete_folder(Trial(3, "gone", {}))
    assert told.complete_folder(Trial(4, "gone", {}, taken=True))


def test_numbers_of_a_package_from_elsewhere_are_not_logged(workspace, away, tmp_path, capsys):
    row = {"protocol": "strict", "iou": 0.5, "niou": None, "pd": 1.0, "fa": 0.0}
    digests = {"sample": "a" * 64}
    numbers = {"split": "test", "digests": digests, "protocols": [row]}
    client = tracking.client(workspace)
    removed = tracking.start(workspace, "removed", {}, {})
    client.delete_run(removed)
    for run in ("0" * 32, None, removed):
        evaluate.log(workspace, {"mlflow_run": run, "sets": digests}, numbers)
        assert "not in MLflow" in capsys.readouterr().out
    here = tracking.start(workspace, "here", {}, {})
    lineage = {"mlflow_run": here, "sets": digests}
    (tmp_path / "roc.csv").write_text("threshold,fa,pd\n")
    evaluate.log(workspace, lineage, numbers, [tmp_path / "roc.csv"])
    assert [entry.path for entry in client.list_artifacts(here, "evaluation-test")] == ["evaluation-test/roc.csv"]
    assert client.get_run(here).data.metrics == {"test_strict_iou": 0.5, "test_strict_pd": 1.0, "test_strict_fa": 0.0}
    # Of other frames: they do not take the place of the model's own.
    evaluate.log(workspace, lineage, numbers | {"digests": {"other": "b" * 64}, "protocols": [row | {"iou": 0.25}]})
    logged = client.get_run(here).data.metrics
    assert logged["test_strict_iou"] == 0.5 and len(logged) == 6 and 0.25 in logged.values()
    assert not capsys.readouterr().out
    with pytest.raises(WorkError, match=r"127\.0\.0\.1:9"):
        evaluate.log(away, lineage, numbers)


def test_a_model_s_logged_evaluation_is_compared(workspace, tmp_path, capsys):
    row = {"protocol": "strict", "grid": None, "iou": 0.123, "niou": 0.5, "pd": 1.0, "fa": 0.0}
    digests = {"sample": "a" * 64}
    numbers = {"split": "test", "digests": digests, "chosen": "last", "protocols": [row], "baselines": []}
    run_id = tracking.start(workspace, "logged", {}, {})
    package = tmp_path / "model"
    package.mkdir()
    lineage = {"mlflow_run": run_id, "sets": digests}
    (package / "package.json").write_text(json.dumps({"schema": 1, "lineage": lineage}))
    with pytest.raises(InputError, match=r"holds no evaluation on 'test': run irstd evaluate"):
        compare.run(workspace, [str(package)], None, "test", None, None)
    evaluate.log(workspace, lineage, numbers)
    other = numbers | {"digests": {"sample": "b" * 64}, "protocols": [row | {"iou": 0.456}]}
    evaluate.log(workspace, lineage, other)  # other shards, beside its own
    compare.run(workspace, [str(package)], None, "test", None, None)
    text = capsys.readouterr().out
    assert "0.1230" in text and "0.4560" not in text and "| model " in text
    with pytest.raises(InputError, match="no evaluation on 'val'; there are: evaluation-test"):
        compare.run(workspace, [str(package)], None, "val", None, None)


@pytest.mark.parametrize("below", ["", "/sub"])
def test_detect_refuses_a_file_as_its_folder(workspace, tmp_path, below):
    (tmp_path / "taken").write_text("mine")
    np.save(tmp_path / "video.npy", np.zeros((1, 8, 8), np.uint8))
    out = tmp_path / f"taken{below}"
    with pytest.raises(InputError, match="is a file"):
        detect.run(workspace, [str(tmp_path / "video.npy")], "models:/none@champion", out, 8, False)
    assert (tmp_path / "taken").read_text() == "mine"
