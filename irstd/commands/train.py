"""`irstd train`: a run from shards to a registered model version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irstd import config as configuration
from irstd import turns
from irstd.commands import going_on, on_cluster, run_log, seeds
from irstd.commands.show import result, say
from irstd.errors import InputError
from irstd.files import read_json, sha256_file, staged_folder, write_json
from irstd.training import checkpoint, expectations
from irstd.training.preparation import Job, prepare
from irstd.training.record import finished, noted
from irstd.workspace import Workspace

if TYPE_CHECKING:
    from irstd.cluster.drill import Drill


def run(
    workspace: Workspace,
    model: str,
    overrides: list[str],
    recipe: Path | None,
    workers: str | None,
    register: bool,
    shards: str | None,
    out: Path | None,
    quick: bool = False,
    init: str | None = None,
    resume: str | None = None,
    chaos: str | None = None,
) -> None:
    from irstd.cluster.drill import Drill
    from irstd.cluster.plan import asked

    wanted, drills = asked(workers), Drill.parse(chaos)
    several, overrides = seeds.taken(overrides)
    changed = configuration.parse_overrides(overrides)
    for key in changed:
        if key.startswith("shard."):
            raise InputError(f"{key}: shards are built before a run; change it in params.yaml and run irstd shard")
    if out is not None:
        check_package_folder(out)
    config = configuration.load(workspace.root, recipe, changed, model, quick)
    drawn = None if several is None else seeds.drawn(several, config.train.seed, changed, resume)
    config, origin = going_on.start(workspace, config, init)
    job = prepare(config, workspace.shards_at(shards))
    job = replace(job, origin=origin or job.origin)
    if resume is not None:
        job = going_on.across_code(workspace, job, resume)
    kept = None if recipe is None else expectations.of(recipe, changed, quick)
    if drawn is not None:
        job, record, package = seeds.train(workspace, seeds.jobs_of(job, drawn), wanted, drills, kept)
    else:
        record = execute(workspace, job, wanted, drills)
        package = write_package(workspace, job, record, kept)
    if kept is not None:
        for line in expectations.of_val(job.config.evaluate, record["metrics"], kept):
            say(line)
    run_log.pictures(workspace, job, record, package)
    if out is not None:
        import shutil

        with staged_folder(out) as staged:
            shutil.copytree(package, staged, dirs_exist_ok=True)
        say(f"package: {workspace.relative(out)}")
    version = publish(workspace, job, record, package) if register else None
    from irstd.registry import tracking

    if quick:
        say(f"{job.name} was a QUICK TEST of {recipe}: the recipe runs; its numbers say nothing")
    result(
        run=job.name,
        mlflow=tracking.run_url(workspace, record["mlflow_run"]),
        model=f"models:/{config.registered_name}/{version}" if version else None,
    )


def check_package_folder(out: Path) -> None:
    """`InputError` where a package would overwrite something else."""
    if out.exists() and (not out.is_dir() or any(out.iterdir()) and not (out / "package.json").is_file()):
        raise InputError(f"--out {out}: holds something else than a model package; name a new folder")


def execute(
    workspace: Workspace, job: Job, workers: int | tuple[int, int] | None = None, drills: list[Drill] | None = None
) -> dict[str, Any]:
    """Train, or resume, or take the finished run's record (`run.json`). A second call of the same run waits for the first."""
    workspace.runs.mkdir(parents=True, exist_ok=True)
    with turns.of_run(workspace.runs, job.name, say):
        return _execute(workspace, job, workers, drills)


def _execute(
    workspace: Workspace, job: Job, workers: int | tuple[int, int] | None, drills: list[Drill] | None
) -> dict[str, Any]:
    from irstd.registry import lineage, tracking
    from irstd.registry.tracker import RunTracker

    folder = workspace.runs / job.name
    record = finished(folder)
    if finished(folder, record_needed=False) is not None:
        going_on.whole(workspace, job.name, job.config)
    if record is not None and record.get("mlflow_run"):
        say(f"run {job.name}: trained before, nothing has changed; its result is taken")
        return record
    began = going_on.begin(folder, job)
    chain = (
        record["lineage"]
        if record
        else lineage.of_run(workspace, job.identity, job.manifests, job.config.train.seed) | began
    )
    params = configuration.flatten(job.config.model_dump(mode="json"), "configuration")
    tracker = RunTracker(
        workspace,
        job.name,
        lineage.tags(chain) | {"irstd.kind": "train"},
        params,
        machine=workspace.settings["mlflow"]["system_metrics"],
    )
    if finished(folder, record_needed=False) is None:
        on_cluster.train(workspace, job, tracker, workers, drills)
    elif record is not None:
        say(f"run {job.name}: trained before; what its log lacks is added")
    state = read_json(folder / "checkpoint" / "state.json")
    record = record_of(job, folder, chain, None)
    # From here on the same command trains no more, whatever becomes of the log.
    write_json(folder / "run.json", record)
    run_log.write(workspace, job, record["lineage"])
    record["mlflow_run"] = tracking.patiently(
        workspace, lambda: run_log.settle(workspace, job, tracker, state), say, "logs and registers the run"
    )
    write_json(folder / "run.json", record)
    best = state["best"]
    say(f"done: {best['chosen']} checkpoint of epoch {best['epoch']} (step {best['step']}), {numbers(job, best)}")
    return record


