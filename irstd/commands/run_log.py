"""What is logged of a trained run beside its reports: files of its folder, and the numbers of the whole."""

from __future__ import annotations

import importlib.metadata
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irstd.commands.show import say
from irstd.files import read_json, staged_folder, write_atomic, write_json
from irstd.workspace import Workspace

if TYPE_CHECKING:
    from irstd.commands.train import Job
    from irstd.registry.tracker import RunTracker

CONFIG, PACKAGES, LINEAGE = "config.yaml", "packages.txt", "lineage.json"
CURVES, GALLERY, MADE = "curves", "gallery", "made.json"
FRAMES = 2000
"""Frames of val that the pass after the training looks at; of more one of two, of three, ... is taken."""


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


def pictures(workspace: Workspace, job: Job, record: dict[str, Any], package: Path) -> None:
    """Curves of the run, and with a pass over val its operating curves and its worst mistakes: made and logged once.

    The pass is left out where settings.toml says mlflow.gallery = false. Raises WorkError where MLflow stays away.
    """
    from irstd.inference.package import Package
    from irstd.registry import tracking

    folder, passes = workspace.runs / job.name / "pictures", bool(workspace.settings["mlflow"]["gallery"])
    content = Package.read(package).content
    made = {"passes": passes, "threshold": content["threshold"], "weights": content["lineage"].get("weights_sha256")}
    # Another threshold is another gallery.
    if not (folder / MADE).is_file() or read_json(folder / MADE) != made:
        with staged_folder(folder) as staged:
            _draw(staged, job, package, passes)
            write_json(staged / MADE, made)
    logged, run_id = folder / ".logged", record["mlflow_run"]
    if logged.is_file() and logged.read_text() == run_id:
        return

    def log() -> None:
        if not tracking.known(workspace, run_id):  # deleted there
            return
        for part in (CURVES, GALLERY):
            paths = sorted((folder / part).iterdir()) if (folder / part).is_dir() else []
            tracking.log_files(workspace, run_id, paths, part)

    tracking.patiently(workspace, log, say, "goes on from here")
    write_atomic(logged, run_id)
    say(f"pictures: {workspace.relative(folder)}, and under curves/ and gallery/ of the run in MLflow")


def _draw(folder: Path, job: Job, package: Path, passes: bool) -> None:
    from irstd.commands.train import about
    from irstd.metrics import progress
    from irstd.metrics.report.base import csv_text

    state = read_json(package.parent / "checkpoint" / "state.json")
    best = state["best"]
    # Rows within an epoch count the epochs before it alone.
    per_epoch = min((row["step"] / row["epoch"] for row in state["history"] if row["epoch"]), default=state["step"])
    for name, columns in progress.tables(state["history"]).items():
        write_atomic(folder / CURVES / f"{name}.csv", csv_text(columns))
        said = f"{job.name}\n{about(job)}" if name == "val" else job.name
        write_atomic(folder / CURVES / f"{name}.png", progress.picture(name, columns, per_epoch, best, said))
    # Of a val that it was trained on there is nothing to learn.
    apart = "val" not in job.config.data.train_on.split("+")
    if passes and apart and sum(m.count("val", "labelled") for m in job.manifests):
        _pass(folder, job, package)


def _pass(folder: Path, job: Job, place: Path) -> None:
    """Operating curves and worst mistakes of the packaged model on val."""
    import torch

    from irstd.commands.evaluate import fill
    from irstd.inference.package import Package
    from irstd.metrics.mistakes import Mistakes
    from irstd.reports import gallery
    from irstd.training.loop import loader_for

    package = Package.read(place)
    loader = loader_for(
        job.config, job.shards, "val", job.manifests, batch_size=1, dataset=package.content["intensity"]["dataset"]
    )
    every = math.ceil(len(loader.windows) / FRAMES)
    worst = Mistakes(package.content["threshold"])
    report = fill(package.model("cuda" if torch.cuda.is_available() else "cpu"), loader, worst, every)
    digests = {m.set: m.digest for m in job.manifests}
    chosen = package.content["metrics"]["chosen"]
    split = "val" if every == 1 else f"val, 1 of {every} frames"
    found = report.compute() | {"split": split, "digests": digests, "chosen": chosen, "run": job.name}
    report.write(folder / CURVES, found)
    about = gallery.About(job.name, "val", digests, chosen, package.content["threshold"], worst.frames, every)
    gallery.write(folder / GALLERY, worst, about)
