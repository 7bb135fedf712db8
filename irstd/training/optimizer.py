"""Optimizers, learning-rate schedules by step, and averaged weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from irstd.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over all parameters, those that are no module's weight or bias included.

    Under `train.decayed=kernels` two groups: kernels and matrices, which decay, and all else, which does not.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Fused: one pass over the memory of weights, gradients and moments, where the default takes one for each operation.
    common = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    groups: list[dict[str, object]] = [{"params": parameters}]
    if config.decayed == "kernels":
        groups = [
            {"params": [p for p in parameters if p.dim() > 1]},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, **common)
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0, **common)


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """The rate of step `step` (0-based) of `total`: a warm-up, then

    constant   `lr`
    cosine     half a cosine down to `floor` of `lr`, by default 0.01
    yolox      half a cosine down to `floor` of `lr`, by default 0.05, there for the last twentieth; the warm-up is
               quadratic (Ge et al. 2021)
    step       `lr`, times `gamma` after each of `milestones`, which are shares of `total`

    The warm-up takes `warmup` steps or `warmup_epochs` epochs and rises from `warmup_from` of `lr`, where that is given in
    its first step. Under `rate_by=epoch` all steps of an epoch have the rate of its first one.
    """
    epoch = total / config.epochs
    if config.rate_by == "epoch":
        # The last report asks for the step after the last one.
        step = round(min(step // max(1, round(epoch)), config.epochs - 1) * epoch)
    warmup = config.warmup if config.warmup_epochs is None else round(config.warmup_epochs * epoch)
    if step < warmup:
        if config.warmup_from is None:
            start, part = 0.0, (step + 1) / (warmup + 1)
        else:
            start, part = config.warmup_from, step / warmup
        return config.lr * (start + (1 - start) * (part**2 if config.schedule == "yolox" else part))
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(step >= share * total for share in config.milestones)
    least, end = (0.05, total - total // 20) if config.schedule == "yolox" else (0.01, total)
    if config.floor is not None:
        least = config.floor
    progress = min(1.0, (step - warmup) / max(1, end - warmup))
    return config.lr * (least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress)))


class AveragedWeights:
    """Exponential moving average of a model's weights and buffers: w <- d w + (1 - d) model.

    After n updates d is the smaller of `decay` and n / (n + 10); with `ramp` it is decay (1 - exp(-n / ramp)), as YOLOX has it.
    """

    def __init__(self, model: nn.Module, decay: float, ramp: float | None = None) -> None:
        self.decay, self.ramp, self.updates = decay, ramp, 0
        self.values = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def _decay(self) -> float:
        if self.ramp is None:
            return min(self.decay, self.updates / (self.updates + 10))
        return self.decay * -math.expm1(-self.updates / self.ramp)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = self._decay()
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)