def record_of(job: Job, folder: Path, chain: dict[str, Any], run_id: str | None) -> dict[str, Any]:
    """What `run.json` says of a run whose last checkpoint lies in `folder`."""
    state = read_json(folder / "checkpoint" / "state.json")
    return {
        "run": job.name,
        "config": job.config.model_dump(mode="json"),
        "metrics": state["best"],
        "mlflow_run": run_id,
        "lineage": chain | {"workers": state.get("places", [])} | noted(state["history"]),
        "finished": True,
    }


def numbers(job: Job, best: dict[str, Any]) -> str:
    """The validation numbers with all that they depend on."""
    from irstd.commands.show import boxes_scored, scored

    values = {k.removeprefix("val_"): v for k, v in best.items() if k.startswith("val_")}
    if job.config.model.task == "detection":
        if not {"ap50", "ap"} & set(values):
            return "no val split"
        return f"val: {boxes_scored(values)} ({about(job)})"
    if values.get("iou") is None and values.get("fa") is None:
        return "no val split"
    return f"val: {scored(values)} ({about(job)})"


def about(job: Job) -> str:
    """What the validation numbers of a run depend on."""
    from irstd.commands.show import measured_as

    measured = job.config.evaluate
    digests = {m.set: m.digest for m in job.manifests}
    return measured_as(measured.protocol, measured.grid, measured.threshold, "val", digests)


def write_package(
    workspace: Workspace,
    job: Job,
    record: dict[str, Any],
    recipe: dict[str, Any] | None = None,
    several: dict[str, Any] | None = None,
) -> Path:
    """The model package of a finished run, in its run folder.

    `recipe`: see `expectations.of`. `several`: what the seeds have in common of which it is one, see `irstd.commands.seeds`.
    """
    from irstd.commands import threshold
    from irstd.foreign import Source
    from irstd.inference import package

    folder = workspace.runs / job.name
    target = folder / "package"
    best = checkpoint.best(folder / "checkpoint")
    weights_sha256 = sha256_file(best)
    metrics = {
        "split": "val",
        "protocol": job.config.evaluate.protocol,
        "grid": job.config.evaluate.grid,
        "threshold": job.config.evaluate.threshold,
        "chosen": record["metrics"]["chosen"],
        "digests": record["lineage"]["sets"],
        "values": {k.removeprefix("val_"): v for k, v in record["metrics"].items() if k.startswith("val_")},
        # Of the winner of a search: what fresh seeds said of it.
        **({"sweep": record["sweep"]} if "sweep" in record else {}),
    }
    if several is not None:
        metrics["seeds"] = several
    source = Source.read(folder / package.CODE)
    with staged_folder(target) as staged:
        lineage = record["lineage"] | {"mlflow_run": record["mlflow_run"], "weights_sha256": weights_sha256}
        if recipe is not None:
            lineage["recipe"] = recipe
        if source.files:
            lineage["network_sha256"] = source.hash
        written = package.write(
            staged, best, job.config, job.manifests, lineage, metrics, source if source.files else None
        )
        if threshold.wanted(job.config) is not None:
            chosen = threshold.choose(written, job.shards, job.manifests, target)
            content = written.content | {"threshold": chosen["threshold"], "threshold_chosen": chosen}
            package.seal(staged, content)
    return target


def publish(workspace: Workspace, job: Job, record: dict[str, Any], folder: Path) -> str:
    """Register the run's package once; it becomes challenger, and champion where there is none. The version's number."""
    from irstd.inference.package import Package
    from irstd.registry import lineage, models, tracking

    name = job.config.registered_name
    package = Package.read(folder)
    own = models.apart(package)
    with tracking.answering(workspace, "registers the run"):
        version = models.version_of(workspace, name, job.name, own)
        if version is not None:
            say(f"registry: {name} version {version} is this run's")
            # Set already, unless the run was killed between registering and this; a newer challenger stays.
            challenger = models.aliased(workspace, name, "challenger")
            if challenger is None or int(challenger.version) < int(version):
                models.set_alias(workspace, name, "challenger", version)
        else:
            tags = lineage.tags(record["lineage"]) | {
                "irstd.weights_sha256": package.content["lineage"]["weights_sha256"],
                "irstd.chosen": record["metrics"]["chosen"],
                "irstd.protocol": job.config.evaluate.protocol,
                "irstd.threshold": package.content["threshold"],
            }
            tags |= own
            version = models.register(workspace, record["mlflow_run"], package, name, tags)
            models.set_alias(workspace, name, "challenger", version)
            say(f"registry: {name} version {version} registered as challenger")
        if models.aliased(workspace, name, "champion") is None:
            models.set_alias(workspace, name, "champion", version)
            say(f"registry: there was no champion; {name} version {version} is it now")
    return version
