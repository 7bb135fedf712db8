"""`irstd bench loader|shard|train|cluster|infer|detect|models|doctor`: a short table of rates, and the ratios that count."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from irstd.commands.show import say, table
from irstd.config import MODELS, Config
from irstd.environment import cores
from irstd.errors import InputError, WorkError, nearest
from irstd.workspace import Workspace


def loader(workspace: Workspace, shards: str | None, seconds: float, memory: bool = False, **sizes: Any) -> None:
    """Windows a second from shards, against image files; with `memory`, the loader's private memory in their place.

    `sizes`: see `measure` in `irstd.bench.loader` and `irstd.bench.memory`.
    """
    from irstd.bench import loader as bench
    from irstd.bench import memory as private

    shards = shards and workspace.shards_in(shards)
    with _scratch(workspace) as folder:
        if memory:
            _show("loader", private.measure(folder, shards, **sizes))
        else:
            _show("loader", bench.measure(folder, seconds, shards, **sizes))


def shard(workspace: Workspace, seconds: float, **sizes: Any) -> None:
    """Frames a second of the shard writer, against the sum of its parts. `sizes`: see `irstd.bench.shard.measure`."""
    from irstd.bench import shard as bench

    with _scratch(workspace) as folder:
        _show("shard", bench.measure(folder, seconds, **sizes))


def train(workspace: Workspace, shards: str | None, seconds: float, **sizes: Any) -> None:
    """The share of a training step that waits for data, and of the steps that checkpoints take.

    `sizes`: see `irstd.bench.train.measure`.
    """
    from irstd.bench import checkpoint
    from irstd.bench import train as bench

    with _scratch(workspace) as folder:
        _show("train", bench.measure(folder, seconds, shards and workspace.shards_in(shards), **sizes))
    with _scratch(workspace) as folder:
        _show("train", checkpoint.measure(folder, seconds))


def cluster(workspace: Workspace, first: bool = True, **sizes: Any) -> None:
    """Ray Train against the bare loop; with `first` the time to the first step too.

    `sizes`: see `irstd.bench.cluster.measure`.
    """
    from irstd.bench import cluster as bench
    from irstd.cluster.plan import Plan
    from irstd.cluster.session import address, session
    from irstd.cluster.train import fit

    with _scratch(workspace) as folder:
        # A workspace of its own: its runs, its Ray and its MLflow go with it.
        own = Workspace(folder / "workspace", folder / "workspace" / ".irstd")
        own.home.mkdir(parents=True)
        (own.root / "data.dvc").touch()
        own.enter()
        with session(own) as resources:
            (own.root / "settings.toml").write_text(f'[ray]\naddress = "{address()}"\n')

            def on_ray(config: Config, shards: Path, name: str, workers: int, threads: int, stepped: Any) -> None:
                plan = Plan(workers, float(threads), 0.0, 1, resources)
                target = own.runs / name / "checkpoint"
                fit(own, config, shards, name, plan, target, None, lambda line: None, stepped=stepped)

            def train(arguments: list[str]) -> str:
                environment = os.environ | {"IRSTD_HOME": str(own.home)}
                call = [sys.executable, "-m", "irstd", "train", *arguments]
                done = subprocess.run(call, cwd=own.root, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise WorkError(f"bench cluster: irstd train failed: {done.stderr.strip().splitlines()[-1]}")
                return done.stdout

            report = bench.measure(folder / "work", on_ray, train if first else None, show=say, **sizes)
        _show("cluster", report)


def infer(
    workspace: Workspace, seconds: float, exported: bool = True, exports: dict[str, Any] | None = None, **sizes: Any
) -> None:
    """Frames a second of the detector, against the bare network; with `exported` of the exported graph and onnxruntime too.

    `sizes`, `exports`: see `measure` in `irstd.bench.infer` and `irstd.bench.exports`.
    """
    from irstd.bench import infer as bench

    with _scratch(workspace) as folder:
        _show("infer", bench.measure(folder, seconds, **sizes))
    if exported:
        from irstd.bench import exports as beside

        say("bench: exporting, which takes about a minute")
        _show("infer", beside.measure(seconds, **(exports or {})))


def detect(workspace: Workspace, seconds: float, recording: Path | None = None, **sizes: Any) -> None:
    """Frames a second of `irstd detect`, against the bare model. `sizes`: see `irstd.bench.detect.measure`."""
    from irstd.bench import detect as bench
    from irstd.commands.detection import Job
    from irstd.commands.detection import detect as one
    from irstd.data.inputs import recordings

    def run(package: Path, video: Path, out: Path, bit_depth: int) -> int:
        (source,) = recordings([str(video)])
        job = Job(
            source, out, package, str(package), bit_depth, ("jsonl",), overlay=False, page=False, distance=None, device="cpu",
            anew=True, one_thread=True,
        )  # fmt: skip
        return one(job, lambda line: None)["frames"]

    if recording is not None and not recording.exists():
        raise InputError(f"--recording {recording}: no such file or folder")
    with _scratch(workspace) as folder:
        _show("detect", bench.measure(folder, seconds, run, video=recording, **sizes))


def doctor(workspace: Workspace, seconds: float, **sizes: Any) -> None:
    """Frames a second of the doctor, against decoding alone. `sizes`: see `irstd.bench.doctor.measure`."""
    from irstd.bench import doctor as bench

    with _scratch(workspace) as folder:
        _show("doctor", bench.measure(folder, seconds, **sizes))


def models(workspace: Workspace, seconds: float, compiled: bool, network: str | None = None, **sizes: Any) -> None:
    """The networks against what they are compared with; `sizes`: see `measure` in `irstd.bench.ggl_net` and `.bp_fpn`."""
    from irstd.bench import bp_fpn, ggl_net

    if network not in (None, *MODELS):
        raise InputError(f"{network!r}: bench models knows {' and '.join(MODELS)}{nearest(str(network), MODELS)}")
    say("bench: preparing")
    if network != "bp-fpn":
        _show("models", ggl_net.measure(seconds, compiled, **sizes))
    if network != "ggl-net":
        _show("models", bp_fpn.measure(seconds, **sizes))


@contextmanager
def _scratch(workspace: Workspace) -> Iterator[Path]:
    """A folder under IRSTD_HOME that goes when the measurement is over."""
    workspace.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=workspace.home) as folder:
        say("bench: preparing")
        yield Path(folder)


def _show(name: str, report: Any) -> None:
    from irstd.bench.timing import figure, machine

    say(f"bench {name}: {report.title}")
    for fact in report.facts:
        say(f"  {fact}")
    rows = [{k: figure(v) if isinstance(v, float) else v for k, v in row.items()} for row in report.rows]
    say("\n" + table(rows) + "\n")
    for line in report.lines():
        say(line)
    say(f"machine: {machine(cores())}")
