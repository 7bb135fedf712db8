"""A run without a cluster and without a tracker, alone or as one of `torchrun`'s processes.

OUT/<run>/checkpoints/     the last two while it goes on
OUT/<run>/checkpoint/      the last, when it is over
OUT/<run>/run.json         what is known of it then
OUT/<run>/package/         the model package: irstd detect VIDEO --model OUT/<run>/package
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from irstd import config as configuration
from irstd import turns
from irstd.errors import InputError
from irstd.files import read_json, sha256_file, staged_folder, write_json
from irstd.foreign import Source
from irstd.inference import package
from irstd.training import checkpoint, expectations
from irstd.training.loop import Run
from irstd.training.preparation import Job, check_batch, prepare
from irstd.training.progress import describe
from irstd.training.record import check_whole, finished, noted
from irstd.training.store import Store

EVERY = 10.0
"""Seconds between lines on how far the steps are."""


def run(
    recipe: Path | None,
    overrides: list[str],
    shards: str,
    out: Path,
    device: str | None = None,
    say: Callable[[str], None] | None = None,
    quick: bool = False,
) -> Path:
    """Train, go on, or take the finished run; its folder. `params.yaml` of the working directory counts as in a workspace."""
    say = say or _say
    sys.path.append(str(Path.cwd()))  # where a network of one's own may lie
    changed = configuration.parse_overrides(overrides)
    config = configuration.load(Path.cwd(), recipe, changed, quick=quick)
    followed = None if recipe is None else expectations.of(recipe, changed, quick)
    with _group(device) as (rank, world, place):
        if rank:
            say = _silent
        job = prepare(config, shards if "://" in shards else Path(shards))
        check_batch(job, world)
        folder = out / job.name
        with ExitStack() as stack:
            if rank == 0:
                out.mkdir(parents=True, exist_ok=True)
                stack.enter_context(turns.of_run(out, job.name, say))
            if _told(finished(folder) is not None):
                history = read_json(folder / "checkpoint" / "state.json")["history"]
                check_whole(job.name, job.config, history, [folder])
                say(f"run {job.name}: trained before, nothing has changed; its result is taken")
            else:
                say(describe(job.config, job.shards))
                _train(job, folder, place, rank, say)
                if rank == 0:
                    _package(job, folder, followed)
            if rank == 0:
                _show(job, folder, followed, say)
    return folder


def _train(job: Job, folder: Path, place: torch.device, rank: int, say: Callable[[str], None]) -> None:
    store = Store(folder)
    kept = _told(store.begin(say) if rank == 0 else None)
    training = Run(job.config, job.shards, place, say, scratch=store.scratch, beside=folder)
    if kept is not None:
        training.restore(kept)
    training.stepped = Progress(training, say)
    training.go(store if rank == 0 else _nowhere)
    if rank == 0:
        last = store.finish()
        write_json(folder / "run.json", _record(job, last))


def _record(job: Job, last: Path) -> dict[str, Any]:
    """`run.json`, as `irstd train` writes it; what no one knows here is null."""
    state = read_json(last / "state.json")
    names = ("irstd", "torch", "numpy", "opencv-python", "safetensors")
    versions = {name: metadata.version(name) for name in names if _installed(name)}
    chain = {
        "run": job.name,
        "identity": job.identity.hash,
        "code": job.identity.content["code"],
        **({"init": job.identity.content["init"]} if "init" in job.identity.content else {}),
        **({"init_from": job.origin} if job.origin else {}),
        "sets": {m.set: m.digest for m in job.manifests},
        "data_md5": None,
        "git_commit": None,
        "git_dirty": None,
        "seed": job.config.train.seed,
        "packages": versions | {"python": platform.python_version()},
        "workers": state["places"],
        **noted(state["history"]),
    }
    values = {"run": job.name, "config": job.config.model_dump(mode="json"), "metrics": state["best"]}
    return values | {"mlflow_run": None, "lineage": chain, "finished": True}


def _package(job: Job, folder: Path, recipe: dict[str, Any] | None) -> None:
    record = read_json(folder / "run.json")
    best = checkpoint.best(folder / "checkpoint")
    measured = job.config.evaluate
    metrics = {
        "split": "val",
        "protocol": measured.protocol,
        "grid": measured.grid,
        "threshold": measured.threshold,
        "chosen": record["metrics"]["chosen"],
        "digests": record["lineage"]["sets"],
        "values": {k.removeprefix("val_"): v for k, v in record["metrics"].items() if k.startswith("val_")},
    }
    lineage = record["lineage"] | {"mlflow_run": None, "weights_sha256": sha256_file(best)}
    source = Source.of(job.config.model.network)
    if recipe is not None:
        lineage["recipe"] = recipe
    if source.files:
        lineage["network_sha256"] = source.hash
    with staged_folder(folder / "package") as staged:
        package.write(staged, best, job.config, job.manifests, lineage, metrics, source if source.files else None)


def _show(job: Job, folder: Path, recipe: dict[str, Any] | None, say: Callable[[str], None]) -> None:
    if not (folder / "package" / "package.json").is_file():  # killed between the two
        _package(job, folder, recipe)
    best = read_json(folder / "run.json")["metrics"]
    values = ", ".join(f"{k} {v:.4g}" for k, v in best.items() if k.startswith("val_") and isinstance(v, float))
    say(f"done: {best['chosen']} checkpoint of epoch {best['epoch']} (step {best['step']}){values and ', ' + values}")
    if job.config.evaluate.wanted_fa or job.config.evaluate.wanted_false_alarms:
        say(
            "the threshold for a wanted rate of false alarms is chosen by irstd train alone; the package has evaluate.threshold"
        )
    for line in () if recipe is None else expectations.of_val(job.config.evaluate, best, recipe):
        say(line)
    say(f"package: {folder / 'package'}")


class Progress:
    """Told of every step, says from time to time how far the run is."""

    def __init__(self, training: Run, say: Callable[[str], None]) -> None:
        self.training, self.say = training, say
        self.began, self.first, self.last = time.monotonic(), training.step, time.monotonic()

    def __call__(self, step: int) -> None:
        now = time.monotonic()
        if now - self.last >= EVERY:
            self.last = now
            rate = (step - self.first) / (now - self.began)
            left = (self.training.total - step) / rate
            self.say(f"step {step} of {self.training.total}, {rate:.3g} steps/s, about {left:.0f} s left")


@contextmanager
def _group(device: str | None) -> Iterator[tuple[int, int, torch.device]]:
    """Rank, number of processes, and device of this one; they are a group where `torchrun` started several."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no GPU that PyTorch can use; leave it out, or --device cpu")
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    place = torch.device(kind, local) if kind == "cuda" else torch.device("cpu")
    if world == 1:
        yield 0, 1, place
        return
    if kind == "cuda":
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield distributed.get_rank(), world, place
    finally:
        distributed.destroy_process_group()


def _told(value: Any) -> Any:
    """Rank 0's value on every rank."""
    told = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(told)
    return told[0]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _say(line: str) -> None:
    print(line, flush=True)


def _silent(line: str) -> None:
    """Rank 0 speaks for all."""


def _nowhere(metrics: dict[str, Any], checkpoint: Path | None) -> None:
    """Rank 0 keeps the checkpoints."""
