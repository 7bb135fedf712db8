"""Promotion: challenger against champion on the same frozen gate split, paired by group.

The alias moves when the interval of the difference of the objective lies above a bound. Where a set has no gate split, val
decides, and the verdict says so. Numbers of different digests are not compared; test decides nothing.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from irstd.data.manifest import Manifest, pseudo_masks, read_all
from irstd.errors import InputError, WorkError
from irstd.inference import provenance
from irstd.inference.package import Package
from irstd.registry import history, models, tracking
from irstd.registry.tracking import client
from irstd.workspace import Workspace


@dataclass(frozen=True)
class Verdict:
    """outcome: "promoted"; "kept", the champion stays; "insufficient", too few groups to tell; "refused", not comparable.

    challenger, champion: their numbers. digests: of the sets. gates: of the split that decided, where it was looked at.
    difference: see `irstd.metrics.paired`.
    """

    outcome: str
    reason: str
    split: str = "-"
    challenger: dict[str, Any] | None = None
    champion: dict[str, Any] | None = None
    digests: dict[str, str] | None = None
    gates: dict[str, str] | None = None
    difference: dict[str, Any] | None = None
    bound: float = 0.0

    @property
    def promoted(self) -> bool:
        return self.outcome == "promoted"


def compare(
    workspace: Workspace,
    challenger: Any,
    champion: Any | None,
    shards: str | Path,
    bound: float = 0.0,
    accept_insufficient: bool = False,
    anew: bool = False,
) -> Verdict:
    """Decide on the frames in the folder `shards`, without moving anything.

    accept_insufficient: where there are too few groups for an interval, the numbers alone decide. anew: measure both on the
    split that is here, though it was another one when they were trained.
    """
    # First: a version whose files are gone or altered does not become champion, whatever there is to compare it with.
    mine = models.package(workspace, f"models:/{challenger.name}/{challenger.version}")
    if champion is None:
        return Verdict("promoted", "there was no champion")
    if champion.version == challenger.version:
        return Verdict("promoted", f"version {champion.version} is the champion already")
    theirs = models.package(workspace, f"models:/{champion.name}/{champion.version}")
    manifests = read_all(shards, sorted(mine.content["lineage"]["sets"]))
    split = "gate" if all(m.count("gate", "labelled") for m in manifests) else "val"
    if why := _incomparable(mine, theirs, manifests, split, anew):
        return Verdict("refused", why, split)
    # Each is measured at the threshold of its own package, which was chosen for the wanted rate.
    objective = "pd" if mine.config.objective == "pd_at_fa" else mine.config.objective
    found = [_measure(package, manifests, split, shards, objective) for package in (mine, theirs)]
    verdict = _decide(
        found, [challenger.version, champion.version], manifests, split, objective, bound, accept_insufficient
    )
    if roles := [r for r, p in (("challenger", mine), ("champion", theirs)) if provenance.untold(p.content)]:
        started = f"the {' and the '.join(roles)} started from weights whose own training is not known here"
        verdict = replace(verdict, reason=f"{verdict.reason}; {started}")
    return verdict


def _incomparable(mine: Package, theirs: Package, manifests: list[Manifest], split: str, anew: bool) -> str | None:
    """Why the two cannot be compared on these frames."""
    if mine.config.model.task != theirs.config.model.task:
        return f"one does {mine.config.model.task} and the other {theirs.config.model.task}; give one another registry.name"
    present = {m.set: m.digest for m in manifests}
    deciding = {m.set: provenance.split_digest(m.content, split) for m in manifests}
    for role, package in (("challenger", mine), ("champion", theirs)):
        noted = package.content["lineage"]
        if "source" in noted:
            return f"the {role} was trained by others, on recordings that nobody here knows"
        same = (
            noted["sets"] == present
            or {name: splits[split] for name, splits in noted.get("splits", {}).items()} == deciding
        )
        if not same and not anew:
            return (
                f"the {role} was trained and measured on other shards than are here now, with another {split} split; train it "
                "again, name its own with --shards, or measure both on these with --anew"
            )
        if split == "val" and package.config.data.train_on != "train":
            return f"the sets have no gate split, and the {role} was trained on val; nothing is left to compare"
        learned = provenance.learned(package.content)
        if learned is None and noted["sets"] != present:
            return f"the {role} does not say which groups it was trained on; train it again"
        if leaks := provenance.leaked(learned or {}, manifests, {split, "gate", "test"}):
            shown = ", ".join(leaks[:3]) + (", ..." if len(leaks) > 3 else "")
            start = " (with what it started from)" if "init" in noted else ""
            return f"the {role}{start} was trained on {len(leaks)} of the groups that are gate or test here: {shown}"
    return None


def _decide(
    found: list[Any],
    versions: list[Any],
    manifests: list[Manifest],
    split: str,
    objective: str,
    bound: float,
    accept_insufficient: bool,
) -> Verdict:
    from irstd.metrics.paired import difference
    from irstd.training.evaluation import reported

    cluster = provenance.group_of(manifests).get
    told = difference(*found, objective, cluster)
    rows = [m.compute() | _intervals(m, cluster) | {"version": str(v)} for m, v in zip(found, versions, strict=True)]
    new, old = rows[0][objective], rows[1][objective]
    shown = [reported(row, pseudo_masks(manifests, split)) for row in rows]
    about = {
        "split": split,
        "challenger": shown[0],
        "champion": shown[1],
        "digests": {m.set: m.digest for m in manifests},
        "gates": {m.set: provenance.split_digest(m.content, split) for m in manifests},
        "difference": told,
        "bound": bound,
    }
    on = split if split == "gate" else "val (val, since the sets have no gate split)"
    if told["difference"] is None:
        return Verdict("insufficient", f"{objective} cannot be told on {on}: it has no target", **about)
    interval = told["interval"]
    won = (told["difference"] if interval is None else interval[0]) > bound
    few = interval is None
    if shown[0][objective] is None:  # it decides, and is no result: no number is said
        about["difference"] = None
        agrees = "agrees better" if won else "does not agree better"
        said = f"{agrees} with the pseudo-masks of {on}" + (", with too few groups for an interval" if few else "")
    else:
        beats = f"{new:.4f} against {old:.4f}" if won else f"{new:.4f} does not beat {old:.4f}"
        spread = told.get("insufficient", "no interval") if few else "[{:+.4f}, {:+.4f}]".format(*interval)
        said = f"{objective} {beats} on {on}: difference {told['difference']:+.4f}, {spread}"
        said += "" if few else f" over {told['groups']} groups, {'above' if won else 'not above'} {bound:g}"
    if few and not accept_insufficient:
        return Verdict("insufficient", f"{said}; --accept-insufficient lets the numbers alone decide", **about)
    if few:
        said += "; accepted as insufficient"
    return Verdict("promoted" if won else "kept", said, **about)


def _intervals(metrics: Any, cluster: Any) -> dict[str, Any]:
    """Groups, and each number's own interval."""
    if hasattr(metrics, "intervals"):
        return metrics.intervals(cluster)
    return metrics.resampled(cluster).report(details=False)


