"""Lines for people: what a run will do, and how far it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from irstd.config import Config, TrainConfig
from irstd.data.manifest import read_all
from irstd.training.identity import Identity, identity


def describe(config: Config, shards: str | Path, known: Identity | None = None) -> str:
    """One line on what a run will do, for a terminal. `known`: see `fit`."""
    manifests = read_all(shards, config.data.sets)
    found = known or identity(config, manifests)
    frames = sum(m.count(config.data.train_on, "labelled") for m in manifests)
    values = json.dumps(config.model.model_dump(exclude_defaults=True) or {"name": config.model.name})
    return (
        f"run {found.name}: {config.model.name} {values}, {frames} labelled key frames of "
        f"{', '.join(m.set for m in manifests)}, {config.train.epochs} epochs of batches of {config.train.batch}"
    )


def line(train: TrainConfig, row: dict[str, Any], done: float) -> str:
    """Progress after `done` epochs, from the row of the last validation."""
    parts = [f"epoch {done:.4g}/{train.epochs}", f"loss {row['loss']:.4f}"]
    if row.get("val_fa") is not None:
        pd = "-" if row["val_pd"] is None else f"{row['val_pd']:.3f}"
        iou = "-" if row["val_iou"] is None else f"{row['val_iou']:.3f}"
        parts += [f"val IoU {iou}", f"Pd {pd}", f"Fa {row['val_fa'] * 1e6:.1f}e-6"]
    if row.get("val_ap50") is not None:
        found = {k: row.get(f"val_{k}") for k in ("ap50", "precision", "recall")}
        parts.append("val " + "  ".join(f"{k} {'-' if v is None else f'{v:.3f}'}" for k, v in found.items()))
    if row.get("skipped_frames"):
        parts.append(f"{row['skipped_frames']} damaged key frames passed over")
    left = row["seconds"] / done * (train.epochs - done)
    if train.hours:
        left = min(left, max(0.0, train.hours * 3600 - row["seconds"]))
    return "  ".join([*parts, f"{row['seconds']:.0f} s, about {left:.0f} s left"])
