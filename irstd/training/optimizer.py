"""Optimizers, learning-rate schedules by step, and averaged weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from irstd.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over all parameters, those that are no module's weight or bias included."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Fused: one pass over the memory of weights, gradients and moments, where the default takes one for each operation.
    common = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **common)
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, **common)
    return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **common)


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """The rate of step `step` (0-based) of `total`: linear warm-up, then constant or a cosine down to 0.01 of `lr`."""
    if step < config.warmup:
        return config.lr * (step + 1) / (config.warmup + 1)
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - config.warmup) / max(1, total - config.warmup))
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class AveragedWeights:
    """Exponential moving average of a model's weights and buffers: w <- d w + (1 - d) model, d rising to `decay`."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)
