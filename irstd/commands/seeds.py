"""`irstd train MODEL seeds=3`: one training under several seeds, what they have in common, and the one that is registered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from irstd.commands.show import say, table
from irstd.errors import InputError
from irstd.files import canonical_json, read_json, sha256_text, write_json
from irstd.inference import seeds as summaries
from irstd.training.identity import identity
from irstd.workspace import Workspace

if TYPE_CHECKING:
    from irstd.cluster.drill import Drill
    from irstd.training.preparation import Job

KEY = "seeds"
LAST = 2**31
FILE = "seeds.json"


def taken(overrides: list[str]) -> tuple[str | None, list[str]]:
    """The value of `seeds=` and the other overrides: it is a key of the command, and no part of a run."""
    own = [pair for pair in overrides if pair.partition("=")[0] == KEY and "=" in pair]
    return (own[-1].partition("=")[2] if own else None), [pair for pair in overrides if pair not in own]


def drawn(asked: str, first: int, changed: dict[str, Any], resume: str | None = None) -> list[int]:
    """The seeds behind `seeds=3` (from `first` on) or `seeds=[0,5,7]`. `InputError` for what says no seeds."""
    if "train.seed" in changed:
        raise InputError(
            f"seeds={asked} and train.seed={changed['train.seed']}: give the seeds once, such as seeds=[0,5,7]"
        )
    if resume is not None:
        raise InputError(f"seeds={asked} and --resume {resume}: one run is taken up; give its train.seed instead")
    try:
        value = yaml.safe_load(asked)
    except yaml.YAMLError:
        value = None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        value = [*range(first, first + value)]
    whole = isinstance(value, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in value)
    if not whole or not value or not all(0 <= seed < LAST for seed in value):
        raise InputError(
            f"seeds={asked}: give how many, from 1 on, or a list of whole numbers from 0, such as seeds=[0,5,7]"
        )
    if twice := [seed for seed in value if value.count(seed) > 1]:
        raise InputError(f"seeds={asked}: {twice[0]} is there twice, and would be one run; leave one out")
    return value


def jobs_of(job: Job, seeds: list[int]) -> list[Job]:
    """The run of each seed."""
    found = []
    for seed in seeds:
        config = job.config.model_copy(update={"train": job.config.train.model_copy(update={"seed": seed})})
        found.append(replace(job, config=config, identity=identity(config, job.manifests)))
    return found


def train(
    workspace: Workspace,
    jobs: list[Job],
    workers: int | tuple[int, int] | None,
    drills: list[Drill] | None,
    recipe: dict[str, Any] | None,
) -> tuple[Job, dict[str, Any], Path]:
    """Train each, or take its finished result; the run to be registered, its record and its package.

    Every run gets a package that carries the numbers of all; `seeds/<group>/seeds.json` holds them too.
    """
    from irstd.commands import on_cluster
    from irstd.commands import train as training
    from irstd.registry import tracking
    from irstd.registry.tracker import RunTracker

    first = jobs[0]
    group = f"{first.config.model.slug}-seeds-{sha256_text(canonical_json([job.identity.hash for job in jobs]))[:12]}"
    seeds = [job.config.train.seed for job in jobs]
    tags = {
        "irstd.kind": "seeds",
        "irstd.seeds": canonical_json(seeds),
        "irstd.shards": canonical_json({m.set: m.digest for m in first.manifests}),
    }
    parent = RunTracker(workspace, group, tags, {"model": first.config.model.name, "seeds": seeds})
    say(f"seeds {', '.join(map(str, seeds))}: {group}")
    on_cluster.begin(workspace, parent)
    records = []
    try:
        for number, job in enumerate(jobs, 1):
            say(f"seed {job.config.train.seed} ({number} of {len(jobs)})")
            records.append(training.execute(workspace, job, workers, drills))
    except BaseException as error:
        tracking.fail(workspace, parent.run_id, error)
        raise
    found = compared(workspace, jobs, records)
    chosen, why = median([row["selected"] for row in found])
    names = [name.removeprefix("val_") for name in found[0]["best"]]
    about = {
        "n": len(jobs),
        "seeds": seeds,
        "runs": [job.name for job in jobs],
        "group": group,
        "registered": f"seed {seeds[chosen]}: {why.format(objective=first.config.objective)}",
        **summaries.summary([row["best"] for row in found], names),
        "last": summaries.summary([row["last"] for row in found], names),
    }
    folder = workspace.home / "seeds" / group
    write_json(folder / FILE, {"about": training.about(first), **about})
    show(about, training.about(first))
    packages = [
        training.write_package(workspace, job, record, recipe, about) for job, record in zip(jobs, records, strict=True)
    ]

    def log() -> None:
        run_id, store = parent.open(), tracking.client(workspace)
        for record in records:
            # A run that a search trained stays below it.
            if "mlflow.parentRunId" not in store.get_run(record["mlflow_run"]).data.tags:
                store.set_tag(record["mlflow_run"], "mlflow.parentRunId", run_id)
        tracking.log_files(workspace, run_id, [folder / FILE])
        values = {f"best_val_{k}_{what}": v for what in ("mean", "deviation") for k, v in about[what].items()}
        values |= {f"last_val_{k}_{what}": v for what in ("mean", "deviation") for k, v in about["last"][what].items()}
        tracking.finish(workspace, run_id, metrics={k: v for k, v in values.items() if v is not None})

    tracking.patiently(workspace, log, say, "logs and registers the runs")
    return jobs[chosen], records[chosen], packages[chosen]


def compared(workspace: Workspace, jobs: list[Job], records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each run what val said of the best checkpoint and of the last epoch, and what chose the best."""
    found = []
    for job, record in zip(jobs, records, strict=True):
        state = read_json(workspace.runs / job.name / "checkpoint" / "state.json")
        rows = {"best": record["metrics"], "last": state["history"][-1]}
        values = {
            name: {k.removeprefix("val_"): v for k, v in row.items() if k.startswith("val_")}
            for name, row in rows.items()
        }
        found.append(values | {"selected": state.get("selected")})
    return found


def median(values: list[float | None]) -> tuple[int, str]:
    """The place of the median, and why it is the one.

    The best of several seeds is chosen by luck on val, and what val says of it is too good; the median is what one training
    gives. Of an even number it is the lower of the two in the middle; of equals the first.
    """
    if any(value is None for value in values):
        return 0, "the first, since no val chooses"
    return values.index(sorted(values)[(len(values) - 1) // 2]), "the median of val {objective}"


def show(about: dict[str, Any], measured: str) -> None:
    """Print the numbers of every seed, and what they have in common."""
    say(f"val of each seed, best checkpoint and last epoch: {measured}")
    rows = []
    for place, seed in enumerate(about["seeds"]):
        rows.append(
            {"seed": seed, "run": about["runs"][place], **_columns(about, lambda v, place=place: v[place], "values")}
        )
    rows.append({"seed": "mean", "run": None, **_columns(about, lambda v: v, "mean")})
    if about["n"] > 1:
        rows.append({"seed": "deviation (n-1)", "run": None, **_columns(about, lambda v: v, "deviation")})
    say(table(rows))
    say(f"to be registered: {about['registered']}")


def _columns(about: dict[str, Any], pick: Any, what: str) -> dict[str, Any]:
    found = {}
    for name in about["values"]:
        for title, part in (("best", about), ("last", about["last"])):
            value = pick(part[what][name]) if name in part[what] else None
            factor, unit = (1e6, " e-6") if name == "fa" else (1, "")
            found[f"{title} {name}{unit}"] = None if value is None else value * factor
    return found
