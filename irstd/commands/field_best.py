"""`irstd evaluate MODEL_URI --field-best`: the best epoch by the split itself, as most of the field's tables are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from irstd.commands.show import result, say, table
from irstd.data.manifest import read_all
from irstd.errors import InputError
from irstd.files import write_json
from irstd.inference.package import Package
from irstd.training import expectations
from irstd.workspace import Workspace


def run(
    workspace: Workspace, package: Package, place: str | Path, split: str, sets: list[str], out: Path | None
) -> dict[str, Any]:
    """Measure every kept epoch of the package's run, mark the best, and write field-best.json. Nothing is registered.

    Raises: InputError where no epochs are kept, or their weights are damaged.
    """
    from irstd.models.contract import load_weights
    from irstd.training import kept
    from irstd.training.evaluation import REPORTED, measure
    from irstd.training.loaders import loader_for

    lineage, config = package.content["lineage"], package.config
    config = config.model_copy(update={"data": config.data.model_copy(update={"sets": sets})})
    manifests = read_all(place, sets)
    model, objective = package.model(), config.objective
    rows: list[dict[str, Any]] = []
    entries = kept.epochs(folder_of(workspace, package))
    for entry in entries:
        load_weights(model, kept.weights(entry), entry["weights"])
        dataset = package.content["intensity"]["dataset"]
        loader = loader_for(config, place, split, manifests, batch_size=1, dataset=dataset)
        found = measure(model, loader, config.evaluate).compute()
        numbers = {name: found[name] for name in REPORTED[config.model.task] if name in found}
        rows.append({"epoch": entry["epoch"], "step": entry["step"], objective: found[objective]} | numbers)
        say(f"evaluate: epoch {entry['epoch']} ({len(rows)} of {len(entries)} that are kept)")
    best = max(rows, key=lambda row: -1.0 if row[objective] is None else row[objective])
    found = {
        "run": lineage["run"],
        "split": split,
        "digests": {m.set: m.digest for m in manifests},
        "protocol": config.evaluate.protocol,
        "grid": config.evaluate.grid,
        "threshold": config.evaluate.threshold,
        "objective": objective,
        "chosen": "field-best",
        "best": best,
        "epochs": rows,
    }
    say(table([row | {"": "field-best" if row is best else ""} for row in rows]))
    measured = config.evaluate
    say(
        f"field-best: epoch {best['epoch']} of {len(rows)} was chosen by {objective} on {split} itself ({measured.protocol}, "
        f"grid {measured.grid or 'native'}, threshold {measured.threshold:g}), as most published tables are; it says what the "
        "best epoch happened to reach, not what a chosen model will, and is never registered"
    )
    row = {"protocol": measured.protocol, "grid": measured.grid} | best
    if "recipe" in lineage and found["digests"] == lineage["sets"]:
        for line in expectations.compared(lineage["recipe"], split, [row], "field-best"):
            say(line)
    target = out or workspace.home / "evaluations" / f"{lineage['run']}-{split}" / "field-best.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, found)
    result(split=split, chosen="field-best", epoch=best["epoch"], report=str(target), **{objective: best[objective]})
    return found


def folder_of(workspace: Workspace, package: Package) -> Path:
    """The folder of the package's run: that around it, or the workspace's."""
    name = package.content["lineage"]["run"]
    for folder in (package.folder.resolve().parent, workspace.runs / name):
        if folder.name == name and folder.is_dir():
            return folder
    raise InputError(f"the run {name} is not here: the weights of its epochs lie in the workspace that trained it")
