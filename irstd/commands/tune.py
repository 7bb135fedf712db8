"""`irstd tune`: search a space, register the best trial's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from irstd import config as configuration
from irstd.commands import on_cluster, run_log
from irstd.commands import train as training
from irstd.commands.show import result, say, table
from irstd.data.manifest import pseudo_masks
from irstd.errors import InputError
from irstd.files import canonical_json, read_json, sha256_text, write_json
from irstd.training.record import finished
from irstd.workspace import Workspace


def run(
    workspace: Workspace,
    space: str,
    overrides: list[str],
    workers: int | None,
    parallel: int | None,
    register: bool,
    shards: str | None,
) -> None:
    changed = configuration.parse_overrides(overrides)
    for key in changed:
        if key.startswith("shard."):
            raise InputError(f"{key}: shards are built before a run; change it in params.yaml and run irstd shard")
    found = search(workspace, space, changed, workers, parallel, shards)
    say(f"the best checkpoint of each trial: {found['about']}")
    say(table(found["rows"]))
    best = found["best"]
    say(f"best: trial {best['number']}, {' '.join(f'{k}={v}' for k, v in best['overrides'].items())}")
    version = None
    if register:
        job = training.prepare(found["config"], workspace.shards_at(shards))
        record = finished(workspace.runs / job.name)
        assert record is not None
        package = training.write_package(workspace, job, record)
        run_log.pictures(workspace, job, record, package)
        version = training.publish(workspace, job, record, package)
    name = found["config"].registered_name
    result(
        sweep=found["name"],
        mlflow=found["url"],
        best=best["overrides"],
        model=f"models:/{name}/{version}" if version else None,
    )


def search(
    workspace: Workspace,
    name: str,
    overrides: dict[str, Any],
    workers: int | None = None,
    parallel: int | None = None,
    shards: str | None = None,
) -> dict[str, Any]:
    """The sweep's record: its name, the table of trials, the best one and its configuration. A finished one is taken."""
    from irstd.cluster import plan as planning
    from irstd.cluster import spaces

    space = spaces.read(name, workspace.root)
    drawn = spaces.trials(space)
    jobs = []
    for trial in drawn:
        config = spaces.config_of(space, workspace.root, {**overrides, **trial})
        jobs.append(training.prepare(config, workspace.shards_at(shards)))
    jobs, drawn = distinct(jobs, drawn)
    metric = f"val_{space.objective.metric}"
    if jobs[0].config.data.train_on != "train" or not sum(m.count("val", "labelled") for m in jobs[0].manifests):
        raise InputError(
            f"space {space.name}: no trial can report {metric}: the chosen sets have no labelled val split"
        )
    guessed = pseudo_masks(jobs[0].manifests, "val")
    if guessed and metric in ("val_iou", "val_niou"):
        raise InputError(
            f"space {space.name}: no trial can report {metric}: the val masks of the chosen sets are pseudo-masks ({guessed}); "
            "set objective.metric to pd"
        )
    say(
        f"space {space.name}: {len(jobs)} trials ({space.search}) over {', '.join(sorted(space.space))}; objective "
        f"{metric}, {space.objective.mode}"
    )
    sweep = f"{space.name}-{sha256_text(canonical_json([j.identity.hash for j in jobs] + [metric, space.objective.mode]))[:12]}"
    folder = workspace.home / "sweeps" / sweep
    outcomes = searched(workspace, folder)
    plan = None if workspace.ray_address else planning.make(planning.machine(), workers or space.workers, parallel or 0)
    if outcomes:
        say(f"sweep {sweep}: searched before, nothing has changed; its result is taken")
        url = None
    else:
        outcomes, url = _run(workspace, space, sweep, jobs, drawn, metric, plan, workers, parallel)
        write_json(
            folder / "sweep.json", {"sweep": sweep, "space": space.model_dump(mode="json"), "outcomes": outcomes}
        )
    from irstd.cluster import tune as cluster

    best = cluster.best(outcomes, metric, space.objective.mode)
    number = next(i for i, o in enumerate(outcomes) if o["run"] == best["run"])
    rows = [
        {
            "trial": i + 1,
            **o["overrides"],
            metric: o["metrics"].get(f"best_{metric}"),
            "Pd": o["metrics"].get("best_val_pd"),
            "Fa e-6": None if o["metrics"].get("best_val_fa") is None else o["metrics"]["best_val_fa"] * 1e6,
            "note": o["error"] or ("best" if i == number else ""),
        }
        for i, o in enumerate(outcomes)
    ]
    return {
        "name": sweep,
        "rows": rows,
        "url": url,
        "best": {"number": number + 1, "overrides": drawn[number], "run": best["run"], "metrics": best["metrics"]},
        "config": jobs[number].config,
        "about": training.about(jobs[number]),
    }


