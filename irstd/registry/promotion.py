"""Promotion: challenger against champion on the same frozen gate split.

The alias moves when the challenger's objective is higher on the very frames (same digests) that the champion is measured on.
Where a set has no gate split, val decides, and the verdict says so. Versions measured on different digests are not compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from irstd.data.manifest import pseudo_masks, read_all
from irstd.inference.package import Package
from irstd.registry import models
from irstd.registry.tracking import client
from irstd.workspace import Workspace


@dataclass(frozen=True)
class Verdict:
    promoted: bool
    reason: str
    split: str
    challenger: dict[str, Any] | None = None
    champion: dict[str, Any] | None = None
    digests: dict[str, str] | None = None


def compare(workspace: Workspace, challenger: Any, champion: Any | None, shards: str | Path) -> Verdict:
    """Decide on the frames in the folder `shards`, without moving anything."""
    from irstd.training.evaluation import reported

    mine = models.package(workspace, f"models:/{challenger.name}/{challenger.version}")
    sets = mine.content["lineage"]["sets"]
    if champion is None:
        return Verdict(True, "there was no champion", "-")
    if champion.version == challenger.version:
        return Verdict(True, f"version {champion.version} is the champion already", "-")
    theirs = models.package(workspace, f"models:/{champion.name}/{champion.version}")
    manifests = read_all(shards, sorted(sets))
    present = {m.set: m.digest for m in manifests}
    for role, package in (("challenger", mine), ("champion", theirs)):
        if package.content["lineage"]["sets"] != present:
            return Verdict(
                False, f"the {role} was trained and measured on other shards than are here now; train it again", "-"
            )
    split = "gate" if all(m.count("gate", "labelled") for m in manifests) else "val"
    for role, package in (("challenger", mine), ("champion", theirs)):
        if split == "val" and package.config.data.train_on != "train":
            return Verdict(
                False,
                f"the sets have no gate split, and the {role} was trained on val; nothing is left to compare",
                "-",
            )
    measured = [
        _measure(package, split, shards, mine.config.objective) | {"version": str(v.version)}
        for package, v in ((mine, challenger), (theirs, champion))
    ]
    objective = mine.config.objective
    new, old = measured[0][objective], measured[1][objective]
    note = "" if split == "gate" else " (val, since the sets have no gate split)"
    if new is None or old is None:
        return Verdict(
            False, f"{objective} cannot be told on {split}{note}: it has no target", split, *measured, present
        )
    shown = [reported(row, pseudo_masks(manifests, split)) for row in measured]
    if shown[0][objective] is None:  # it decides, and is no result
        agrees = "agrees better" if new > old else "does not agree better"
        return Verdict(new > old, f"{agrees} with the pseudo-masks of {split}{note}", split, *shown, present)
    measured = shown
    if new > old:
        return Verdict(True, f"{objective} {new:.4f} against {old:.4f} on {split}{note}", split, *measured, present)
    return Verdict(False, f"{objective} {new:.4f} does not beat {old:.4f} on {split}{note}", split, *measured, present)


def _measure(package: Package, split: str, shards: str | Path, objective: str) -> dict[str, Any]:
    """The package's numbers under `strict`; under `centroid` where its average precision decides."""
    from irstd.training.evaluation import measure
    from irstd.training.loop import loader_for

    sets = sorted(package.content["lineage"]["sets"])
    config = package.config.model_copy(update={"data": package.config.data.model_copy(update={"sets": sets})})
    dataset = package.content["intensity"]["dataset"]
    loader = loader_for(config, shards, split, read_all(shards, sets), batch_size=1, dataset=dataset)
    strict = config.evaluate.model_copy(
        update={
            "protocol": "centroid" if objective == "ap" else "strict",
            "grid": None,
            "threshold": package.content["threshold"],
        }
    )
    return measure(package.model(), loader, strict).compute()


def record(workspace: Workspace, challenger: Any, champion: Any | None, verdict: Verdict) -> None:
    """Store the verdict with both versions and move the alias; refuses where the champion changed meanwhile."""
    with FileLock(workspace.home / "promotion.lock"):
        found = client(workspace)
        now = models.aliased(workspace, challenger.name, "champion")
        if (now.version if now else None) != (champion.version if champion else None):
            from irstd.errors import WorkError

            raise WorkError(f"{challenger.name}: the champion changed during the comparison; run promote again")
        for version in (challenger, champion):
            if version is not None:
                found.set_model_version_tag(challenger.name, version.version, "irstd.promotion", verdict.reason)
        if verdict.promoted:
            models.set_alias(workspace, challenger.name, "champion", challenger.version)
