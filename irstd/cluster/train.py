"""Ray Train: the loop of `irstd.training` over workers, with checkpoints in Ray's storage.

One call of `fit` is one call of Ray's trainer. The run's name is its identity, so a run that was killed goes on from its
last checkpoint when the same command is given again. What ends a worker, and what is done about it: `irstd.cluster.faults`.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController

from irstd.cluster.beginning import Beginning
from irstd.cluster.console import Say, console, spoken
from irstd.cluster.drill import Drill, Drills, hook
from irstd.cluster.faults import PLACING, TRIES, Watch, cause, plain, reason, told
from irstd.cluster.plan import Plan
from irstd.cluster.session import free_places
from irstd.cluster.storage import KEPT, Storage, agreed
from irstd.config import Config
from irstd.errors import WorkError
from irstd.files import staged_folder
from irstd.foreign import Source
from irstd.training import kept as kept_epochs
from irstd.training.identity import Identity
from irstd.workspace import Workspace

STOP_EVERY, STOPPING = 0.5, 60.0
"""Seconds between looks whether a run is to be stopped, and how long its workers may take to end."""


class Tracker(Protocol):
    """What rank 0's reports go to. Picklable; a call never waits."""

    def ready(self, say: Callable[[str], None]) -> None:
        """The training begins in this process; `say` is told of what does not go well."""

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
    known: Identity | None = None,
    drills: list[Drill] | None = None,
    beginning: Beginning | None = None,
    stepped: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Train on the running Ray session and leave the last checkpoint (the best weights with it) in the folder `target`.

    Args:
        name: the run's identity; also its folder in Ray's storage.
        tracker: called on rank 0 with each report (picklable; for example MLflow's).
        show: is given what the workers say and print, line by line.
        callbacks: further `ray.train.UserCallback`s (a trial's report to Ray Tune).
        known: see `irstd.training.loop.fit`.
        drills: failures to try, noted beside `target`.
        beginning: times until here; the first worker says them, with its own, at its first step.
        stepped: told, on every worker, the number of steps done (picklable).
        stop: asked twice a second; once it says so the workers are ended, their places free, and SystemExit is raised.

    Raises: IrstdError of the program's own error, at once; WorkError where workers were lost more often than is tried again.
    """
    storage = Storage(workspace.ray_storage, name)
    noted = Drills(target.parent, show)
    for drill in drills or ():
        if str(drill) in noted.done():
            show(f"chaos {drill}: was done before in this run, and is not done again")
    with console(show, answer=noted.answer) as say:
        job = {
            "name": name,
            "storage": workspace.ray_storage,
            "config": config.model_dump(mode="json"),
            "shards": str(shards if isinstance(shards, str) else shards.resolve()),
            "threads": plan.threads,
            "elastic": plan.least is not None,
            "tracker": tracker,
            "say": say,
            "source": Source.of(config.model.network),
            "known": known,
            "drills": drills or [],
            "beginning": beginning,
            "stepped": stepped,
            "beside": (beside := _beside(workspace.ray_storage, name)),
        }
        try:
            result = _run(job, storage, plan, callbacks or [], say, show, stop)
        finally:
            kept_epochs.fetch(beside, target.parent)
    for drill in drills or ():
        if str(drill) not in noted.done():
            show(f"chaos {drill}: did not happen, the run had gone past that step or has fewer")
    if result.checkpoint is None:
        raise WorkError(f"run {name} ended without a checkpoint; see Ray's logs in {workspace.ray_session}")
    with result.checkpoint.as_directory() as folder, staged_folder(target) as staged:
        shutil.copytree(folder, staged, dirs_exist_ok=True)


class Stopped(BaseException):
    """The run was to be stopped, and is."""


class _Trainer(TorchTrainer):
    """Ray's, without the process that would hand out Ray Data's data sets: it takes seconds to start, and there are none."""

    stop: Callable[[], bool] | None = None

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if type(each).__name__ != "DatasetsCallback"]

    def _initialize_and_run_controller(self, **options: Any) -> Result:
        """Ray's own waits for the end, whatever happens to the trial that it belongs to."""
        if self.stop is None:
            return super()._initialize_and_run_controller(**options)
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        settings = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0"} | get_env_vars_to_propagate()
        controller = (
            ray.remote(TrainController)
            .options(num_cpus=0, label_selector=here, runtime_env={"env_vars": settings})
            .remote(**options)
        )
        run = controller.run.remote()
        while not ray.wait([run], timeout=STOP_EVERY)[0]:
            if self.stop():
                # Told to, it ends its workers and gives their places back. Killed, it would leave that to a process of Ray's
                # that asks the dashboard, which a local Ray does without.
                with contextlib.suppress(ray.exceptions.RayError):  # it ends with the call
                    ray.get(controller.abort.remote(), timeout=STOPPING)
                ray.kill(controller)
                raise Stopped
        ray.get(run)
        return ray.get(controller.get_result.remote())


def _run(
    job: dict[str, Any],
    storage: Storage,
    plan: Plan,
    callbacks: list[Any],
    say: Say,
    show: Callable[[str], None],
    stop: Callable[[], bool] | None,
) -> Result:
    """Ray's trainer, again where its own controller was lost."""
    lost, before = 0, -1
    while True:
        step = storage.mend(show) or 0
        trainer = _Trainer(
            worker,
            train_loop_config=job,
            torch_config=TorchConfig(backend="nccl" if plan.gpus_per_worker else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=(plan.least, plan.workers) if plan.least else plan.workers,
                use_gpu=bool(plan.gpus_per_worker),
                resources_per_worker=_resources(plan),
            ),
            run_config=RunConfig(
                name=job["name"],
                storage_path=job["storage"],
                checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
                # Faults of workers are counted by the watch, which lets a run go on as long as it makes progress.
                failure_config=FailureConfig(max_failures=-1, controller_failure_limit=PLACING),
                callbacks=[*callbacks, Watch(say, step, plan.cpus_per_worker * plan.sizes[0])],
            ),
        )
        trainer.stop = stop
        try:
            return trainer.fit()
        except Stopped:
            raise SystemExit from None
        except SystemExit:
            # Ray's own way to end on ctrl-c.
            raise KeyboardInterrupt from None
        except ray.exceptions.RayActorError as error:
            lost, before = (1 if step > before else lost + 1), step
            if lost >= TRIES:
                raise WorkError(
                    f"run {job['name']} failed: Ray's controller was lost {TRIES} times ({reason(error)})"
                ) from error
            if stop is None:  # of a search, others train beside
                free_places()
            show(
                f"Ray's controller was lost ({reason(error)}); goes on from the last checkpoint, try {lost + 1} of {TRIES}"
            )
        except Exception as error:
            if ours := cause(error):
                raise plain(ours, f"run {job['name']}: ") from error
            raise WorkError(f"run {job['name']} failed: {reason(error)}") from error


def worker(job: dict[str, Any]) -> None:
    """One rank: what Ray runs on each worker."""
    beginning: Beginning = job["beginning"]
    if beginning:
        beginning.reached("workers")
    import torch

    from irstd.training.loop import fit as train

    torch.set_num_threads(job["threads"])
    # It tells each checkpoint and each report.
    logging.getLogger("ray").setLevel(logging.ERROR)
    context = ray.train.get_context()
    rank, tracker, say = context.get_world_rank(), job["tracker"], job["say"]
    if tracker is not None and rank == 0:
        tracker.ready(say)

    def report(metrics: dict[str, Any], folder: Path | None) -> None:
        if tracker is not None and rank == 0:
            tracker(metrics, folder)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder) if folder else None)

    # The network's own code came with the job, wherever this worker runs.
    with (
        spoken(say, f"[worker {rank}]"),
        told(rank),
        contextlib.closing(tracker) if tracker is not None else contextlib.nullcontext(),
        job["source"].unpacked(),
    ):
        if job["elastic"] and rank == 0:
            say(f"trains with {context.get_world_size()} worker(s)")
        with agreed(Storage(job["storage"], job["name"]), say) as kept:
            if beginning:
                beginning.reached("checkpoint")
            train(
                Config.model_validate(job["config"]),
                job["shards"],
                report,
                resume=kept,
                device=ray.train.torch.get_device(),
                log=say if rank == 0 else _silent,
                known=job["known"],
                stepped=_stepped(job, rank),
                beside=job["beside"],
            )


def _stepped(job: dict[str, Any], rank: int) -> Callable[[int], None]:
    """What a worker does after each step."""
    drill, told, beginning = hook(job["drills"], rank, job["say"].ask), job["stepped"], job["beginning"]

    def stepped(step: int) -> None:
        nonlocal beginning
        if beginning is not None and rank == 0:
            beginning.reached("network and first step")
            job["say"](str(beginning), once="beginning")
        beginning = None
        if told is not None:
            told(step)
        drill(step)

    return stepped


def _beside(storage: str, name: str) -> str | Path:
    """Where workers leave what is no checkpoint, within their reach and the driver's: the run's folder in Ray's storage."""
    return f"{storage}/{name}" if "://" in storage else Path(storage) / name


def _resources(plan: Plan) -> dict[str, float]:
    found = {"CPU": plan.cpus_per_worker}
    return found | {"GPU": plan.gpus_per_worker} if plan.gpus_per_worker else found


def _silent(line: str) -> None:
    """The other ranks' progress is rank 0's."""
