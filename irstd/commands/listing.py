"""`irstd list`: what there is of data, public sets, runs and models."""

from __future__ import annotations

import datetime
from typing import Any

from irstd import versioning
from irstd.commands import sweep_page
from irstd.commands.show import boxes_scored, say, scored, size, table
from irstd.data import sequence, splits
from irstd.errors import InputError, nearest
from irstd.training.record import finished
from irstd.workspace import Workspace


def run(workspace: Workspace, what: str) -> None:
    kinds = {"data": _data, "sets": _sets, "runs": _runs, "sweeps": sweep_page.listed, "models": _models}
    if what not in kinds:
        raise InputError(f"list {what!r}{nearest(what, kinds)}: choose data, sets, runs, sweeps or models")
    kinds[what](workspace)


def _data(workspace: Workspace) -> None:
    rows = []
    for name in sequence.sets(workspace.data):
        found = sequence.sequences(workspace.data, name)
        given = splits.read(workspace.data / name)
        where = [splits.split_of(s, given) or "none yet" for s in found]
        rows.append(
            {
                "set": name,
                "sequences": len(found),
                "frames": sum(s.frames for s in found),
                "labelled": sum(s.labelled_frames for s in found),
                "bits": "/".join(str(b) for b in sorted({s.bit_depth for s in found})),
                "splits": ", ".join(f"{k} {where.count(k)}" for k in dict.fromkeys(sorted(where, key=_order))),
                "size": size(sum(p.stat().st_size for p in (workspace.data / name).rglob("*") if p.is_file())),
                "licence": ", ".join(sorted({s.licence or "none stated" for s in found})),
            }
        )
    if not rows:
        named = versioning.data_md5(workspace.root)
        say(
            "no data here"
            + ("; data.dvc names a version: irstd shard fetches it" if named else "; irstd ingest SOURCE --name NAME")
        )
        return
    say(table(rows))


def _sets(workspace: Workspace) -> None:
    from irstd.commands import sources

    say(table(sources.overview(workspace)))
    say("irstd ingest NAME takes one; docs/DATASETS.md has citations, splits and where each address comes from")


def _order(split: str) -> int:
    order = ("train", "val", "gate", "test")
    return order.index(split) if split in order else len(order)


def _runs(workspace: Workspace) -> None:
    from irstd.registry import tracking

    with tracking.answering(workspace):
        found = tracking.client(workspace)
        runs = found.search_runs([tracking.experiment(found, workspace)], max_results=50)
    rows = [
        {
            "run": run.data.tags.get("irstd.run", run.info.run_name),
            "kind": run.data.tags.get("irstd.kind"),
            "status": run.info.status.lower(),
            "started": datetime.datetime.fromtimestamp(run.info.start_time / 1000).strftime("%Y-%m-%d %H:%M"),
            "val": _val(run.data.metrics, measured := _measured(workspace, run)),
            "measured as": ", ".join(measured),
            "mlflow": run.info.run_id[:8],
        }
        for run in runs
    ]
    say(table(rows) if rows else "no runs yet; irstd train ggl-net --recipe recipes/demo.yaml")


def _measured(workspace: Workspace, run: Any) -> list[str]:
    """Protocol, grid and threshold of a run's numbers on val; [] where neither MLflow nor the run folder says them."""
    names = ("protocol", "grid", "threshold")
    found = [run.data.params.get(f"evaluate.{name}") for name in names]
    if found[0] is None:  # a trial: its parameters are those that were drawn
        folder = workspace.runs / str(run.data.tags.get("irstd.run"))
        record = finished(folder, record_needed=False) or {}
        found = [record.get("config", {}).get("evaluate", {}).get(name) for name in names]
    protocol, grid, threshold = found
    if protocol is None or threshold is None:
        return []
    return [protocol, f"grid {'native' if grid in (None, 'None') else grid}", f"threshold {float(threshold):g}"]


def _val(metrics: dict[str, float], measured: list[str]) -> str | None:
    """The numbers of the best checkpoint; None where nothing says how they were measured, or there are none."""
    values = {k.removeprefix("best_val_"): v for k, v in metrics.items() if k.startswith("best_val_")}
    if not measured or not values:
        return None
    shown = {k: v for k, v in values.items() if k in ("ap50", "ap", "f1")}
    return boxes_scored(shown) if shown else scored(values) if "fa" in values else None


def _models(workspace: Workspace) -> None:
    from irstd.registry import tracking, uses

    rows = []
    with tracking.answering(workspace):
        found = tracking.client(workspace)
        for model in found.search_registered_models():
            aliases: dict[str, list[str]] = {}
            for alias, version in found.get_registered_model(model.name).aliases.items():
                aliases.setdefault(str(version), []).append(alias)
            for version in sorted(found.search_model_versions(f"name = '{model.name}'"), key=lambda v: int(v.version)):
                rows.append(
                    {
                        "model": f"models:/{model.name}/{version.version}",
                        "aliases": ", ".join(sorted(aliases.get(str(version.version), []))),
                        "run": version.tags.get("irstd.run"),
                        "chosen": version.tags.get("irstd.chosen"),
                        "threshold": version.tags.get("irstd.threshold"),
                        "on test": version.tags.get(f"{uses.PREFIX}test"),
                        "promotion": version.tags.get("irstd.promotion"),
                    }
                )
    say(table(rows) if rows else "no registered models yet; irstd train ggl-net --recipe recipes/demo.yaml")
