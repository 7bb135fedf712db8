"""What is logged of a trained run beside its reports: files of its folder, and the numbers of the whole."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irstd.files import write_atomic, write_json
from irstd.workspace import Workspace

if TYPE_CHECKING:
    from irstd.commands.train import Job
    from irstd.registry.tracker import RunTracker

CONFIG, PACKAGES, LINEAGE = "config.yaml", "packages.txt", "lineage.json"


def write(workspace: Workspace, job: Job, chain: dict[str, Any]) -> None:
    """Write config.yaml (a whole recipe), packages.txt (every installed version) and lineage.json into the run's folder."""
    import yaml

    folder = workspace.runs / job.name
    recipe = yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False)
    write_atomic(folder / CONFIG, f"# irstd train {job.config.model.name} --recipe {CONFIG}\n{recipe}")
    installed = {f"{d.name}=={d.version}" for d in importlib.metadata.distributions()}
    write_atomic(folder / PACKAGES, "\n".join(sorted(installed, key=str.lower)) + "\n")
    write_json(folder / LINEAGE, chain)


def files(workspace: Workspace, name: str) -> dict[str, list[Path]]:
    """The files of a run that are logged, by their folder among its artifacts."""
    folder = workspace.runs / name
    return {"": [folder / "checkpoint" / "results.csv", *(folder / part for part in (CONFIG, PACKAGES, LINEAGE))]}


def settle(workspace: Workspace, job: Job, tracker: RunTracker, state: dict[str, Any]) -> str:
    """Bring the run's log up to its folder and end it; the id of the run in MLflow. Raises where MLflow does not answer.

    `state`: of its last checkpoint.
    """
    from irstd.registry import tracking

    run_id = tracker.open()
    metrics = {f"best_{k}": v for k, v in state["best"].items()} | {"step": state["step"]}
    tracking.settle(workspace, run_id, state["history"], metrics, files(workspace, job.name))
    return run_id
