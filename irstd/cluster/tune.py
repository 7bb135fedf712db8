"""Ray Tune: the trials of a search, each a run of `irstd.training`.

A trial of one worker trains inside the trial's own process; a trial of several starts Ray Train workers. How many go side
by side is the plan's decision, made before anything starts, so a trial never waits for cores that trials hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from irstd.cluster import train as cluster_train
from irstd.cluster.console import console
from irstd.cluster.faults import reason
from irstd.cluster.plan import Plan
from irstd.config import Config
from irstd.errors import WorkError
from irstd.files import read_json, write_json
from irstd.foreign import Source
from irstd.training.record import finished
from irstd.workspace import Workspace

Outcome = dict[str, Any]


def search(
    workspace: Workspace,
    name: str,
    configs: list[tuple[str, dict[str, Any], Config]],
    shards: str | Path,
    metric: str,
    mode: str,
    plan: Plan,
    trackers: list[Any],
    show: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run the trials on the running Ray session.

    Args:
        configs: for each trial its run's identity, its overrides, and its configuration.
        metric: key of the reports that decides ("val_iou"); `mode` "max" or "min".
        trackers: for each trial a picklable object with `begin() -> callable(metrics, checkpoint) or None` and
            `end(error)`.

    Returns one outcome a trial, in order: {"run", "overrides", "metrics", "error"}. A trial whose run folder holds a
    finished run is not run again. A trial that fails is in the list with its reason; the search goes on.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with console(show) as say:
        jobs = [
            {
                "number": number,
                "total": len(configs),
                "run": run,
                "overrides": overrides,
                "config": config.model_dump(mode="json"),
                "folder": str(workspace.runs / run),
                "shards": str(shards if isinstance(shards, str) else shards.resolve()),
                "threads": plan.threads,
                "metric": metric,
                "plan": plan,
                "workspace": workspace,
                "tracker": tracker,
                "say": say,
                "source": Source.of(config.model.network),
            }
            for number, ((run, overrides, config), tracker) in enumerate(zip(configs, trackers, strict=True), 1)
        ]
        resources = {"CPU": plan.cpus_per_worker, "GPU": plan.gpus_per_worker} if plan.workers == 1 else {"CPU": 0.5}
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(trial, jobs=jobs), resources),
            param_space={"number": tune.grid_search(list(range(len(jobs))))},
            tune_config=tune.TuneConfig(metric=metric, mode=mode, max_concurrent_trials=plan.trials),
            run_config=tune.RunConfig(
                name=name,
                storage_path=workspace.ray_storage,
                # Trials are not retried here: Ray Train restarts workers, Prefect restarts a dead driver.
                failure_config=tune.FailureConfig(max_failures=0),
                verbose=0,
            ),
        )
        results = tuner.fit()
    found: dict[str, Outcome] = {}
    for result in results:
        number = (result.config or {}).get("number")
        if number is not None:
            job = jobs[number]
            metrics = {
                k: v
                for k, v in (result.metrics or {}).items()
                if k.startswith(("val_", "best_", "epoch", "step", "loss"))
            }
            error = reason(result.error) if result.error else None
            found[job["run"]] = {"run": job["run"], "overrides": job["overrides"], "metrics": metrics, "error": error}
    missing = {"metrics": {}, "error": "did not run"}
    return [found.get(run, {"run": run, "overrides": overrides, **missing}) for run, overrides, _ in configs]


def trial(params: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
    """One trial: what Ray Tune runs in its own process."""
    job = jobs[params["number"]]
    folder = Path(job["folder"])
    done = finished(folder, record_needed=False)
    label = f"trial {job['number']}/{job['total']}"
    if done:
        job["say"](f"{label}: {job['run']} was trained before; its result is taken")
        # Who trained it wrote its own kind of record; the checkpoint says what a trial reports.
        tune.report(_reported(folder))
        return
    track = job["tracker"].begin() if job["tracker"] else None
    error: str | None = None
    try:
        with job["source"].unpacked():
            metrics = _one(job, folder, label, track) if job["plan"].workers == 1 else _many(job, folder, label, track)
        write_json(
            folder / "run.json", {"run": job["run"], "config": job["config"], "metrics": metrics, "finished": True}
        )
        job["say"](f"{label}: {_values(job['overrides'])} -> {job['metric']} {metrics.get('best_' + job['metric'])}")
    except BaseException as failure:
        error = reason(failure)
        job["say"](f"{label}: failed: {error}")
        raise
    finally:
        if job["tracker"]:
            job["tracker"].end(error)


def _one(job: dict[str, Any], folder: Path, label: str, track: Any) -> dict[str, Any]:
    """Train in this process."""
    import torch

    from irstd.training.loop import fit
    from irstd.training.store import Store

    torch.set_num_threads(job["threads"])
    last: dict[str, Any] = {}
    store = Store(folder)

    def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        last.clear()
        last.update(metrics)
        if track is not None:
            track(metrics, checkpoint)
        store(metrics, checkpoint)
        tune.report(metrics)

    fit(
        Config.model_validate(job["config"]),
        job["shards"],
        report,
        resume=store.begin(job["say"]),
        device="cuda" if torch.cuda.is_available() and job["plan"].gpus_per_worker else "cpu",
        log=_quiet,
        scratch=store.scratch,
        beside=folder,
    )
    store.finish()
    return last or _reported(folder)


def _many(job: dict[str, Any], folder: Path, label: str, track: Any) -> dict[str, Any]:
    """Train over the workers of a Ray Train run of its own."""
    from ray.tune.integration.ray_train import TuneReportCallback

    config = Config.model_validate(job["config"])
    cluster_train.fit(
        job["workspace"],
        config,
        job["shards"],
        job["run"],
        job["plan"],
        folder / "checkpoint",
        track,
        show=_quiet,
        callbacks=[TuneReportCallback()],
    )
    return _reported(folder)


def _reported(folder: Path) -> dict[str, Any]:
    """A trained run's last report."""
    state = read_json(folder / "checkpoint" / "state.json")
    return state["history"][-1] | {f"best_{k}": v for k, v in state["best"].items() if k.startswith("val_")}


def best(outcomes: list[Outcome], metric: str, mode: str) -> Outcome:
    """The best trial by its best validation; `WorkError` with the first reason where every trial failed."""
    good = [o for o in outcomes if not o["error"] and o["metrics"].get(f"best_{metric}") is not None]
    if not good:
        raise WorkError(
            f"all {len(outcomes)} trials failed; the first: {outcomes[0]['error'] or f'no {metric} reported'}"
        )
    sign = 1 if mode == "max" else -1
    return max(good, key=lambda o: sign * o["metrics"][f"best_{metric}"])


def _values(overrides: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in overrides.items())


def _quiet(line: str) -> None:
    """A trial's epochs are in MLflow; the terminal shows a line a trial."""
