"""The loaders of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from irstd.config import Config
from irstd.data.loader import TRAINING, ClipLoader
from irstd.data.manifest import Manifest


def val_chooses(config: Config, manifests: list[Manifest]) -> bool:
    """Whether val can choose a checkpoint: it is not learnt from, and has a target. Without one IoU, Pd and AP say nothing."""
    return config.data.train_on == "train" and any(m.count("val", "targets") for m in manifests)


def loader_for(config: Config, shards: str | Path, split: str, manifests: list[Manifest], **more: Any) -> ClipLoader:
    """The loader of `split` as `config` wants it."""
    spec = {"operator": config.model.stored_gradient, "padding": "replicate"}
    stored = all(m.gradient and {k: m.gradient[k] for k in spec} == spec for m in manifests)
    # A stored map is of the frame as it is; that of a resized frame is computed from it.
    wanted = bool(config.model.stored_gradient) and config.data.resize == "native" and stored
    return ClipLoader(
        shards,
        split,
        frames=config.model.frames,
        crop=config.data.crop if split in TRAINING else None,
        seed=config.train.seed,
        sets=config.data.sets,
        intensity_rule=config.data.intensity,
        target_crop=config.data.target_crop,
        gradient=wanted,
        **more,
    )
