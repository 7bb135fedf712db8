"""Measure a model on a split, under a named protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from irstd.config import EvaluateConfig
from irstd.data.loader import ClipLoader
from irstd.metrics import SegmentationMetrics
from irstd.models.contract import SegmentationModel


def measure(
    model: SegmentationModel,
    loader: ClipLoader,
    config: EvaluateConfig,
    tick: Callable[[int], None] | None = None,
) -> SegmentationMetrics:
    """Metrics of this rank's part of `loader` (add the parts of all ranks up with `merge`).

    The model is put into evaluation mode and back. `tick` is told after each batch how many key frames it held.
    """
    metrics = SegmentationMetrics(config.protocol, config.threshold, config.grid)
    training = model.training
    model.eval()
    try:
        for batch in loader:
            for b, found in enumerate(model.predict(batch)):
                h, w = batch["size"][b]
                metrics.update(found.probability_HW, batch["masks"][b, :h, :w], group=batch["key"][b][0])
            if tick:
                tick(len(batch["key"]))
    finally:
        model.train(training)
    return metrics


def gathered(metrics: SegmentationMetrics) -> dict[str, Any]:
    """The metrics of all ranks as one. Every rank must call this."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts: list[dict[str, Any]] = [{}] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, metrics.state())
        total = SegmentationMetrics.from_state(parts[0])
        for part in parts[1:]:
            total.merge(SegmentationMetrics.from_state(part))
        return total.compute()
    return metrics.compute()


def reported(found: dict[str, Any], pseudo_masks: str | None) -> dict[str, Any]:
    """Computed metrics as they may be shown: where masks are pseudo-masks, IoU and nIoU are None and `withheld` says why.

    Whether a target was found, and how many false alarms there are, a pseudo-mask can tell; its shape is a guess.
    """
    if pseudo_masks is None:
        return found
    withheld = {name: None for name in found if name.startswith(("iou", "niou"))}
    return found | withheld | {"withheld": f"no IoU: the masks are pseudo-masks ({pseudo_masks})"}
