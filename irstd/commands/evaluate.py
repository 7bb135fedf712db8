"""`irstd evaluate`: a model and the classical baselines on a split, each number with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from irstd import config as configuration
from irstd.commands.show import boxes_scored, result, say, scored, table
from irstd.data.loader import ClipLoader
from irstd.data.manifest import read_all
from irstd.errors import InputError
from irstd.files import canonical_json, sha256_text, write_json
from irstd.inference.package import Package
from irstd.workspace import Workspace

# Each protocol on the grid that its tables use.
PROTOCOLS: tuple[tuple[str, int | None], ...] = (("strict", None), ("basicirstd", None), ("dnanet", 256), ("msda", 512))
# Pixels of false alarms up to which the baselines are put beside the model: 1 in 3000 of ten thousand 512 x 640 frames. To
# be compared, they need about as many pixels in memory.
COMPARABLE = 2**20


def run(workspace: Workspace, uri: str, overrides: list[str], split: str, shards: str | None, out: Path | None) -> None:
    from irstd.registry import models, tracking

    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a file")
    with tracking.answering(workspace):
        package = models.package(workspace, uri)
    changed = configuration.parse_overrides(overrides)
    for key in changed:
        if key != "data.sets":
            raise InputError(f"{key}: evaluate measures the model as it is; it takes data.sets=[...] only")
    place = workspace.shards_at(shards)
    sets = changed.get("data.sets")
    if not sets:  # the model's own; of other shards all, since they need not know those
        own = sorted(package.content["lineage"]["sets"]) if shards is None else []
        sets = own or [m.set for m in read_all(place)]
    found = score(package, place, split, sets)
    show(found)
    if out is not None:
        write_json(out, found)
    log(workspace, package.content["lineage"], found)
    row = found["protocols"][0]
    result(
        model=uri, split=split, **{k: row[k] for k in ("iou", "pd", "fa", "ap50", "precision", "recall") if k in row}
    )


def log(workspace: Workspace, lineage: dict[str, Any], found: dict[str, Any]) -> None:
    """Write the numbers to the model's run, where this store has it: a package may come from elsewhere.

    Those of other shards than the model was trained on bear their digests' hash, and stand beside the model's own.
    """
    from irstd.registry import tracking
    from irstd.training.evaluation import REPORTED

    run_id, label = lineage.get("mlflow_run"), found["split"]
    if found["digests"] != lineage["sets"]:
        label += f"-{sha256_text(canonical_json(found['digests']))[:12]}"
    with tracking.answering(workspace):
        if not run_id or not tracking.known(workspace, run_id):
            say(f"the model's run is not in MLflow at {workspace.mlflow_uri}; its numbers are not logged there")
            return
        values = {
            f"{label}_{row['protocol']}_{k}": row[k]
            for row in found["protocols"]
            for k in (*REPORTED["segmentation"], *REPORTED["detection"])
            if row.get(k) is not None
        }
        tracking.log_values(tracking.client(workspace), run_id, values)
        tracking.log_text(workspace, run_id, configuration_json(found), f"evaluation-{label}.json")


def configuration_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=1, sort_keys=True)


def score(package: Package, shards: str | Path, split: str, sets: list[str]) -> dict[str, Any]:
    """Numbers of the package's model on `split` of `sets`, and of the classical baselines at the model's Fa.

    Returns {"split", "digests", "chosen", "threshold", "frames", "protocols": [...], "baselines": [...]}. The frames are
    read again for each pass over them, so memory does not grow with their number. No baselines where the model marks too
    many pixels for a comparison to say anything.
    """
    from irstd.metrics import SegmentationMetrics
    from irstd.metrics.operating import pd_at_fa
    from irstd.models.classical import CLASSICAL
    from irstd.training.evaluation import reported
    from irstd.training.loop import loader_for

    config = package.config.model_copy(update={"data": package.config.data.model_copy(update={"sets": sets})})
    manifests = read_all(shards, sets)
    have = [s for s in ("train", "val", "gate", "test") if sum(m.count(s, "labelled") for m in manifests)]
    if split not in have:
        raise InputError(
            f"no labelled key frame in the split {split!r} of {', '.join(sets)}; there are: {', '.join(have) or 'none'} (--split)"
        )

    def fresh() -> ClipLoader:
        """A loader at its beginning: passes go on side by side, and a loader that was gone through stands elsewhere."""
        dataset = package.content["intensity"]["dataset"]
        return loader_for(config, shards, split, manifests, batch_size=1, dataset=dataset)

    loader = fresh()
    if config.model.task == "detection":
        return score_boxes(package, loader, split)
    if not loader.masks:
        raise InputError(f"the split {split!r} of {', '.join(sets)} has no masks to score a segmentation against")
    model = package.model()
    metrics = [SegmentationMetrics(name, model.threshold, grid) for name, grid in PROTOCOLS]
    for number, (batch, _, mask_HW) in enumerate(_frames(loader), 1):
        found = model.predict(batch)[0]
        for metric in metrics:
            metric.update(found.probability_HW, mask_HW, group=batch["key"][0][0])
        if number % 100 == 0:
            say(f"evaluate: {number} of {len(loader.windows)} frames")
    rows = [reported(m.compute(), loader.pseudo_masks) for m in metrics]
    for row in rows:
        if row["targets"] == 0:
            row["pd"] = None
    baselines = []
    if rows[0]["fa"] * rows[0]["pixels"] <= COMPARABLE:
        masks = Anew(lambda: (mask_HW for _, _, mask_HW in _frames(fresh())))
        for name, operator in CLASSICAL.items():
            say(f"evaluate: {name} on {len(loader.windows)} frames")
            responses = Anew(lambda operator=operator: (operator(frame_HW) for _, frame_HW, _ in _frames(fresh())))
            point = pd_at_fa(responses, masks, rows[0]["fa"])
            baselines.append({"method": name, "pd": point.pd, "fa": point.fa, "threshold": float(point.threshold)})
    return {
        "split": split,
        "digests": {m.set: m.digest for m in manifests},
        "chosen": package.content["metrics"]["chosen"],
        "threshold": model.threshold,
        "frames": rows[0]["images"],
        "protocols": rows,
        "baselines": baselines,
        "run": package.content["lineage"]["run"],
    }


class Anew:
    """What can be gone through many times without being held: every `iter` calls `make` again."""

    def __init__(self, make: Callable[[], Iterator[np.ndarray]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.make()


def _frames(loader: ClipLoader) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """Batches of one key frame, each with its counts [H, W] and its mask, bool [H, W], without padding."""
    for batch in loader:
        h, w = batch["size"][0]
        yield batch, batch["frames"][0, -1, :h, :w], batch["masks"][0, :h, :w] != 0


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
    if why := found["protocols"][0].get("withheld"):
        say(f"  {why}")
    if "ap50" in found["protocols"][0]:  # no classical baseline gives boxes with scores
        return
    if not found["baselines"]:
        say(f"no classical baselines beside it: the model marks more than {COMPARABLE} pixels falsely")
        return
    rows = [{"method": "model", "Pd": found["protocols"][0]["pd"], "Fa e-6": found["protocols"][0]["fa"] * 1e6}]
    rows += [{"method": b["method"], "Pd": b["pd"], "Fa e-6": b["fa"] * 1e6} for b in found["baselines"]]
    say("beside classical baselines, each at the model's Fa or below (strict, native grid):")
    say(table(rows))
