"""One small training run as a row of JSON, and tables of such rows over seeds.

Every row is written as soon as its run is done, and a run whose row is there is not done again: a benchmark of many runs
can be killed and started again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cv2
import numpy as np
import torch

from irstd import config as configuration
from irstd.data.loader import ClipLoader
from irstd.metrics import SegmentationMetrics
from irstd.training.loop import Run

RING = 3  # px: the frame's border, and how far from a target a predicted pixel is false
SETTINGS: dict[str, Any] = {
    "model.in_channels": 1,
    "model.width": 8,
    "train.batch": 4,
    "train.lr": 2e-3,
    "train.warmup": 20,
    "train.ema": 0.98,
    "train.loss.bce": 1.0,
}
Loaders = Callable[[configuration.Config, Path, str], ClipLoader]


def loader(
    config: configuration.Config, folder: Path, split: str, gradient: bool = True, kind: type[ClipLoader] = ClipLoader
) -> ClipLoader:
    """The product's loader, or one of its `kind`; a stored map is handed on whatever border it was stored with."""
    train = split == "train"
    return kind(
        folder,
        split,
        frames=1,
        batch_size=config.train.batch if train else 1,
        crop=config.data.crop if train else None,
        seed=config.train.seed,
        target_crop=config.data.target_crop,
        gradient=gradient,
    )


@dataclass(frozen=True)
class Trial:
    """`study` and `arm` name the row; `settings` are dotted paths; `loaders` makes other loaders than the product's."""

    study: str
    arm: str
    shards: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    loaders: Loaders | None = None


def run_all(
    trials: Iterable[Trial],
    seeds: Iterable[int],
    steps: int,
    out: Path,
    training: Callable[[Trial, int, int], dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Every trial with every seed, seed by seed; rows that `out` holds are taken from there. Returns the rows.

    training: what makes a row of a trial, a seed and the steps; None: `train`.
    """
    training = training or train
    rows = read_rows(out)
    trials = list(trials)
    for seed in seeds:
        for trial in trials:
            key = {"study": trial.study, "arm": trial.arm, "seed": seed, "steps": steps}
            if not any(key.items() <= row.items() for row in rows):
                row = key | training(trial, seed, steps)
                append_row(out, row)
                rows.append(row)
                print(json.dumps({k: v for k, v in row.items() if k not in ("groups", "stages")}), flush=True)
    return [row for row in rows if row["steps"] == steps]


def train(trial: Trial, seed: int, steps: int) -> dict[str, Any]:
    """Train for about `steps` steps (whole epochs) and measure the last averaged weights on val, native grid."""
    start, worked = time.monotonic(), time.process_time()
    options = SETTINGS | dict(trial.settings) | {"train.seed": seed, "train.epochs": 1}
    first = Run(configuration.load(overrides=options), trial.shards, "cpu", log=_quiet)
    epochs = max(1, round(steps / first.steps_per_epoch))
    config = configuration.load(overrides=options | {"train.epochs": epochs, "train.val_every": epochs})
    run = Run(config, trial.shards, "cpu", log=_quiet)
    val = run.val
    if trial.loaders:
        run.loader, val = (trial.loaders(config, trial.shards, split) for split in ("train", "val"))
    run.val = None  # the checkpoint that is measured is the last one: nothing is chosen on val
    loss = run.go(lambda metrics, checkpoint: None)["loss"]
    assert run.average is not None and val is not None
    run.model.load_state_dict(run.average.values)
    found = measure(run, val)
    minutes = {
        "minutes": round((time.monotonic() - start) / 60, 2),
        "cpu_minutes": round((time.process_time() - worked) / 60, 2),
    }
    return found | minutes | {"loss": round(loss, 4), "done_steps": run.step}


def measure(run: Run, val: ClipLoader) -> dict[str, Any]:
    """IoU, nIoU, Pd, Fa (protocol strict) over val and for each recording, and false pixels at the frame's border.

    `false_border`, `false_inside`: the share of the pixels within 3 px of the frame's border, and of all others, that are
    predicted and lie farther than 3 px from any pixel of a target.
    """
    run.model.eval()
    metrics = SegmentationMetrics("strict", run.config.evaluate.threshold)
    false, pixels = np.zeros(2, np.int64), np.zeros(2, np.int64)
    with torch.no_grad():
        for batch in val:
            for b, found in enumerate(run.model.predict(batch)):
                h, w = batch["size"][b]
                mask_HW = batch["masks"][b, :h, :w]
                metrics.update(found.probability_HW, mask_HW, group=batch["key"][b][0])
                false += false_pixels(found.probability_HW > run.model.threshold, mask_HW)
                inside = max(0, h - 2 * RING) * max(0, w - 2 * RING)
                pixels += h * w - inside, inside
    total = metrics.compute()
    names = ("iou", "niou", "pd", "fa", "targets", "hits", "images")
    row = {name: total[name] for name in names}
    row |= {"false_border": float(false[0] / pixels[0]), "false_inside": float(false[1] / pixels[1])}
    if len(metrics.groups) <= 8:
        row["groups"] = {g: {n: metrics.compute([g])[n] for n in names} for g in metrics.groups}
    return row


def false_pixels(predicted_HW: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """int64 [2]: predicted pixels farther than 3 px from any target, within 3 px of the frame's border and elsewhere."""
    height, width = mask_HW.shape
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RING + 1, 2 * RING + 1))
    false_HW = predicted_HW & ~cv2.dilate(mask_HW.astype(np.uint8), near).astype(bool)
    inside = false_HW[RING : height - RING, RING : width - RING].sum()
    return np.array([false_HW.sum() - inside, inside], np.int64)


def table(rows: Iterable[Mapping[str, Any]], names: Mapping[str, str], scale: Mapping[str, float]) -> str:
    """Markdown: one line a study and arm, mean and deviation over the seeds of each of `names`
    ({value: title}), times its `scale`."""
    rows = list(rows)
    lines = ["| data | arm | seeds | " + " | ".join(names.values()) + " |", "| --- " * (3 + len(names)) + "|"]
    for study, arm in dict.fromkeys((row["study"], row["arm"]) for row in rows):
        these = [row for row in rows if (row["study"], row["arm"]) == (study, arm)]
        cells = [study, arm, str(len(these))]
        for name in names:
            values = [_at(row, name) for row in these]
            known = [v * scale.get(name, 1) for v in values if v is not None]
            spread = f" ± {stdev(known):.3g}" if len(known) > 1 else ""
            cells.append(f"{mean(known):.3g}{spread}" if known else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _at(row: Mapping[str, Any], name: str) -> float | None:
    """A value of a row; `GROUP:NAME` for one of a recording."""
    group, _, key = name.rpartition(":")
    return row["groups"][group][key] if group else row[key]


def read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, sort_keys=True) + "\n")


def _quiet(line: str) -> None:
    """The loop's own progress: a benchmark prints one line a run."""
