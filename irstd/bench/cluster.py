"""`irstd bench cluster`: what Ray Train costs: in a step, with two workers, and until the first step.

Ray itself is handed in, as `OnRay`. The work is that of `irstd train`: the same loop, loader and network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from irstd import config as configuration
from irstd.bench.baselines import Scenes, write_shards
from irstd.bench.timing import Ratio, Report
from irstd.config import Config
from irstd.errors import WorkError
from irstd.training.loop import fit

STEPS, WARM = 24, 8
"""Steps of a run, and how many of them pass before the clock counts."""
ROUNDS = 3
STEP, TWO, LATER = 1 / 1.03, 0.9, 20.0
"""Goals: rate of steps on Ray, rate of two workers, seconds by which a run begins later."""
FIRST = re.compile(r"^first step after ([\d.]+) s: .*$", re.MULTILINE)
PLAIN = """
import sys, time
began = float(sys.argv[1])
import torch
from pathlib import Path
from irstd import config
from irstd.training.loop import fit
torch.set_num_threads(int(sys.argv[3]))
class First(BaseException): pass
def first(step): raise First
try:
    found = config.load(overrides=config.parse_overrides(sys.argv[4:]))
    fit(found, Path(sys.argv[2]), lambda *a: None, log=lambda line: None, stepped=first)
except First:
    print(time.time() - began)
