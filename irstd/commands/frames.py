"""Key frames of a loader whose batches hold one each, as evaluation goes through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from irstd.commands.baselines import Anew
from irstd.data.loader import ClipLoader


def frames_of(loader: ClipLoader) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Batches of one key frame, each with its counts [H, W] without padding."""
    for batch in loader:
        h, w = batch["size"][0]
        yield batch, batch["frames"][0, -1, :h, :w]


def mask_of(batch: dict[str, Any]) -> np.ndarray:
    """bool [H, W] of a batch's one key frame, without padding."""
    h, w = batch["size"][0]
    return batch["masks"][0, :h, :w] != 0


def ignored(batch: dict[str, Any]) -> np.ndarray | None:
    """Ignore regions of a batch's one key frame, where the set has any."""
    return batch["ignore"][0] if batch.get("ignore") is not None else None


def truth(fresh: Callable[[], ClipLoader]) -> tuple[Anew, Anew]:
    """Masks and ignore regions of every frame."""
    masks = Anew(lambda: (mask_of(batch) for batch in fresh()))
    return masks, Anew(lambda: (ignored(batch) for batch in fresh()))
