"""The training of a run on Ray: its plan, what the plan asks of the batch, and its run in MLflow meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from irstd.commands.show import say
from irstd.errors import InputError, WorkError
from irstd.files import staged_folder
from irstd.training.preparation import Job, check_batch
from irstd.workspace import Workspace

if TYPE_CHECKING:
    from irstd.cluster.drill import Drill
    from irstd.cluster.plan import Plan
    from irstd.registry.tracker import RunTracker


def check_plan(job: Job, plan: Plan) -> None:
    """`InputError` where the batch, or a split, cannot be shared out among every number of workers there may be."""
    for workers in plan.sizes:
        try:
            check_batch(job, workers)
        except InputError as error:
            if plan.least is None:
                raise
            raise InputError(f"--workers {plan.least}-{plan.workers}: {error}") from None


def train(
    workspace: Workspace,
    job: Job,
    tracker: RunTracker,
    workers: int | tuple[int, int] | None = None,
    drills: list[Drill] | None = None,
) -> None:
    """Train on Ray until the run's folder holds its last checkpoint. MLflow may be away meanwhile."""
    from irstd.cluster import plan as planning
    from irstd.cluster.beginning import Beginning
    from irstd.registry import tracking
    from irstd.training.progress import describe

    workers = workers or planning.asked(workspace.settings["resources"]["workers"])
    say(describe(job.config, job.shards, job.identity))
    # On this machine the plan is refused before Ray starts.
    plan = None if workspace.ray_address else planning.make(planning.machine(), workers)
    if plan is not None:
        check_plan(job, plan)

    beginning = Beginning.of_process()
    beginning.reached("checks")
    from irstd.cluster import train as cluster
    from irstd.cluster.session import session

    with session(workspace) as resources:
        plan = plan or planning.make(resources, workers)
        check_plan(job, plan)
        say(str(plan))
        for drill in drills or ():
            if drill.rank >= plan.workers:
                raise InputError(f"--chaos {drill}: the workers are 0 to {plan.workers - 1}")
        tracker.tags |= {f"irstd.{k}": getattr(plan, k) for k in ("workers", "threads", "device")}
        beginning.reached("Ray")
        begin(workspace, tracker)
        beginning.reached("MLflow")
        try:
            keep_code(workspace, job)
            target = workspace.runs / job.name / "checkpoint"
            cluster.fit(
                workspace,
                job.config,
                job.shards,
                job.name,
                plan,
                target,
                tracker,
                say,
                known=job.known,
                drills=drills,
                beginning=beginning,
            )
        except BaseException as error:
            tracking.fail(workspace, tracker.run_id, error)
            raise


def begin(workspace: Workspace, tracker: RunTracker) -> None:
    """Begin the run in MLflow. Where that does not answer the training is not held up; what refuses it is an error."""
    from irstd.registry import tracking

    try:
        with tracking.answering(workspace):
            say(f"MLflow: {tracking.run_url(workspace, tracker.open())}")
    except WorkError as error:
        if error.__cause__ is None or not tracking.away(error.__cause__):
            raise
        say(f"{error}; training begins, its log follows")


def keep_code(workspace: Workspace, job: Job) -> None:
    """The code of a network that is not ours, as the run begins with it; it may be edited while the run goes on."""
    from irstd.foreign import Source
    from irstd.inference.package import CODE

    source = Source.of(job.config.model.network)
    if source.travels():
        with staged_folder(workspace.runs / job.name / CODE) as staged:
            source.write(staged)
