"""`irstd evaluate`: a model and the classical baselines on a split, each number with its protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from irstd import config as configuration
from irstd.commands.show import boxes_scored, result, say, scored, table
from irstd.errors import InputError
from irstd.files import write_json
from irstd.inference.package import Package
from irstd.workspace import Workspace

# Each protocol on the grid that its tables use.
PROTOCOLS: tuple[tuple[str, int | None], ...] = (("strict", None), ("basicirstd", None), ("dnanet", 256), ("msda", 512))


def run(
    workspace: Workspace, uri: str, overrides: list[str], split: str, shards: Path | None, out: Path | None
) -> None:
    from irstd.registry import models, tracking

    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a file")
    with tracking.answering(workspace):
        package = models.package(workspace, uri)
    changed = configuration.parse_overrides(overrides)
    for key in changed:
        if key != "data.sets":
            raise InputError(f"{key}: evaluate measures the model as it is; it takes data.sets=[...] only")
    sets = changed.get("data.sets") or sorted(package.content["lineage"]["sets"])
    found = score(package, shards or workspace.shards, split, sets)
    show(found)
    if out is not None:
        write_json(out, found)
    log(workspace, package.content["lineage"].get("mlflow_run"), split, found)
    row = found["protocols"][0]
    result(
        model=uri, split=split, **{k: row[k] for k in ("iou", "pd", "fa", "ap50", "precision", "recall") if k in row}
    )


def log(workspace: Workspace, run_id: str | None, split: str, found: dict[str, Any]) -> None:
    """Write the numbers to the model's run, where this store has it: a package may come from elsewhere."""
    from irstd.registry import tracking
    from irstd.training.evaluation import REPORTED

    with tracking.answering(workspace):
        if not run_id or not tracking.known(workspace, run_id):
            say(f"the model's run is not in MLflow at {workspace.mlflow_uri}; its numbers are not logged there")
            return
        values = {
            f"{split}_{row['protocol']}_{k}": row[k]
            for row in found["protocols"]
            for k in (*REPORTED["segmentation"], *REPORTED["detection"])
            if row.get(k) is not None
        }
        tracking.log_values(tracking.client(workspace), run_id, values)
        tracking.log_text(workspace, run_id, configuration_json(found), f"evaluation-{split}.json")


def configuration_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=1, sort_keys=True)


def score(package: Package, shards: Path, split: str, sets: list[str]) -> dict[str, Any]:
    """Numbers of the package's model on `split` of `sets`, and of the classical baselines at the model's Fa.

    Returns {"split", "digests", "chosen", "threshold", "frames", "protocols": [...], "baselines": [...]}.
    """
    from irstd.data.manifest import read_all
    from irstd.metrics import SegmentationMetrics
    from irstd.metrics.operating import pd_at_fa
    from irstd.models.classical import CLASSICAL
    from irstd.training.loop import loader_for

    config = package.config.model_copy(update={"data": package.config.data.model_copy(update={"sets": sets})})
    manifests = read_all(shards, sets)
    have = [s for s in ("train", "val", "gate", "test") if sum(m.count(s, "labelled") for m in manifests)]
    if split not in have:
        raise InputError(
            f"no labelled key frame in the split {split!r} of {', '.join(sets)}; there are: {', '.join(have)} (--split)"
        )
    loader = loader_for(config, shards, split, manifests, batch_size=1)
    if config.model.task == "detection":
        return score_boxes(package, loader, split)
    if not loader.masks:
        raise InputError(f"the split {split!r} of {', '.join(sets)} has no masks to score a segmentation against")
    model = package.model()
    metrics = [SegmentationMetrics(name, model.threshold, grid) for name, grid in PROTOCOLS]
    # What the baselines need of all frames at once, as small as it can be: counts as they are recorded, masks of bool.
    masks: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    for number, batch in enumerate(loader, 1):
        h, w = batch["size"][0]
        mask_HW = batch["masks"][0, :h, :w] != 0
        masks.append(mask_HW)
        frames.append(batch["frames"][0, -1, :h, :w].copy())
        found = model.predict(batch)[0]
        for metric in metrics:
            metric.update(found.probability_HW, mask_HW, group=batch["key"][0][0])
        if number % 100 == 0:
            say(f"evaluate: {number} of {len(loader.windows)} frames")
    rows = [m.compute() for m in metrics]
    for row in rows:
        if row["targets"] == 0:
            row["pd"] = None
    baselines = []
    for name, operator in CLASSICAL.items():
        # Four bytes a pixel of every frame: gone before the next method's are made.
        responses = [operator(frame_HW) for frame_HW in frames]
        point = pd_at_fa(responses, masks, rows[0]["fa"])
        del responses
        baselines.append({"method": name, "pd": point.pd, "fa": point.fa, "threshold": float(point.threshold)})
    return {
        "split": split,
        "digests": {m.set: m.digest for m in manifests},
        "chosen": package.content["metrics"]["chosen"],
        "threshold": model.threshold,
        "frames": len(masks),
        "protocols": rows,
        "baselines": baselines,
        "run": package.content["lineage"]["run"],
    }


def score_boxes(package: Package, loader: Any, split: str) -> dict[str, Any]:
    """The same of a model that gives boxes, without baselines."""
    from irstd.metrics import DetectionMetrics

    model = package.model()
    metrics = [DetectionMetrics(name, model.threshold) for name in ("strict", "nnlab")]
    for number, batch in enumerate(loader, 1):
        for boxes_M4, (group, _), found in zip(batch["boxes"], batch["key"], model.predict(batch), strict=True):
            for metric in metrics:
                metric.update(found.boxes_N4, found.scores_N, boxes_M4, group)
        if number % 100 == 0:
            say(f"evaluate: {number} of {len(loader.windows)} frames")
    return {
        "split": split,
        "digests": {m.set: m.digest for m in loader.manifests},
        "chosen": package.content["metrics"]["chosen"],
        "threshold": model.threshold,
        "frames": len(loader.windows),
        "protocols": [m.compute() for m in metrics],
        "baselines": [],
        "run": package.content["lineage"]["run"],
    }


def show(found: dict[str, Any]) -> None:
    digests = ", ".join(f"{name} {digest[:12]}" for name, digest in found["digests"].items())
    say(
        f"split {found['split']} of {digests}: {found['frames']} frames, {found['protocols'][0]['targets']} targets; "
        f"checkpoint {found['chosen']}, threshold {found['threshold']:g}"
    )
    for row in found["protocols"]:
        if "ap50" in row:
            say(f"  {row['protocol']:<10} {boxes_scored(row)}")
            continue
        say(f"  {row['protocol']:<10} grid {row['grid'] or 'native':<6}  {scored(row)}")
    if not found["baselines"]:
        return
    rows = [{"method": "model", "Pd": found["protocols"][0]["pd"], "Fa e-6": found["protocols"][0]["fa"] * 1e6}]
    rows += [{"method": b["method"], "Pd": b["pd"], "Fa e-6": b["fa"] * 1e6} for b in found["baselines"]]
    say("beside classical baselines, each at the model's Fa or below (strict, native grid):")
    say(table(rows))
