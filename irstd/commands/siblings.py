"""Beside a model that is one of several seeds: what all of them have in common on a split."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irstd.commands.show import number, say
from irstd.errors import InputError
from irstd.files import read_json
from irstd.inference import seeds as summaries
from irstd.inference.package import Package
from irstd.training.evaluation import REPORTED
from irstd.workspace import Workspace

if TYPE_CHECKING:
    from irstd.metrics import Report


def packages(workspace: Workspace, package: Package) -> list[tuple[int, Package]]:
    """(seed, package) of the other seeds; `InputError` where the model is none of several, or one is not here."""
    several = package.content["metrics"].get("seeds")
    if not several:
        raise InputError("--seeds: this model is not one of several seeds; train them with irstd train MODEL seeds=3")
    found = []
    for seed, run in zip(several["seeds"], several["runs"], strict=True):
        if run == package.content["lineage"]["run"]:
            continue
        folder = workspace.runs / run / "package"
        if not folder.is_dir():
            raise InputError(
                f"--seeds: the run of seed {seed} ({run}) is not here; measure where it was trained, or train it again"
            )
        found.append((seed, Package.read(folder)))
    return found


def known(workspace: Workspace, package: Package, found: Mapping[str, Any], label: str) -> dict[int, Mapping[str, Any]]:
    """The evaluations of the seeds on the frames of `found` that exist, by seed: this model's, and earlier ones of others."""
    several = package.content["metrics"]["seeds"]
    rows: dict[int, Mapping[str, Any]] = {}
    for seed, run in zip(several["seeds"], several["runs"], strict=True):
        if run == package.content["lineage"]["run"]:
            rows[seed] = found
        elif (other := _evaluation(workspace, run, label)) and other.get("digests") == found["digests"]:
            rows[seed] = other
    return rows


def _evaluation(workspace: Workspace, run: str, label: str) -> dict[str, Any] | None:
    """What was found of a run: in its folder of evaluations, else in MLflow."""
    from irstd.registry import tracking

    try:
        return read_json(workspace.home / "evaluations" / f"{run}-{label}" / "report.json")
    except (OSError, ValueError):
        pass
    logged = tracking.run_of(workspace, run, "")
    texts = tracking.texts(workspace, logged.info.run_id, "evaluation-") if logged else {}
    return json.loads(texts[f"evaluation-{label}.json"]) if f"evaluation-{label}.json" in texts else None


def together(
    rows: Mapping[int, Mapping[str, Any]], wanted: Sequence[int], reports: Mapping[int, Report] | None = None
) -> dict[str, Any]:
    """{"seeds", "missing", "protocols": [{"protocol", "grid", "mean", "deviation", "values", "intervals"}]} of evaluations.

    `reports`: those of all seeds, where the intervals of the mean over seeds and groups can be told.
    """
    from irstd.metrics import bootstrap

    seeds = [seed for seed in wanted if seed in rows]
    names = [*REPORTED["segmentation"], *REPORTED["detection"]]
    found: dict[str, Any] = {"seeds": seeds, "missing": [s for s in wanted if s not in rows], "protocols": []}
    groups = rows[seeds[0]]["groups"]
    if (why := bootstrap.insufficient(groups)) is not None:
        found["insufficient"] = why
    samples = None
    if reports is not None and why is None:
        samples = [reports[seed].samples() for seed in seeds]
    for place, first in enumerate(rows[seeds[0]]["protocols"]):
        same = [rows[seed]["protocols"][place] for seed in seeds]
        about = {"protocol": first["protocol"], "grid": first["grid"], "groups": groups}
        intervals = None if samples is None else bootstrap.over_seeds([values[place] for values in samples])
        found["protocols"].append(about | summaries.summary(same, names) | {"intervals": intervals})
    return found


def show(found: Mapping[str, Any], split: str) -> None:
    """Print mean and deviation over the seeds."""
    seeds = ", ".join(map(str, found["seeds"]))
    if found["missing"]:
        say(
            f"seed(s) {', '.join(map(str, found['missing']))} of the same training are not measured on {split}: --seeds measures "
            "all of them"
        )
    if len(found["seeds"]) < 2:
        return
    say(f"mean +- deviation (n - 1) over {len(found['seeds'])} seeds ({seeds}) on {split}, each at its own threshold:")
    for row in found["protocols"]:
        parts = []
        for name, mean in row["mean"].items():
            if mean is None:
                continue
            factor, digits, unit = (1e6, 2, "e-6") if name == "fa" else (1, 3, "")
            interval = (row["intervals"] or {}).get(name)
            parts.append(
                f"{name} {number(mean, None, factor, digits)} +- {number(row['deviation'][name], interval, factor, digits)}{unit}"
            )
        say(f"  {row['protocol']:<10} grid {row['grid'] or 'native':<6}  {'  '.join(parts)}")
    if any(row["intervals"] for row in found["protocols"]):
        say("  in brackets: 95 % of the mean, over resampled seeds and groups")


def measure(
    workspace: Workspace,
    package: Package,
    score: Callable[[Package], tuple[Report, dict[str, Any]]],
    keep: Callable[[Package, Report, dict[str, Any]], Path],
    own: tuple[Report, dict[str, Any]],
) -> dict[str, Any]:
    """Measure the other seeds by `score`, keep what was found by `keep`; `together` of all."""
    several = package.content["metrics"]["seeds"]
    rows, reports = {}, {}
    for seed, other in packages(workspace, package):
        say(f"seed {seed}: {other.content['lineage']['run']}")
        reports[seed], rows[seed] = score(other)
        keep(other, reports[seed], rows[seed])
    mine = several["seeds"][several["runs"].index(package.content["lineage"]["run"])]
    reports[mine], rows[mine] = own
    return together(rows, several["seeds"], reports)
