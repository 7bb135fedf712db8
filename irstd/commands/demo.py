"""`irstd demo`: the whole road on the sample, each step said, what has not changed skipped.

Raw 16-bit video from the DVC remote in the repository, shards, a search, a training with what it found, a registered
model, a pull in a new process, detections drawn on a recording of the test split, and a table beside the classical
baselines.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from irstd import config as configuration
from irstd import versioning
from irstd.commands import evaluate, run_log, scores, shard, train, tune
from irstd.commands.show import say, table
from irstd.data import sequence, splits
from irstd.errors import InputError, WorkError
from irstd.workspace import Workspace

SET = "sample"
RECIPE = Path("recipes/demo.yaml")


def run(workspace: Workspace) -> None:
    from irstd.cluster.session import kept

    started = time.monotonic()
    _title("1  data", "raw 14-bit infrared video, versioned by DVC")
    if not versioning.fetch_data(workspace, say):
        say("data: the version of data.dvc is here")
    if SET not in sequence.sets(workspace.data):
        raise InputError("the set 'sample' is not in data/; git checkout data.dvc, then dvc checkout")
    items = sequence.sequences(workspace.data, SET)
    say(f"{len(items)} recordings, {sum(s.frames for s in items)} frames {items[0].width}x{items[0].height}")

    _title("2  shards", "WebDataset tars with gradient maps")
    shard.ensure(workspace)

    overrides: dict = {}
    with kept():
        _title("3  search", "Ray Tune over tune_spaces/demo.yaml")
        found = tune.search(workspace, "demo", overrides, workers=1)
        say(f"the best checkpoint of each trial: {found['about']}")
        say(table(found["rows"]))
        overrides = dict(found["best"]["overrides"])

        _title("4  training", "Ray Train with what the search found")
        config = configuration.load(workspace.root, workspace.root / RECIPE, overrides, "ggl-net")
        job = train.prepare(config, workspace.shards)
        record = train.execute(workspace, job)

    _title("5  registry", "the best checkpoint as a version in MLflow")
    package = train.write_package(workspace, job, record)
    run_log.pictures(workspace, job, record, package)
    version = train.publish(workspace, job, record, package)
    uri = f"models:/{config.registered_name}/{version}"
    from irstd.registry import models

    champion = models.aliased(workspace, config.registered_name, "champion")
    if str(champion.version) == version:
        uri = f"models:/{config.registered_name}@champion"

    _title("6  detection", f"{uri} pulled in a new process, on a recording of the test split")
    target = _held_out(workspace)
    out = workspace.home / "demo" / "detections"
    shutil.rmtree(out, ignore_errors=True)
    call = [sys.executable, "-m", "irstd", "detect", str(target.recording), "--model", uri, "--out", str(out)]
    call += ["--bit-depth", str(target.bit_depth)]
    process = subprocess.run(call, cwd=workspace.root, check=False, text=True, stdout=subprocess.PIPE)
    for line in process.stdout.splitlines():
        if not line.startswith("irstd-result"):
            say(line)
    if process.returncode:
        raise WorkError(f"detection ended with status {process.returncode}")

    _title("7  numbers", "the held-out test recordings, beside classical baselines at the same false-alarm rate")
    measured = evaluate.score(models.package(workspace, uri), workspace.shards, "test", [SET])
    scores.show(measured)
    _compare(measured)

    say("")
    say(f"demo: done in {time.monotonic() - started:.0f} s")
    stack = workspace.stack
    if stack:
        say(f"web pages: Prefect {stack['prefect_api'].removesuffix('/api')}, MLflow {stack['mlflow']}")
    else:
        say("the web pages of Prefect, MLflow and Ray: irstd up (and irstd down)")


def _held_out(workspace: Workspace) -> sequence.Sequence:
    """A recording of the test split with targets."""
    given = splits.read(workspace.data / SET)
    test = [s for s in sequence.sequences(workspace.data, SET) if splits.split_of(s, given) == "test"]
    return max(test, key=lambda s: (s.target_frames > 0, s.target_frames))


def _compare(measured: dict) -> None:
    """The demo's promise: the model beats the classical baselines at the same false-alarm rate."""
    mine = measured["protocols"][0]["pd"] or 0.0
    if not measured["baselines"]:
        raise WorkError("the model marks too many pixels to be compared with the classical baselines")
    best = max(measured["baselines"], key=lambda b: b["pd"] or 0.0)
    if mine <= (best["pd"] or 0.0):
        raise WorkError(f"the model's Pd {mine:.3f} does not beat {best['method']}'s {best['pd']:.3f} at the same Fa")


def _title(what: str, line: str) -> None:
    say("")
    say(f"== {what}: {line}")
