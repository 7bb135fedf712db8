"""Searches on a real Ray: killed at any moment they go on and run nothing twice; faults of trials; trials of several workers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from irstd.data.synthetic import SceneSpec, write_source
from tests.cluster.test_kill import of_workspace
from tests.integration.conftest import irstd, new_workspace
from tests.unit.servers import TrackingServer

FIXED = {"data.crop": 32, "train.batch": 4, "model.width": 4, "train.val_every": 1, "train.checkpoint_every": 1}
LR = {"train.lr": {"loguniform": [1e-4, 1e-2]}}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A workspace whose set is so small that a trial takes seconds."""
    folder = tmp_path_factory.mktemp("sweeps")
    specs = {
        f"s{i}": SceneSpec(34, 46, 8, fps=25.0, seed=i, kind="clouds", offset=3000 + 100 * i, span=100, targets=2)
        for i in range(9)
    }
    write_source(folder / "source", specs)
    workspace = new_workspace(folder / "w")
    irstd(workspace, "ingest", str(folder / "source"), "--name", "sample")
    irstd(workspace, "shard")
    return workspace


def space(place: Path, name: str, **content) -> None:
    values = {"recipe": "recipes/demo.yaml", "fixed": FIXED, "space": LR, "confirmation": "none"} | content
    (place / "tune_spaces" / f"{name}.yaml").write_text(yaml.safe_dump(values))


def journal(place: Path, name: str) -> list[dict]:
    """The whole lines of the search's journal."""
    paths = [*(place / ".irstd" / "sweeps").glob(f"{name}-*/journal.jsonl")]
    if not paths:
        return []
    lines = paths[0].read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def record(place: Path, name: str) -> dict:
    (path,) = (place / ".irstd" / "sweeps").glob(f"{name}-*/sweep.json")
    return json.loads(path.read_text())


