"""What tests of training runs share."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from irstd.commands import train
from irstd.config import Config
from irstd.files import write_json
from irstd.registry import lineage
from irstd.training import loop
from irstd.workspace import Workspace


class Keeper:
    """A report callable that keeps every checkpoint, as `epoch-N` or `step-N`, and may die after one of them."""

    def __init__(self, folder: Path, die_after: int | None = None, by: str = "epoch") -> None:
        self.folder, self.die_after, self.by, self.metrics = folder, die_after, by, []

    def __call__(self, metrics, folder):
        self.metrics.append(metrics)
        if folder is not None:
            shutil.copytree(folder, self.folder / f"{self.by}-{metrics[self.by]}")
        if metrics[self.by] == self.die_after:
            raise KeyboardInterrupt


def trained(workspace: Workspace, config: Config, run_id: str | None = None) -> tuple[train.Job, dict[str, Any]]:
    """A finished run of the workspace, trained by the bare loop; as `irstd train` leaves it, without Ray."""
    job = train.prepare(config, workspace.shards)
    folder = workspace.runs / job.name

    def report(metrics, checkpoint):
        if checkpoint is None:
            return
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        shutil.copytree(checkpoint, folder / "checkpoint")

    loop.fit(config, workspace.shards, report, log=lambda line: None)
    chain = lineage.of_run(workspace, job.identity, job.manifests, config.train.seed)
    record = train.record_of(job, folder, chain, run_id)
    write_json(folder / "run.json", record)
    return job, record


def under_git(folder: Path) -> None:
    """Everything in the folder as one commit."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    for call in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "workspace"]):
        subprocess.run(["git", *identity, *call], cwd=folder, check=True, capture_output=True)
