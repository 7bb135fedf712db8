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
    """The rate of step `step` (0-based) of `total`: a warm-up of `warmup` steps, then

    constant   `lr`
    cosine     half a cosine down to 0.01 of `lr`
    yolox      half a cosine down to 0.05 of `lr`, there for the last twentieth; the warm-up is quadratic (Ge et al. 2021)
    step       `lr`, times `gamma` after each of `milestones`, which are shares of `total`
    """
    if step < config.warmup:
        part = (step + 1) / (config.warmup + 1)
        return config.lr * (part**2 if config.schedule == "yolox" else part)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(step >= share * total for share in config.milestones)
    least, end = (0.05, total - total // 20) if config.schedule == "yolox" else (0.01, total)
    progress = min(1.0, (step - config.warmup) / max(1, end - config.warmup))
    return config.lr * (least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress)))


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
