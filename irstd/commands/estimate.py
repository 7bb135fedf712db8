"""How long a trial will take, from an earlier run of the same network or from a few steps; and what it took beside training."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from irstd.cluster.plan import Plan
from irstd.cluster.sweep import Trial
from irstd.files import read_json
from irstd.training.preparation import Job
from irstd.workspace import Workspace

STEPS = 4
SECONDS = 15.0
"""After so long no further step is measured."""
LOOKED_AT = 30
"""Newest runs among which one of the same network is sought."""


@dataclass(frozen=True)
class Estimate:
    """epoch: seconds of one; None: not known. how: where that comes from."""

    epoch: float | None
    how: str

    def trial(self, epochs: float) -> float | None:
        """Seconds of a whole trial."""
        return None if self.epoch is None else self.epoch * epochs


def of(workspace: Workspace, job: Job, plan: Plan | None) -> Estimate:
    """The estimate for the default configuration of a space. plan None: the workers are another machine's."""
    found = earlier(workspace, job)
    if found is None and plan is None:
        return Estimate(None, "no earlier run of this network, and the workers are another machine's")
    return found or measured(job, plan)


def earlier(workspace: Workspace, job: Job) -> Estimate | None:
    """From the newest run whose network, crop, batch and sets are these."""
    wanted = _weight(job.config.model_dump(mode="json"))
    # The last checkpoint of a finished run, or those of one that was stopped.
    states = [*workspace.runs.glob("*/checkpoint/state.json"), *workspace.runs.glob("*/checkpoints/step-*/state.json")]
    states.sort(key=_age)
    for path in states[:LOOKED_AT]:
        try:
            state = read_json(path)
            if _weight(state["config"]) == wanted and state["epoch"] and state["seconds"]:
                return Estimate(state["seconds"] / state["epoch"], f"as run {state['run']} took")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _age(path: Path) -> float:
    """Old ones are greater; one that another process removes meanwhile is the oldest."""
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _weight(config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration decides how long an epoch takes, nearly."""
    data = {name: config["data"][name] for name in ("sets", "crop", "resize")}
    return {
        "model": config["model"],
        "data": data,
        "batch": config["train"]["batch"],
        "precision": config["train"]["precision"],
    }


def measured(job: Job, plan: Plan) -> Estimate:
    """From a few steps of training in this process; validations are left out."""
    import torch

    from irstd.training.loop import Run

    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            run = Run(job.config, job.shards, "cuda" if plan.gpus_per_worker else "cpu", lambda line: None)
            run.model.train()
            start, spans = time.monotonic(), []
            for step, batch in enumerate(run.loader):
                began = time.monotonic()
                run.stepper(batch, step)
                if plan.gpus_per_worker:
                    torch.cuda.synchronize()
                spans.append(time.monotonic() - began)
                if len(spans) == STEPS or time.monotonic() - start > SECONDS:
                    break
    finally:
        torch.set_num_threads(threads)
    if not spans:
        return Estimate(None, "an epoch has no step")
    # The first one also makes what the others find made.
    later = spans[1:] or spans
    seconds = sum(later) / len(later) * run.steps_per_epoch / plan.workers
    return Estimate(seconds, f"from {len(later)} measured step(s), validations left out")


def overhead(trials: Iterable[Trial]) -> str | None:
    """What trials took from when they were asked for to their end, beside training and validating; None where none tells."""
    parts = []
    for trial in trials:
        told = [row for row in trial.rows if row.get("begin_process") is not None]
        # One that was begun twice lay still between.
        if trial.state != "finished" or len(told) != 1 or trial.began is None or trial.ended is None:
            continue
        whole = trial.ended - trial.began - (trial.rows[-1].get("seconds") or 0.0)
        process, imports = told[0]["begin_process"], told[0]["begin_imports"]
        parts.append((whole, process, imports, whole - process - imports))
    if not parts:
        return None
    whole, process, imports, rest = (median(values) for values in zip(*parts, strict=True))
    return (
        f"beside training a trial took {whole:.1f} s (median of {len(parts)}; the first {parts[0][0]:.1f} s): process "
        f"{process:.1f}, imports {imports:.1f}, network, records and end {rest:.1f}"
    )
