"""`irstd tune`: search a space, register the best trial's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from irstd import config as configuration
from irstd.commands import train as training
from irstd.commands.show import result, say, table
from irstd.errors import InputError
from irstd.files import canonical_json, read_json, sha256_text, write_json
from irstd.workspace import Workspace


def run(
    workspace: Workspace,
    space: str,
    overrides: list[str],
    workers: int | None,
    parallel: int | None,
    register: bool,
    shards: Path | None,
) -> None:
    found = search(workspace, space, configuration.parse_overrides(overrides), workers, parallel, shards)
    say(table(found["rows"]))
    best = found["best"]
    say(f"best: trial {best['number']}, {' '.join(f'{k}={v}' for k, v in best['overrides'].items())}")
    version = None
    if register:
        job = training.prepare(found["config"], shards or workspace.shards)
        record = training.finished(workspace.runs / job.name)
        assert record is not None
        package = training.write_package(workspace, job, record)
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
    shards: Path | None = None,
) -> dict[str, Any]:
    """The sweep's record: its name, the table of trials, the best one and its configuration. A finished one is taken."""
    from irstd.cluster import plan as planning
    from irstd.cluster import spaces

    space = spaces.read(name, workspace.root)
    drawn = spaces.trials(space)
    jobs = []
    for trial in drawn:
        config = spaces.config_of(space, workspace.root, {**overrides, **trial})
        jobs.append(training.prepare(config, shards or workspace.shards))
    metric = f"val_{space.objective.metric}"
    if not sum(m.count("val", "labelled") for m in jobs[0].manifests):
        raise InputError(
            f"space {space.name}: no trial can report {metric}: the chosen sets have no labelled val split"
        )
    say(
        f"space {space.name}: {len(jobs)} trials ({space.search}) over {', '.join(sorted(space.space))}; objective "
        f"{metric}, {space.objective.mode}"
    )
    sweep = f"{space.name}-{sha256_text(canonical_json([j.identity.hash for j in jobs] + [metric, space.objective.mode]))[:12]}"
    folder = workspace.home / "sweeps" / sweep
    try:
        outcomes = read_json(folder / "sweep.json")["outcomes"]
        kept = all(training.finished(workspace.runs / o["run"]) for o in outcomes if not o["error"])
    except (OSError, ValueError, KeyError):
        outcomes, kept = [], False
    plan = None if workspace.ray_address else planning.make(planning.machine(), workers or space.workers, parallel or 0)
    if kept:
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
    }


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

    with session(workspace) as resources:
        plan = plan or planning.make(resources, workers or space.workers, parallel or 0)
        say(str(plan))
        chains = [lineage.of_run(workspace, j.identity, j.manifests, j.config.train.seed) for j in jobs]
        parent = tracking.start(workspace, sweep, {"irstd.kind": "tune"}, {"space": space.name, "trials": len(jobs)})
        url = tracking.run_url(workspace, parent)
        say(f"MLflow: {url}")
        trackers = []
        for job, chain, values in zip(jobs, chains, drawn, strict=True):
            tags = lineage.tags(chain) | {"irstd.kind": "trial"}
            trackers.append(tracking.TrialTracker(workspace, parent, job.name, tags, values))
        configs = [(job.name, values, job.config) for job, values in zip(jobs, drawn, strict=True)]
        try:
            outcomes = cluster.search(
                workspace, sweep, configs, jobs[0].shards, metric, space.objective.mode, plan, trackers, say
            )
            best = cluster.best(outcomes, metric, space.objective.mode)
        except BaseException as error:
            tracking.finish(workspace, parent, str(error) or type(error).__name__)
            raise
        _complete(workspace, jobs, chains, parent)
        tracking.finish(workspace, parent, metrics={f"best_{metric}": best["metrics"][f"best_{metric}"]})
    return outcomes, url


def _complete(workspace: Workspace, jobs: list[training.Job], chains: list[dict[str, Any]], parent: str) -> None:
    """Give the trials' run folders what a trained run has, so that `irstd train` of the same takes them."""
    from irstd.registry import tracking

    for job, chain in zip(jobs, chains, strict=True):
        folder = workspace.runs / job.name
        record = training.finished(folder, record_needed=False)
        if record is None or "lineage" in record:
            continue
        best = read_json(folder / "checkpoint" / "state.json")["best"]
        run_id = tracking.child(workspace, parent, job.name)
        write_json(folder / "run.json", record | {"metrics": best, "lineage": chain, "mlflow_run": run_id})