def killed(place: Path, name: str, events: int) -> None:
    """Start the search and kill its driver after so many further events. What it said is in the file `NAME-N.out`."""
    before = len(journal(place, name))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("IRSTD_", "PREFECT_", "MLFLOW_", "RAY_"))}
    command = [sys.executable, "-u", "-m", "irstd", "tune", name, "--no-register"]
    told = place.parent / f"{name}-{len([*place.parent.glob(f'{name}-*.out')])}.out"
    with told.open("w") as out:
        process = subprocess.Popen(command, cwd=place, env=kept, stdout=out, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None and len(journal(place, name)) < before + events:
                time.sleep(0.02)
            early = process.poll()
        finally:
            process.kill()
            process.wait()
    # A search that was quicker than its killer is fine; one that failed is not.
    assert early in (None, 0), f"the driver ended by itself with status {early}:\n{told.read_text()}"
    deadline = time.monotonic() + 120
    while of_workspace(place) and time.monotonic() < deadline:
        time.sleep(1)
    assert not of_workspace(place), told.read_text()


def test_a_search_that_is_killed_goes_on_and_runs_nothing_twice(place):
    space(
        place,
        "tough",
        search="tpe",
        scheduler={"kind": "asha", "grace": 1, "reduction": 2},
        budget={"trials": 4, "epochs": 3},
    )
    seed = int(os.environ.get("IRSTD_TEST_SEED") or time.time())
    print(f"IRSTD_TEST_SEED={seed}")
    draw = random.Random(seed)
    killed(place, "tough", draw.randint(3, 7))
    killed(place, "tough", draw.randint(2, 8))
    first = [event["run"] for event in journal(place, "tough") if event["event"] == "ask"]
    done = irstd(place, "tune", "tough", "--resume", "--no-register", timeout=500)
    events = journal(place, "tough")
    over: set[int] = set()
    steps: dict[int, list[int]] = {}
    for event in events:
        if event["event"] == "end":
            over.add(event["trial"])
        elif event["event"] == "start":
            assert event["trial"] not in over, "a trial that was over began again"
        elif event["event"] == "report":
            steps.setdefault(event["trial"], []).append(event["row"]["step"])
    assert over == {1, 2, 3, 4}, done.stdout
    assert len({e["run"] for e in events if e["event"] == "ask"}) == 4
    assert [e["run"] for e in events if e["event"] == "ask"][: len(first)] == first
    assert all(found == sorted(set(found)) for found in steps.values()), "a step was reported twice"
    found = record(place, "tough")
    assert found["state"] == "finished" and set(found["counts"]) <= {"finished", "pruned"}
    assert "trial 4/4" in done.stdout or "searched before" in done.stdout
    (page,) = (place / ".irstd" / "sweeps").glob("tough-*/sweep.html")
    assert page.read_text().count('<td class="run">') == 4
    again = irstd(place, "tune", "tough", "--no-register")
    assert "searched before, nothing has changed" in again.stdout
    assert len([e for e in journal(place, "tough") if e["event"] == "start"]) == len(
        [e for e in events if e["event"] == "start"]
    )


def test_a_trial_that_fails_is_in_the_table_and_the_search_goes_on(place):
    space(place, "one", search="grid", space={"train.lr": {"choice": [1e-3, 1e30, 2e-3]}}, budget={"epochs": 2})
    done = irstd(place, "tune", "one", "--no-register")
    states = {t["overrides"]["train.lr"]: (t["state"], t["error"]) for t in record(place, "one")["trials"]}
    assert states[1e-3] == states[2e-3] == ("finished", None)
    assert states[1e30][0] == "failed" and "the training loss became" in states[1e30][1]
    assert "the training loss became" in done.stdout.split("trial  train.lr")[1]


def test_when_all_fail_the_first_reason_is_the_error(place):
    space(place, "all", search="grid", space={"train.lr": {"choice": [1e30, 1e31]}}, budget={"epochs": 2})
    done = irstd(place, "tune", "all", "--no-register", check=1)
    assert "all 2 trials failed; the first: the training loss became" in done.stderr
    assert record(place, "all")["state"] == "failed"


def test_trials_of_two_workers_are_stopped_and_give_their_places_back(place):
    """Each takes the whole machine, so a stopped trial that kept its workers would leave none for the next."""
    space(
        place,
        "wide",
        search="random",
        scheduler={"kind": "asha", "grace": 1, "reduction": 4},
        budget={"trials": 4, "epochs": 3},
        workers=2,
    )
    irstd(place, "tune", "wide", "--no-register", "--parallel", "1", timeout=550)
    found = record(place, "wide")
    assert found["state"] == "finished" and found["plan"]["workers"] == 2
    assert found["counts"].get("pruned") and found["counts"].get("finished")
    assert not of_workspace(place)


@pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")
def test_a_search_without_its_tracking_server_is_logged_by_the_same_command(place, tmp_path):
    """Stopped trials wait for the server before they end, and the next ones begin in their processes all the same."""
    space(
        place,
        "away",
        search="grid",
        space={"train.lr": {"choice": [1e-2, 1e-4, 3e-4]}},
        scheduler={"kind": "asha", "grace": 1, "reduction": 2},
        budget={"epochs": 3},
    )
    server = TrackingServer(tmp_path)
    (place / "settings.toml").write_text(f'[mlflow]\nuri = "{server.uri}"\n')
    try:
        done = irstd(place, "tune", "away", "--no-register", "--parallel", "1", check=1, timeout=500)
        assert f"MLflow at {server.uri} does not answer" in done.stdout and "the same command" in done.stderr
        first = journal(place, "away")
        assert {e["trial"] for e in first if e["event"] == "end"} == {1, 2, 3}, done.stdout
        server.start()
        irstd(place, "tune", "away", "--no-register", "--parallel", "1", timeout=500)
        assert [e for e in journal(place, "away") if e["event"] == "start"] == [
            e for e in first if e["event"] == "start"
        ]
        from mlflow import MlflowClient

        client = MlflowClient(server.uri, server.uri)
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
        kinds = [run.data.tags.get("irstd.kind") for run in runs]
        assert kinds.count("tune") == 1 and kinds.count("trial") == record(place, "away")["counts"]["finished"]
        (whole,) = (run for run in runs if run.data.tags.get("irstd.kind") == "tune")
        names = {f.path for f in client.list_artifacts(whole.info.run_id)}
        assert {"sweep.json", "curves.csv", whole.data.tags["irstd.page"]} <= names
    finally:
        server.kill()
        (place / "settings.toml").unlink()
