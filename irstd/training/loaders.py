"""The loaders of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from irstd.config import Config
from irstd.data.loader import TRAINING, ClipLoader
from irstd.data.manifest import Manifest


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
