"""Ray Train: the loop of `irstd.training` over workers, with checkpoints in Ray's storage.

One call of `fit` is one call of Ray's trainer. The run's name is its identity, so a run that was killed goes on from its
last checkpoint when the same command is given again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from irstd.cluster.console import console
from irstd.cluster.plan import Plan
from irstd.config import Config
from irstd.errors import IrstdError, WorkError
from irstd.files import staged_folder
from irstd.foreign import Source
from irstd.workspace import Workspace


class Tracker(Protocol):
    """What rank 0's reports go to. Picklable; a call never waits."""

    say: Callable[[str], None]

    def __call__(self, metrics: dict[str, Any], checkpoint: Path | None, /) -> None: ...

    def close(self) -> None:
        """Send what waits, for a bounded time."""


def fit(
    workspace: Workspace,
    config: Config,
    shards: str | Path,
    name: str,
    plan: Plan,
    target: Path,
    tracker: Tracker | None = None,
    show: Callable[[str], None] = print,
    callbacks: list[Any] | None = None,
) -> None:
    """Train on the running Ray session and leave the last checkpoint (the best weights with it) in the folder `target`.

    Args:
        name: the run's identity; also its folder in Ray's storage.
        tracker: called on rank 0 with each report (picklable; for example MLflow's).
        callbacks: further `ray.train.UserCallback`s (a trial's report to Ray Tune).

    Raises: WorkError with the first worker's reason when the run failed more often than it is retried.
    """
    with console(show) as say:
        job = {
            "config": config.model_dump(mode="json"),
            "shards": str(shards if isinstance(shards, str) else shards.resolve()),
            "threads": plan.threads,
            "tracker": tracker,
            "say": say,
            "source": Source.of(config.model.network),
        }
        trainer = TorchTrainer(
            worker,
            train_loop_config=job,
            torch_config=TorchConfig(backend="nccl" if plan.gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=plan.workers,
                use_gpu=bool(plan.gpus_per_worker),
                resources_per_worker=_resources(plan),
            ),
            run_config=RunConfig(
                name=name,
                storage_path=workspace.ray_storage,
                # Two: the one before serves where the last is torn.
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                failure_config=FailureConfig(max_failures=2),
                callbacks=callbacks or [],
            ),
        )
        try:
            result = trainer.fit()
        except Exception as error:
            raise WorkError(f"run {name} failed: {reason(error)}") from error
    if result.checkpoint is None:
        raise WorkError(f"run {name} ended without a checkpoint; see Ray's logs in {workspace.ray_session}")
    with result.checkpoint.as_directory() as folder, staged_folder(target) as staged:
        shutil.copytree(folder, staged, dirs_exist_ok=True)


def worker(job: dict[str, Any]) -> None:
    """One rank: what Ray runs on each worker."""
    import torch

    from irstd.training.loop import fit as train

    torch.set_num_threads(job["threads"])
    context = ray.train.get_context()
    tracker, say = job["tracker"], job["say"]
    if tracker is not None:
        tracker.say = say

    def report(metrics: dict[str, Any], folder: Path | None) -> None:
        if tracker is not None and context.get_world_rank() == 0:
            tracker(metrics, folder)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder) if folder else None)

    kept = ray.train.get_checkpoint()
    # The network's own code came with the job, wherever this worker runs.
    try:
        with tempfile.TemporaryDirectory(prefix="irstd-resume-") as place, job["source"].unpacked():
            train(
                Config.model_validate(job["config"]),
                job["shards"],
                report,
                resume=Path(kept.to_directory(place)) if kept else None,
                device=ray.train.torch.get_device(),
                log=say if context.get_world_rank() == 0 else _silent,
            )
    finally:
        if tracker is not None:
            tracker.close()


def _resources(plan: Plan) -> dict[str, float]:
    found = {"CPU": plan.cpus_per_worker}
    return found | {"GPU": plan.gpus_per_worker} if plan.gpus_per_worker else found


def _silent(line: str) -> None:
    """The other ranks' progress is rank 0's."""


def reason(error: BaseException) -> str:
    """The first cause of a failure in one line: a worker's own error where there is one."""
    seen: BaseException | None = error
    while seen is not None:
        failures = getattr(seen, "worker_failures", None)
        if failures:
            seen = next(iter(failures.values()))
            continue
        cause = getattr(seen, "cause", None) or seen.__cause__
        if isinstance(seen, IrstdError) or not isinstance(cause, BaseException) or cause is seen:
            break
        seen = cause
    lines = [line for line in str(seen).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(seen).__name__