def _measure(package: Package, manifests: list[Manifest], split: str, shards: str | Path, objective: str) -> Any:
    """The package's metrics under `strict`; under `centroid` where its average precision decides."""
    from irstd.training.evaluation import measure
    from irstd.training.loop import loader_for

    sets = [m.set for m in manifests]
    config = package.config.model_copy(update={"data": package.config.data.model_copy(update={"sets": sets})})
    dataset = package.content["intensity"]["dataset"]
    loader = loader_for(config, shards, split, manifests, batch_size=1, dataset=dataset)
    strict = config.evaluate.model_copy(
        update={
            "protocol": "centroid" if objective == "ap" else "strict",
            "grid": None,
            "objective": None,  # what chose the checkpoint needs nothing more of its metrics
            "threshold": package.content["threshold"],
        }
    )
    return measure(package.model(), loader, strict)


def record(workspace: Workspace, challenger: Any, champion: Any | None, verdict: Verdict) -> int:
    """Store the verdict with both versions, and move the alias where the challenger won; how often the gate was used.

    Of two promotions at once one wins: `WorkError` where the champion is another one than was compared with.
    """
    if champion is not None and champion.version == challenger.version:
        return 0  # nothing was compared, and why it became champion stays written
    name, key = challenger.name, history.new_key()
    note = _note(challenger, champion, verdict)
    # Looking at the frames is what uses them up, whatever becomes of the alias.
    history.write(workspace, name, key, note)
    used = history.uses(history.records(workspace, name), verdict.gates or {})
    known = champion.version if champion else None
    if verdict.promoted:
        try:
            with history.alone(workspace, name):
                _still(workspace, name, known)
                # Before the alias: a record too many does no harm, a move without one cannot be taken back.
                history.write(workspace, name, key, note | {"moved": True})
                models.set_alias(workspace, name, "champion", challenger.version)
                _still(workspace, name, challenger.version)
        except WorkError as error:
            # Another one won: the card of this version is not to say that it was promoted.
            history.write(workspace, name, key, note | {"outcome": "kept", "reason": str(error)})
            raise
        note |= {"moved": True}
    for version in (challenger, champion):
        if version is not None:
            _store(workspace, version, key, note | {"gate_uses": used})
    return used


