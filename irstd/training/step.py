"""One step of training: a batch of counts goes in, the weights change."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import distributed, nn

from irstd.config import Config
from irstd.data.augmentation import dihedral, intensities
from irstd.errors import InputError, WorkError
from irstd.models.batch import Batch, divided, to_device
from irstd.models.contract import Model
from irstd.training.distortion import noisy, zoomed
from irstd.training.optimizer import AveragedWeights, build_optimizer, learning_rate

CHECKED = 50
"""Steps between looks at the losses on a GPU, where a look waits for all that is queued."""


class NotFinite(WorkError):
    """A loss that is no number; `where` says in which step, and on which key frames."""

    where: dict[str, Any]

    @classmethod
    def at(cls, what: str, step: int, key: list[tuple[str, int]]) -> NotFinite:
        keys = ", ".join(f"{name}:{frame}" for name, frame in key)
        error = cls(f"{what} in step {step + 1}, on {keys}; lower train.lr or set train.clip")
        error.where = {"what": what, "step": step + 1, "keys": [[name, int(frame)] for name, frame in key]}
        return error


class LossModule(nn.Module):
    """Lets DDP see the loss as a forward pass, in the precision of the run."""

    def __init__(self, model: Model, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.model.loss(batch)


class Stepper:
    """What a step needs and changes: the model, its optimizer, and the averaged weights where the run has them.

    `total`: steps of the whole run, which schedules go by.
    """

    def __init__(self, model: Model, config: Config, total: int) -> None:
        self.model, self.config, self.total = model, config, total
        train = config.train
        if train.precision == "bf16" and model.device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise InputError("train.precision=bf16: this GPU has no bfloat16; use train.precision=float32")
        if train.compile:
            for part in model.compiled_parts():
                part.compile()
        module = LossModule(model, train.precision)
        self.grouped = distributed.is_available() and distributed.is_initialized()
        if train.sync_batch_norm and self.grouped:
            if model.device.type == "cpu":
                raise InputError(
                    "train.sync_batch_norm=true: PyTorch shares batch statistics between GPUs alone; leave it out, or train in "
                    "one process (--workers 1)"
                )
            # In place, and before DDP looks at what there is. The names of weights and buffers stay.
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        self.loss_module = module
        self.module: nn.Module = module
        if self.grouped:
            self.module = nn.parallel.DistributedDataParallel(module, find_unused_parameters=model.spares)
        self.optimizer = build_optimizer(model, train)
        self.average = AveragedWeights(model, train.ema, train.ema_ramp) if train.ema else None
        self.key: list[tuple[str, int]] = []  # of the last batch
        self._losses: list[tuple[torch.Tensor, int, list[tuple[str, int]]]] = []
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0

    def __call__(self, batch: Batch, step: int) -> None:
        """Learn from `batch` as step `step` (0-based)."""
        train, data = self.config.train, self.config.data
        self.key = batch["key"]
        found = to_device(batch, self.model.device)
        found = dihedral(found, data.flips, data.quarter_turns)
        found = intensities(found, data.contrast, data.brightness)
        operator = self.config.model.stored_gradient or "central"
        found = zoomed(found, data.zoom, data.shift, operator)
        found = noisy(found, data.noise, operator)
        rate = learning_rate(train, step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.progress = step / self.total
        self.optimizer.zero_grad(set_to_none=True)
        pieces = divided(found, train.accumulate)
        for number, piece in enumerate(pieces, 1):
            # The ranks' gradients are averaged once, with the last piece.
            alone = self.grouped and number < len(pieces)
            with self.module.no_sync() if alone else contextlib.nullcontext():
                loss, parts = self.module(piece)
                (loss / len(pieces)).backward()
            for name, value in [("loss", loss.detach()), *parts.items()]:
                self._sums[name] = self._sums.get(name, 0) + value / len(pieces)
            self._losses.append((loss.detach(), step, piece["key"]))
        if train.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), train.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        self._steps += 1
        if self.model.device.type == "cpu" or len(self._losses) >= CHECKED:
            self._check()

    def means(self) -> dict[str, float]:
        """The mean "loss" and, of this rank, its parts over the steps since they were asked for last."""
        self._check()
        found = {name: float(value) / max(1, self._steps) for name, value in self._sums.items()}
        self._sums, self._steps = {}, 0
        return found

    def _check(self) -> None:
        """NotFinite where a loss was no number: the run stops, and its last checkpoint is from before."""
        losses, self._losses = self._losses, []
        values = torch.stack([loss for loss, _, _ in losses]).tolist() if losses else []
        for value, (_, step, key) in zip(values, losses, strict=True):
            if not math.isfinite(value):
                raise NotFinite.at(f"the training loss became {value}", step, key)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the network learns by the statistics of batches."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())
