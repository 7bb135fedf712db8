"""What reaches a run's log: everything, once, at the time at which it was made, whatever becomes of the server."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from dataclasses import replace

import pytest

from irstd import config as configuration
from irstd.commands import on_cluster, run_log, train
from irstd.errors import WorkError
from irstd.registry import machine, outbox, tracking
from irstd.registry.outbox import Outbox, Row
from irstd.registry.tracker import RunTracker, TrialTracker
from irstd.training import loop
from irstd.workspace import SETTINGS, Workspace
from tests.unit.servers import TrackingServer
from tests.unit.test_training import tiny

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def variables():
    """Trackers write to the environment, as in a process of their own."""
    before = dict(os.environ)
    os.environ.pop("IRSTD_MLFLOW_URI", None)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    yield
    os.environ.clear()
    os.environ.update(before)
    import mlflow

    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(outbox, "RETRY", (0.05, 0.2))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("tracking")
    return Workspace(root, root / ".irstd")


def at(workspace, uri):
    return replace(workspace, settings={**SETTINGS, "mlflow": SETTINGS["mlflow"] | {"uri": uri}})


def report(epoch, **more):
    return {"epoch": epoch, "step": 10 * epoch, "loss": 1 / epoch, "time": 1.7e9 + epoch} | more


def logged(workspace, run_id, key="loss"):
    return [(m.step, m.timestamp, m.value) for m in tracking.client(workspace).get_metric_history(run_id, key)]


def expected(*epochs):
    return [(10 * e, 1_700_000_000_000 + 1000 * e, 1 / e) for e in epochs]


def test_reports_arrive_once_with_their_time(workspace):
    """Also those of a worker that is restarted, which tells again what it told before."""
    tracker = RunTracker(workspace, "restarted", {"irstd.kind": "train"}, {"train.lr": 1})
    tracker.open()
    for reports in ([report(1), report(2)], [report(2, time=1.8e9), report(3)]):
        worker = pickle.loads(pickle.dumps(tracker))
        for each in reports:
            worker(each | {"lr": 0.5, "val_iou": None}, None)
        worker.close()
    assert logged(workspace, tracker.run_id) == expected(1, 2, 3)
    run = tracking.client(workspace).get_run(tracker.run_id)
    assert "time" not in run.data.metrics and "val_iou" not in run.data.metrics and run.data.params == {"train.lr": "1"}
    # The driver adds what never arrived, and only that; the second time nothing.
    for _ in range(2):
        tracking.settle(workspace, tracker.run_id, [report(e) for e in (1, 2, 3, 4)], {"best_val_iou": 0.5, "step": 40})
        assert logged(workspace, tracker.run_id) == expected(1, 2, 3, 4)
        assert [step for step, _, _ in logged(workspace, tracker.run_id, "best_val_iou")] == [40]
        assert tracking.client(workspace).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_trial_is_a_child_of_its_sweep(workspace):
    parent = tracking.start(workspace, "sweep", {"irstd.kind": "tune"}, {})
    tracker = pickle.loads(pickle.dumps(TrialTracker(workspace, "trial", {"irstd.kind": "trial"}, {"a": 1}, parent)))
    # A worker of a trial's own Ray Train run has another copy.
    worker = pickle.loads(pickle.dumps(tracker.begin()))
    worker(report(1), None)
    worker.close()
    tracker.begin()(report(2), None)
    tracker.end("out of memory")
    (run,) = tracking.client(workspace).search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert logged(workspace, run.info.run_id) == expected(1, 2) and run.data.params == {"a": "1"}
    assert run.info.status == "FAILED" and run.data.tags["irstd.error"] == "out of memory"
    assert not any(name.startswith("system/") for name in run.data.metrics)


def test_what_an_interrupted_start_left_out_is_added(workspace):
    first = tracking.start(workspace, "half", {"irstd.workers": 1}, {"a": 1})
    assert tracking.start(workspace, "half", {"irstd.workers": 2}, {"a": 1, "b": 2}) == first
    run = tracking.client(workspace).get_run(first)
    assert run.data.params == {"a": "1", "b": "2"} and run.data.tags["irstd.workers"] == "2"


def test_the_load_of_the_machine_is_logged_beside(workspace, monkeypatch):
    monkeypatch.setattr(machine, "INTERVAL", 0.05)
    tracker = RunTracker(workspace, "loaded", {}, {}, machine=True)
    run_id = tracker.open()
    for epochs in ((1,), (2,)):
        worker = pickle.loads(pickle.dumps(tracker))
        worker.ready()  # long before the first report
        deadline = time.monotonic() + 60
        seen = len(logged(workspace, run_id, tracking.SAMPLE))
        while len(logged(workspace, run_id, tracking.SAMPLE)) < seen + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        worker(report(*epochs), None)
        worker.close()
    samples = logged(workspace, run_id, tracking.SAMPLE)
    # Numbered on by the second process; never twice.
    assert [step for step, _, _ in samples] == [*range(len(samples))] and len(samples) >= 4
    assert {"system/system_memory_usage_percentage", "system/disk_usage_percentage"} <= set(
        tracking.client(workspace).get_run(run_id).data.metrics
    )
    assert logged(workspace, run_id) == expected(1, 2)


def test_an_outbox_keeps_what_was_not_taken():
    taken, said, state = [], [], {"away": True}

    def send(rows):
        if state["away"]:
            raise ConnectionError
        taken.extend(rows)

    box = Outbox(send, lambda error: isinstance(error, ConnectionError), said.append, "MLflow")
    rows = [Row(i, i, {}) for i in range(5)]
    for row in rows[:4]:
        box.put(row)
    deadline = time.monotonic() + 60
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    state["away"] = False
    while not taken and time.monotonic() < deadline:
        time.sleep(0.01)
    box.put(rows[4])
    assert box.close(60) == 0 and taken == rows
    assert [line.partition(";")[0] for line in said] == [
        "irstd: MLflow does not answer",
        "irstd: MLflow answers again",
    ]
    # One that refuses is not asked again, and one that stays away is not waited for.
    refusing = Outbox(lambda rows: 1 / 0, lambda error: False, said.append, "MLflow")
    refusing.put(rows[0])
    assert refusing.close(60) == 1 and "takes no more reports: division by zero" in said[-1]
    state["away"] = True
    lonely = Outbox(send, lambda error: True, said.append, "MLflow")
    lonely.put(rows[0])
    assert lonely.close(60) == 1


def test_samples_of_a_long_absence_are_bounded_and_reports_are_not(monkeypatch):
    monkeypatch.setattr(outbox, "SAMPLES", 5)

    def send(rows):
        raise ConnectionError

    box = Outbox(send, lambda error: True, lambda line: None, "MLflow")
    for i in range(8):
        box.put(Row(i, i, {}))
        box.put(Row(i, None, {}))
    assert box.close(60) == 13 and [row.time for row in box._rows if row.step is None] == [3, 4, 5, 6, 7]


def test_what_mlflow_refuses_is_no_absence(workspace, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE", 1.0)
    gone = at(workspace, "http://127.0.0.1:9")
    tracking.client(gone)  # imports take their time
    lines = []
    with pytest.raises(
        WorkError, match=r"127.0.0.1:9 does not answer \(Connection refused\); when it does, the same command logs"
    ):
        tracking.patiently(gone, lambda: tracking.start(gone, "r", {}, {}), lines.append, "logs the run")
    assert len(lines) == 1
    with pytest.raises(WorkError, match="Run with id=0+ not found"):
        tracking.patiently(workspace, lambda: tracking.finish(workspace, "0" * 32), lines.append, "logs the run")
    assert len(lines) == 1


@pytest.mark.slow
def test_a_trained_run_is_logged_when_mlflow_is_back(workspace, sample_shards, monkeypatch, capsys):
    """The command ends in one line; given again it logs what it has on the disk, and trains no more."""
    monkeypatch.setattr(tracking, "PATIENCE", 0.0)
    job = train.prepare(tiny(train__epochs=2), sample_shards)
    folder = workspace.runs / job.name

    def trained(*_):
        loop.fit(
            job.config, sample_shards, lambda _, kept: shutil.copytree(kept, folder / "checkpoint", dirs_exist_ok=True)
        )

    monkeypatch.setattr(on_cluster, "train", trained)
    with pytest.raises(
        WorkError, match="does not answer .*; when it does, the same command logs and registers the run"
    ):
        train.execute(at(workspace, "http://127.0.0.1:9"), job)
    monkeypatch.delattr(on_cluster, "train")
    record = train.execute(workspace, job)
    assert "trained before; what its log lacks is added" in capsys.readouterr().out
    state = json.loads((folder / "checkpoint" / "state.json").read_text())
    rows = [(row["step"], int(row["time"] * 1000), row["loss"]) for row in state["history"]]
    assert logged(workspace, record["mlflow_run"]) == rows and len(rows) == 2
    client = tracking.client(workspace)
    run = client.get_run(record["mlflow_run"])
    assert run.info.status == "FINISHED" and run.data.params["train.loss.bce"] == "1.0"
    tags = {"irstd.git_commit", "irstd.git_dirty", "irstd.data_md5", "irstd.shards", "irstd.seed", "irstd.code"}
    assert tags <= set(run.data.tags)
    names = {entry.path for entry in client.list_artifacts(record["mlflow_run"])}
    assert {"results.csv", "config.yaml", "packages.txt", "lineage.json"} <= names
    # What was logged as the configuration is a recipe of the same run.
    again = configuration.load(None, folder / "config.yaml", {}, "ggl-net")
    assert train.prepare(again, sample_shards).name == job.name
    assert "torch==" in (folder / "packages.txt").read_text()
    assert train.execute(at(workspace, "http://127.0.0.1:9"), job) == record

    # Curves and gallery: made once, logged when they can be.
    package = train.write_package(workspace, job, record)
    gone = at(workspace, "http://127.0.0.1:9")
    with pytest.raises(WorkError, match="does not answer"):
        run_log.pictures(gone, job, record, package)
    pictures = folder / "pictures"
    made = {path.relative_to(pictures).as_posix() for path in pictures.rglob("*") if path.is_file()}
    names = {"curves/loss.png", "curves/val.csv", "curves/pr.png", "curves/roc.csv", "curves/froc.png"}
    assert names | {"gallery/gallery.html", "gallery/gallery.png"} <= made
    before = (pictures / "gallery" / "gallery.html").stat().st_mtime_ns
    run_log.pictures(workspace, job, record, package)
    for part in ("curves", "gallery"):
        there = {entry.path for entry in client.list_artifacts(record["mlflow_run"], part)}
        assert there == {name for name in made if name.startswith(part)} and there
    assert before == (pictures / "gallery" / "gallery.html").stat().st_mtime_ns
    run_log.pictures(gone, job, record, package)
    # With another threshold, and without the pass over val.
    train.write_package(workspace, replace(job, config=tiny(train__epochs=2, evaluate__threshold=0.25)), record)
    run_log.pictures(workspace, job, record, package)
    assert "threshold 0.25" in (pictures / "gallery" / "gallery.html").read_text()
    quiet = replace(workspace, settings={**SETTINGS, "mlflow": SETTINGS["mlflow"] | {"gallery": False}})
    run_log.pictures(quiet, job, record, package)
    left = {path.relative_to(pictures).as_posix() for path in (pictures / "curves").rglob("*")}
    assert not (pictures / "gallery").exists() and left == {
        f"curves/{name}.{kind}" for name in ("loss", "val") for kind in ("csv", "png")
    }


@pytest.fixture
def server(tmp_path):
    made = TrackingServer(tmp_path)
    yield made
    made.kill()


@pytest.mark.slow
def test_a_run_outlives_its_server(workspace, server, sample_shards, tmp_path, capsys):
    """It is killed in the middle of a run, comes back during it, and is killed before the end."""
    server.start()
    here = at(workspace, server.uri)
    tracker = RunTracker(here, "outlives", {}, {"train.lr": 1}, machine=True)
    tracker.open()
    state = {}

    def taken(count):
        deadline = time.monotonic() + 60
        while len(logged(here, tracker.run_id)) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(logged(here, tracker.run_id)) == count

    def keep(metrics, folder):
        tracker(metrics, folder)
        state.update(json.loads((folder / "state.json").read_text()))
        if metrics["epoch"] == 1:
            taken(1)
            server.kill()
        if metrics["epoch"] == 3:
            server.start()
            taken(3)
            server.kill()

    loop.fit(tiny(), sample_shards, keep, log=lambda line: None)
    tracker.close()
    said = capsys.readouterr().out
    assert said.count("does not answer") == 2 and said.count("answers again") == 1
    assert len(state["history"]) == 4
    server.start()
    tracking.settle(here, tracker.run_id, state["history"], {"step": state["step"]})
    found = logged(here, tracker.run_id)
    assert found == [(row["step"], int(row["time"] * 1000), row["loss"]) for row in state["history"]]


def test_the_load_is_not_looked_at_before_the_first_interval(monkeypatch):
    """What looks is MLflow's, whose import the first step of a training would wait for."""
    looked: list[str] = []
    monkeypatch.setattr(machine, "_monitors", lambda: looked.append("imported") or [])
    sampler = machine.Sampler(looked.append, interval=600)
    sampler.close()
    assert not looked
