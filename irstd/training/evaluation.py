"""Measure a model on a split, under a named protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from irstd.config import METRICS, EvaluateConfig
from irstd.data.loader import ClipLoader
from irstd.metrics import DetectionMetrics, SegmentationMetrics
from irstd.metrics.at_fa import MetricsAtFa
from irstd.metrics.report import reported
from irstd.models.contract import Model

__all__ = ["REPORTED", "Metrics", "gathered", "measure", "reported"]

Metrics = SegmentationMetrics | DetectionMetrics
REPORTED = METRICS | {"segmentation": (*METRICS["segmentation"], "pd_at_fa")}
"""The numbers of each kind of network that a run's history and its registered version carry, where the protocol has them."""


def measure(
    model: Model,
    loader: ClipLoader,
    config: EvaluateConfig,
    tick: Callable[[int], None] | None = None,
) -> Metrics:
    """Metrics of this rank's part of `loader` (add the parts of all ranks up with `merge`).

    The model is put into evaluation mode and back. `tick` is told after each batch how many key frames it held.
    """
    metrics: Metrics
    if config.objective == "pd_at_fa" and config.wanted_fa is not None:
        metrics = MetricsAtFa(config.protocol, config.threshold, config.grid, fa=config.wanted_fa)
    elif model.task == "segmentation":
        metrics = SegmentationMetrics(config.protocol, config.threshold, config.grid)
    else:
        metrics = DetectionMetrics(config.protocol, config.threshold)
    training = model.training
    model.eval()
    try:
        for batch in loader:
            ignore = batch.get("ignore") or [None] * len(batch["key"])
            for b, found in enumerate(model.predict(batch)):
                group = batch["key"][b][0]
                if isinstance(metrics, DetectionMetrics):
                    metrics.update(found.boxes_N4, found.scores_N, batch["boxes"][b], group, ignore_K4=ignore[b])
                    continue
                h, w = batch["size"][b]
                metrics.update(found.probability_HW, batch["masks"][b, :h, :w], group, ignore_K4=ignore[b])
            if tick:
                tick(len(batch["key"]))
    finally:
        model.train(training)
    return metrics


def gathered(metrics: Metrics) -> dict[str, Any]:
    """The metrics of all ranks as one. Every rank must call this."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts: list[dict[str, Any]] = [{}] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, metrics.state())
        total = type(metrics).from_state(parts[0])
        for part in parts[1:]:
            total.merge(type(metrics).from_state(part))
        return total.compute()
    return metrics.compute()