"""

OnRay = Callable[[Config, Path, str, int, int, Any], None]
"""Trains (configuration, shards, name of the run, workers, threads of each, what each worker is to call after a step)."""
Train = Callable[[list[str]], str]
"""Runs `irstd train` with these arguments as a process of its own, on a Ray that is up; what it printed."""


class Stamps:
    """Called after each step: notes the time, and writes all of them down with the last step. Picklable."""

    def __init__(self, folder: Path, last: int) -> None:
        self.folder, self.last = folder, last
        self.times: list[tuple[float, float]] = []

    def __call__(self, step: int) -> None:
        self.times.append((time.perf_counter(), time.process_time()))
        if step == self.last:
            (self.folder / f"{os.getpid()}-{time.monotonic_ns()}.json").write_text(json.dumps(self.times))

    def read(self) -> tuple[float, float]:
        """Seconds that pass in a step, the median, and seconds of work in it, the mean, of the slowest worker."""
        found = []
        for path in self.folder.glob("*.json"):
            times = json.loads(path.read_text())[WARM:]
            path.unlink()
            passed = [b[0] - a[0] for a, b in zip(times[:-1], times[1:], strict=True)]
            found.append((median(passed), (times[-1][1] - times[0][1]) / len(passed)))
        if not found:
            raise WorkError("bench cluster: no worker noted its steps")
        return max(found)


def measure(
    folder: Path,
    on_ray: OnRay,
    train: Train | None,
    scenes: Scenes | None = None,
    crop: int = 192,
    width: int = 16,
    rounds: int = ROUNDS,
    show: Callable[[str], None] = lambda line: None,
) -> Report:
    """Train on `scenes` (in the empty folder `folder`): on Ray and without it in turns, then with one worker and with two.

    `train` None leaves the time to the first step out. `show` is told what begins.
    """
    scenes = scenes or Scenes(sequences=2, height=256, width=320, frames=STEPS)
    shards = write_shards(scenes, folder)
    overrides = {
        "data.crop": crop,
        "model.width": width,
        "train.batch": 2,
        "train.val_every": 99,
        "train.schedule": "constant",
    }
    config = configuration.load(
        overrides=overrides | {"train.epochs": -(-STEPS * 2 // (scenes.sequences * scenes.frames))}
    )
    report = Report("Ray Train against the bare loop, two workers against one, and the first step")
    cores = min(2, os.cpu_count() or 1)
    report.facts = [
        f"{scenes}; GGL-Net of width {width}, crops of {crop}, batches of 2, {STEPS} steps a run of which {WARM} are not counted",
        "the same loop, seed and work on all sides; a run on Ray has DDP, its console and its hooks as in irstd train",
    ]
    if train is not None:
        _first(report, train, shards, overrides, cores, rounds, show)
    notes = folder / "stamps"
    notes.mkdir()
    sides: dict[str, list[tuple[float, float]]] = {
        "bare loop": [],
        "Ray, 1 worker": [],
        "1 worker": [],
        "2 workers": [],
    }
    total = steps(config, shards)
    for number in range(rounds):
        show(f"bench: steps, round {number + 1} of {rounds}: bare loop, one worker on Ray, one of {cores} threads, two")
        stamps = Stamps(notes, total)
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        fit(config, shards, lambda metrics, checkpoint: None, log=lambda line: None, stepped=stamps)
        torch.set_num_threads(before)
        sides["bare loop"].append(stamps.read())
        for side, workers, threads in (
            ("Ray, 1 worker", 1, 1),
            ("1 worker", 1, cores),
            ("2 workers", 2, max(1, cores // 2)),
        ):
            on_ray(config, shards, f"{side}-{number}".replace(" ", "-"), workers, threads, Stamps(notes, total))
            sides[side].append(Stamps(notes, total).read())
    for side, found in sides.items():
        threads = {"bare loop": 1, "Ray, 1 worker": 1, "1 worker": cores, "2 workers": max(1, cores // 2)}[side]
        row = {"side": side, "threads each": threads, "samples/s": 2 / median(f[0] for f in found)}
        report.rows.append(row | {"CPU s/step": median(f[1] for f in found)})
    for what, index in (("", 0), (", by CPU time", 1)):
        name = f"steps/s on Ray / bare loop{what}"
        report.ratios.append((name, _ratio(sides["bare loop"], sides["Ray, 1 worker"], index)))
        report.goals[name] = STEP
    name = f"samples/s of 2 workers / 1 worker with {cores} threads"
    report.ratios.append((name, _ratio(sides["1 worker"], sides["2 workers"], 0)))
    report.goals[name] = TWO
    return report


def steps(config: Config, shards: Path) -> int:
    """Steps of a whole run."""
    from irstd.data.manifest import read_all
    from irstd.training.loop import loader_for

    manifests = read_all(shards, config.data.sets)
    return config.train.epochs * len(loader_for(config, shards, "train", manifests, batch_size=config.train.batch))


def _ratio(slow: list[tuple[float, float]], fast: list[tuple[float, float]], index: int) -> Ratio:
    """How many times as fast the second is, round by round."""
    found = [a[index] / b[index] for a, b in zip(slow, fast, strict=True)]
    return Ratio(median(found), min(found), max(found), len(found))


def _first(
    report: Report,
    train: Train,
    shards: Path,
    overrides: dict[str, Any],
    threads: int,
    rounds: int,
    show: Callable[[str], None],
) -> None:
    """Seconds from the start of a process to its first step, on a Ray that is up and without Ray."""
    values = [f"{key}={value}" for key, value in overrides.items()]
    plain, ours, lines = [], [], []
    # The first call makes MLflow's database, which is there on any other day.
    for number in range(rounds + 1):
        show(f"bench: first step, round {number} of {rounds}: plain script, irstd train")
        call = [
            sys.executable,
            "-c",
            PLAIN,
            str(time.time()),
            str(shards),
            str(threads),
            *values,
            f"train.seed={number}",
        ]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WorkError(f"bench cluster: the plain script failed: {done.stderr.strip().splitlines()[-1]}")
        text = train(
            ["ggl-net", "--no-register", "--shards", str(shards), *values, "train.epochs=1", f"train.seed={number}"]
        )
        found = FIRST.search(text)
        if found is None:
            raise WorkError(f"bench cluster: irstd train told no first step: {text.strip().splitlines()[-1:]}")
        if number:
            plain.append(float(done.stdout))
            ours.append(float(found[1]))
            lines.append(found[0])
    later = median(a - b for a, b in zip(ours, plain, strict=True))
    verdict = "held" if later <= LATER else "missed"
    report.results = [
        f"FIRST STEP irstd train {median(ours):.1f} s, plain script {median(plain):.1f} s: {later:.1f} s later over {rounds} "
        f"rounds; goal {LATER:g} s at the most: {verdict}",
        *(f"  {line}" for line in lines),
    ]