def distinct(jobs: list[training.Job], drawn: list[dict[str, Any]]) -> tuple[list[training.Job], list[dict[str, Any]]]:
    """The trials without those that are an earlier one's run: they would train into one run folder at the same time."""
    first = {job.name: i for i, job in reversed(list(enumerate(jobs)))}
    kept = sorted(first.values())
    if len(kept) < len(jobs):
        say(f"{len(jobs) - len(kept)} of {len(jobs)} trials repeat another and are left out")
    return [jobs[i] for i in kept], [drawn[i] for i in kept]


def searched(workspace: Workspace, folder: Path) -> list[dict[str, Any]]:
    """The outcomes of a sweep in which every trial is whole; [] where there is something to do.

    A trial that failed is tried again; those that finished are taken by their run folders.
    """
    try:
        outcomes = read_json(folder / "sweep.json")["outcomes"]
        for outcome in outcomes:
            record = finished(workspace.runs / outcome["run"])
            if outcome["error"] or record is None or not record.get("mlflow_run"):
                return []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return outcomes


def _run(
    workspace: Workspace,
    space: Any,
    sweep: str,
    jobs: list[training.Job],
    drawn: list[dict[str, Any]],
    metric: str,
    plan: Any,
    workers: int | None,
    parallel: int | None,
) -> tuple[list[dict[str, Any]], str]:
    from irstd.cluster import plan as planning
    from irstd.cluster import tune as cluster
    from irstd.cluster.session import session
    from irstd.registry import lineage, tracking
    from irstd.registry.tracker import RunTracker, TrialTracker

    with session(workspace) as resources:
        plan = plan or planning.make(resources, workers or space.workers, parallel or 0)
        say(str(plan))
        chains = [lineage.of_run(workspace, j.identity, j.manifests, j.config.train.seed) for j in jobs]
        whole = RunTracker(workspace, sweep, {"irstd.kind": "tune"}, {"space": space.name, "trials": len(jobs)})
        training.begin(workspace, whole)
        trackers = []
        for job, chain, values in zip(jobs, chains, drawn, strict=True):
            tags = lineage.tags(chain) | {"irstd.kind": "trial"}
            params = configuration.flatten(job.config.model_dump(mode="json"), "configuration") | values
            trackers.append(TrialTracker(workspace, job.name, tags, params, whole.run_id))
        for job in jobs:
            on_cluster.keep_code(workspace, job)
        configs = [(job.name, values, job.config) for job, values in zip(jobs, drawn, strict=True)]
        try:
            outcomes = cluster.search(
                workspace, sweep, configs, jobs[0].shards, metric, space.objective.mode, plan, trackers, say
            )
            best = cluster.best(outcomes, metric, space.objective.mode)
        except BaseException as error:
            tracking.fail(workspace, whole.run_id, error)
            raise

    def log() -> str:
        complete(workspace, jobs, chains, trackers, whole.open())
        tracking.finish(workspace, whole.open(), metrics={f"best_{metric}": best["metrics"][f"best_{metric}"]})
        return tracking.run_url(workspace, whole.open())

    return outcomes, tracking.patiently(workspace, log, say, "logs and registers the best trial")


def complete(
    workspace: Workspace, jobs: list[training.Job], chains: list[dict[str, Any]], trackers: list[Any], parent: str
) -> None:
    """Give the trials' run folders what a trained run has, so that `irstd train` of the same takes them.

    Their log is brought up to what lies there: MLflow may have been away for a part of the search, or for all of it.
    """
    from irstd.registry import tracking

    for job, chain, tracker in zip(jobs, chains, trackers, strict=True):
        folder = workspace.runs / job.name
        record = finished(folder, record_needed=False)
        if record is None or ("lineage" in record and record.get("mlflow_run")):
            continue
        state = read_json(folder / "checkpoint" / "state.json")
        # The trial may have finished below another sweep, which was killed, or while MLflow was away.
        known = tracking.run_of(workspace, job.name, parent)
        tracker.run_id = known.info.run_id if known else None
        if tracker.run_id is None:
            tracker.parent = parent
        chain = record.get("lineage", chain | {"workers": state.get("places", [])})
        run_log.write(workspace, job, chain)
        run_id = run_log.settle(workspace, job, tracker, state)
        more = {"metrics": state["best"], "lineage": chain, "mlflow_run": run_id}
        write_json(folder / "run.json", record | more)
