"""The threshold that keeps to a wanted rate of false alarms, chosen on val and kept in the package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irstd.commands.baselines import Anew
from irstd.commands.frames import ignored, truth
from irstd.commands.show import say
from irstd.config import Config
from irstd.data.loader import ClipLoader
from irstd.data.manifest import Manifest
from irstd.errors import InputError
from irstd.inference import choice
from irstd.inference.package import Package

if TYPE_CHECKING:
    from irstd.models.contract import Model

SPLIT = "val"


def of_maps(maps: Iterable[np.ndarray], fresh: Callable[[], ClipLoader], fa: float) -> dict[str, Any]:
    """The lowest threshold from which upwards Fa is never above `fa` on the split, under `strict` on the native grid.

    {"wanted", "threshold", "pd", "fa", "protocol", "grid"}; InputError where the split is too small to tell.
    """
    from irstd.metrics import lowest_threshold

    say(f"evaluate: the threshold for Fa {fa:g}")
    masks, ignores = truth(fresh)
    point = lowest_threshold(maps, masks, fa, ignores=ignores)
    about = {"protocol": "strict", "grid": None}
    return {"wanted": fa, "threshold": point.threshold, "pd": point.pd, "fa": point.fa} | about


def of_boxes(model: Model, loader: ClipLoader, rate: float, protocol: str) -> dict[str, Any]:
    """As `of_maps`, for `rate` false alarms a frame: {"wanted", "threshold", "recall", "false_alarms_per_frame",
    "protocol"}. `protocol`: one that counts false alarms, else `strict`."""
    from irstd.metrics import DETECTION, DetectionMetrics, lowest_box_threshold

    named = protocol if DETECTION[protocol].point == "threshold" else "strict"
    metrics = DetectionMetrics(named)
    for batch in loader:
        (key,), (found,) = batch["key"], model.predict(batch)
        metrics.update(found.boxes_N4, found.scores_N, batch["boxes"][0], key[0], ignore_K4=ignored(batch))
    return {"wanted": rate} | lowest_box_threshold(metrics, rate)._asdict() | {"protocol": named}


def wanted(config: Config) -> float | None:
    """The rate that the configuration asks for; None where it asks for none."""
    measured = config.evaluate
    return measured.wanted_fa if config.model.task == "segmentation" else measured.wanted_false_alarms


def choose(
    package: Package, shards: str | Path, manifests: list[Manifest], before: Path | None = None
) -> dict[str, Any]:
    """How the package's threshold is chosen for the rate that its configuration asks for.

    What `of_maps` or `of_boxes` gives with {"split", "digests"}; where val does not tell {"wanted", "threshold", "kept": why},
    the threshold then being the configuration's. Taken from the package in the folder `before` where it is of these weights.
    """
    config, rate = package.config, wanted(package.config)
    assert rate is not None
    digests = {m.set: m.digest for m in manifests}
    if before is not None and (known := _known(before, package, rate, digests)):
        say(f"threshold: {choice.phrase(known)}")
        return known
    try:
        if SPLIT in config.data.train_on.split("+"):
            raise InputError(f"the model was trained on {SPLIT}")
        if not sum(m.count(SPLIT, "labelled") for m in manifests):
            raise InputError(f"the chosen sets have no labelled key frame in the split {SPLIT!r}")
        found = _chosen(package, config, rate, shards, manifests)
    except InputError as error:
        kept = config.evaluate.threshold
        found = {"wanted": rate, "threshold": kept, "kept": str(error)}
        say(f"threshold: {choice.phrase(found)}")
        return found
    found |= {"split": SPLIT, "digests": digests}
    say(f"threshold: {choice.phrase(found)}")
    return found


def _known(folder: Path, package: Package, rate: float, digests: dict[str, str]) -> dict[str, Any] | None:
    """What was chosen before for the same weights, frames and rate; None where nothing was."""
    try:
        before = Package.read(folder).content
    except InputError:
        return None
    chosen = before.get("threshold_chosen") or {}
    same = before["lineage"]["weights_sha256"] == package.content["lineage"]["weights_sha256"]
    return chosen if same and (chosen.get("wanted"), chosen.get("digests")) == (rate, digests) else None


def _chosen(
    package: Package, config: Config, rate: float, shards: str | Path, manifests: list[Manifest]
) -> dict[str, Any]:
    from irstd.training.loop import loader_for

    def fresh() -> ClipLoader:
        dataset = package.content["intensity"]["dataset"]
        return loader_for(config, shards, SPLIT, manifests, batch_size=1, dataset=dataset)

    model = package.model()
    if config.model.task == "detection":
        say(f"evaluate: the threshold for {rate:g} false alarms a frame")
        return of_boxes(model, fresh(), rate, config.evaluate.protocol)
    return of_maps(Anew(lambda: (model.predict(batch)[0].probability_HW for batch in fresh())), fresh, rate)