def _still(workspace: Workspace, name: str, wanted: Any) -> None:
    now = models.aliased(workspace, name, "champion")
    if str(now.version if now else None) != str(wanted):
        raise WorkError(f"{name}: the champion changed during the comparison; run promote again")


def _note(challenger: Any, champion: Any | None, verdict: Verdict) -> dict[str, Any]:
    numbers = verdict.difference or {}
    return {
        "kind": "promotion",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "split": verdict.split,
        "digests": verdict.digests,
        "gates": verdict.gates,
        "bound": verdict.bound,
        "number": numbers.get("number"),
        "difference": numbers.get("difference"),
        "interval": numbers.get("interval"),
        "groups": numbers.get("groups"),
        "from": str(champion.version) if champion else None,
        "to": str(challenger.version),
        "moved": False,
    }


def _store(workspace: Workspace, version: Any, key: str, note: dict[str, Any]) -> None:
    """The verdict as tags of the version, as a file of its run, and on its card."""
    found = client(workspace)
    found.set_model_version_tag(version.name, version.version, "irstd.promotion", note["reason"])
    found.set_model_version_tag(
        version.name, version.version, "irstd.promotion_record", json.dumps(note, sort_keys=True)
    )
    if version.run_id and tracking.known(workspace, version.run_id):
        text = json.dumps(note, indent=1, sort_keys=True)
        tracking.log_text(workspace, version.run_id, text, f"promotions/{key.removeprefix(history.RECORD)}.json")
    models.describe(workspace, version)


def rollback(workspace: Workspace, name: str) -> tuple[str, str]:
    """Make the champion before this one champion again: (the version that was, the version that is)."""
    with history.alone(workspace, name):
        now = models.aliased(workspace, name, "champion")
        if now is None:
            raise InputError(f"{name}: has no champion to take back")
        target = history.before(history.records(workspace, name), str(now.version))
        if target is None:
            raise InputError(f"{name}: no champion before version {now.version} is recorded")
        version = models.resolve(workspace, f"models:/{name}/{target}")
        models.package(workspace, f"models:/{name}/{target}")  # its files are whole
        note = {
            "kind": "rollback",
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "outcome": "rolled back",
            "reason": f"rolled back from version {now.version} to version {target}",
            "from": str(now.version),
            "to": target,
            "moved": True,
        }
        key = history.new_key()
        history.write(workspace, name, key, note)
        models.set_alias(workspace, name, "champion", target)
        _still(workspace, name, target)
    for each in (now, version):
        _store(workspace, each, key, note)
    return str(now.version), target
