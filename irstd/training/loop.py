"""The training loop.

    fit(config, shards, report)                    # in this process, on one device
    fit(config, shards, report, resume=checkpoint) # goes on from a checkpoint as if nothing had happened

Inside an initialised `torch.distributed` group every rank calls `fit`; gradients are averaged by DDP. `report(metrics,
checkpoint)` is called on every rank after each validation, `checkpoint` being a folder on rank 0 and None elsewhere; what
becomes of it is the caller's business (a run folder, Ray Train, a test).
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from irstd.config import Config
from irstd.data.augmentation import dihedral, intensities
from irstd.data.loader import ClipLoader
from irstd.data.manifest import Manifest, read_all
from irstd.errors import InputError, WorkError
from irstd.models import build_model
from irstd.models.batch import Batch, to_device
from irstd.models.contract import Model, load_weights, memory_format, state
from irstd.training import checkpoint as checkpoints
from irstd.training.evaluation import REPORTED, gathered, measure, reported
from irstd.training.identity import identity
from irstd.training.optimizer import AveragedWeights, build_optimizer, learning_rate
from irstd.training.start import start_from

Report = Callable[[dict[str, Any], Path | None], None]
Log = Callable[[str], None]


class LossModule(nn.Module):
    """Lets DDP see the loss as a forward pass."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.model.loss(batch)


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
        crop=config.data.crop if split == "train" else None,
        seed=config.train.seed,
        sets=config.data.sets,
        intensity_rule=config.data.intensity,
        target_crop=config.data.target_crop,
        gradient=wanted,
        **more,
    )


def fit(
    config: Config,
    shards: str | Path,
    report: Report,
    resume: Path | None = None,
    device: str | torch.device = "cpu",
    log: Log = print,
) -> dict[str, Any]:
    """Train to the end and return the last report's metrics. See the module's docstring for `report`."""
    run = Run(config, shards, device, log)
    if resume is not None:
        run.restore(resume)
    return run.go(report)


class Run:
    """One rank of a run: model, optimizer, loaders, and where it stands."""

    def __init__(self, config: Config, shards: str | Path, device: str | torch.device, log: Log) -> None:
        self.config, self.log = config, log
        grouped = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if grouped else 0
        self.world = distributed.get_world_size() if grouped else 1
        train = config.train
        if train.batch % self.world:
            raise InputError(f"train.batch={train.batch} does not divide by {self.world} workers; change one of them")
        manifests = read_all(shards, config.data.sets)
        self.identity = identity(config, manifests)
        place = {"rank": self.rank, "world_size": self.world}
        self.loader = loader_for(config, shards, "train", manifests, batch_size=train.batch // self.world, **place)
        self.val = None
        if sum(m.count("val", "labelled") for m in manifests):
            self.val = loader_for(config, shards, "val", manifests, batch_size=1, **place)

        # Float32 parts are float32: TF32 would round counts to 11 bits.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.manual_seed(train.seed)
        self.device = torch.device(device)
        model = build_model(config)
        if train.init:
            started = start_from(model, train.init)
            log(f"{self.identity.name} {started}")
        self.model = model.to(self.device, memory_format=memory_format(model, train.channels_last))
        self.module: nn.Module = LossModule(self.model)
        if grouped:
            spares = self.model.spares
            self.module = nn.parallel.DistributedDataParallel(self.module, find_unused_parameters=spares)
        self.optimizer = build_optimizer(self.model, train)
        self.average = AveragedWeights(self.model, train.ema) if train.ema else None
        self.steps_per_epoch = len(self.loader)
        self.total = self.steps_per_epoch * train.epochs
        self.step, self.epoch, self.seconds = 0, 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.selected: float | None = None  # the objective's value of the best
        self.best_weights: dict[str, torch.Tensor] = {}
        # What differs between ranks starts here: the model above is the same on all.
        torch.manual_seed(train.seed * 1009 + self.rank + 1)

    # -- going on ------------------------------------------------------------------------------------------------

    def restore(self, folder: Path) -> None:
        """Take over a checkpoint's state. `InputError` where it belongs to another run."""
        kept = checkpoints.read_state(folder)
        if kept["identity"] != self.identity.hash:
            raise InputError(f"{folder}: belongs to run {kept['run']}, not to {self.identity.name}; start a new run")
        load_weights(self.model, checkpoints.weights(folder, "model"), folder / "model.safetensors")
        average = checkpoints.restore_optimizer(folder, self.optimizer)
        if self.average is not None:
            self.average.values = {k: v.to(self.device) for k, v in average.items()}
            self.average.updates = kept["average_updates"]
        self.loader.load_state_dict(kept["loader"])
        self.step, self.epoch, self.seconds = kept["step"], kept["epoch"], kept["seconds"]
        self.history, self.best, self.selected = (
            kept["history"],
            kept["best"],
            kept.get("selected", kept["best"].get("value")),
        )
        self.best_weights = checkpoints.weights(folder, "best")
        if len(kept["random"]) == self.world:
            torch.set_rng_state(torch.tensor(kept["random"][self.rank], dtype=torch.uint8))
        self.log(f"resumed {self.identity.name} at epoch {self.epoch} of {self.config.train.epochs}, step {self.step}")

    def _save(self, folder: Path, random: list[list[int]]) -> None:
        values = {
            "run": self.identity.name,
            "identity": self.identity.hash,
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "loader": self.loader.state_dict(),
            "random": random,
            "history": self.history,
            "best": self.best,
            "selected": self.selected,
            "average_updates": self.average.updates if self.average else 0,
        }
        average = self.average.values if self.average else None
        checkpoints.write(folder, state(self.model), self.optimizer, average, self.best_weights, values)

    # -- the loop ------------------------------------------------------------------------------------------------

    def go(self, report: Report) -> dict[str, Any]:
        """Epochs until the end or until the time is spent."""
        train = self.config.train
        started = time.monotonic() - self.seconds
        last: dict[str, Any] = self.history[-1] if self.history else {}
        while self.epoch < train.epochs and not self._spent():
            loss, parts = self._epoch()
            self.epoch += 1
            self.seconds = time.monotonic() - started
            due = self.epoch % train.val_every == 0 or self.epoch == train.epochs or self._spent()
            if due:
                last = self._validate(loss, parts)
                self.seconds = time.monotonic() - started
                self._report(report, last)
        return last

    def _epoch(self) -> tuple[float, dict[str, float]]:
        """One epoch of steps (the rest of one, after a resume); the mean training loss, and of this rank its parts."""
        self.loader.set_epoch(self.epoch)
        self.model.train()
        total, steps = torch.zeros((), device=self.device), 0
        sums: dict[str, torch.Tensor] = {}
        for batch in self.loader:
            batch = to_device(batch, self.device)
            batch = dihedral(batch, self.config.data.flips, self.config.data.quarter_turns)
            batch = intensities(batch, self.config.data.contrast, self.config.data.brightness)
            rate = learning_rate(self.config.train, self.step, self.total)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.model.progress = self.step / self.total
            loss, parts = self.module(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.config.train.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip)
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model)
            self.step += 1
            steps += 1
            total += loss.detach()
            sums = {name: sums.get(name, 0) + value for name, value in parts.items()}
        mean = float(total) / max(1, steps)
        if not math.isfinite(mean):
            raise WorkError(
                f"the training loss became {mean} in epoch {self.epoch + 1}; lower train.lr or set train.clip"
            )
        return mean, {name: float(value) / max(1, steps) for name, value in sums.items()}

    def _validate(self, loss: float, parts: dict[str, float]) -> dict[str, Any]:
        """Metrics of this epoch; keeps the weights where they are the best so far."""
        row: dict[str, Any] = {"epoch": self.epoch, "step": self.step, "loss": loss}
        row["lr"] = learning_rate(self.config.train, self.step, self.total)
        current = state(self.model)
        if self.average is not None:
            # The averaged weights are what is judged and kept.
            self.model.load_state_dict(self.average.values)
        self._same_everywhere()
        kept = state(self.model)
        value = None
        if self.val is not None:
            found = gathered(measure(self.model, self.val, self.config.evaluate))
            shown = found
            if self.config.model.task == "segmentation":
                shown = reported(found, self.val.pseudo_masks)
            row |= {f"val_{k}": shown[k] for k in REPORTED[self.config.model.task] if k in shown}
            # Agreement with pseudo-masks may choose a checkpoint; it is no result.
            value = found[self.config.objective]
        self.model.load_state_dict(current)
        better = value is not None and (self.selected is None or value > self.selected)
        if better or not self.best_weights or self.val is None:
            self.best_weights = kept
            chosen = "val-best" if self.val is not None else "last"
            self.best = {"epoch": self.epoch, "step": self.step, "chosen": chosen, **row}
            self.selected = value
        row |= {f"loss_{name}": value for name, value in parts.items()}
        row["seconds"] = round(self.seconds, 3)
        self.history.append(row)
        return row

    def _same_everywhere(self) -> None:
        """Give every rank rank 0's weights and running statistics, which are those that are saved.

        The ranks' batch statistics part after the last step of an epoch: without this each rank would measure its share of
        the validation on a model that nobody keeps.
        """
        if self.world > 1:
            for value in self.model.state_dict().values():
                distributed.broadcast(value, 0)

    def _report(self, report: Report, row: dict[str, Any]) -> None:
        random = [torch.get_rng_state().tolist()]
        if self.world > 1:
            random = [[]] * self.world
            distributed.all_gather_object(random, torch.get_rng_state().tolist())
        metrics = row | {f"best_{k}": v for k, v in self.best.items() if k.startswith("val_") or k == "epoch"}
        if self.rank:
            report(metrics, None)
            return
        self.log(self._line(row))
        with tempfile.TemporaryDirectory(prefix="irstd-checkpoint-") as folder:
            self._save(Path(folder) / "checkpoint", random)
            report(metrics, Path(folder) / "checkpoint")

    def _line(self, row: dict[str, Any]) -> str:
        """Progress of an epoch as people read it."""
        epochs = self.config.train.epochs
        parts = [f"epoch {self.epoch}/{epochs}", f"loss {row['loss']:.4f}"]
        if row.get("val_fa") is not None:
            pd = "-" if row["val_pd"] is None else f"{row['val_pd']:.3f}"
            iou = "-" if row["val_iou"] is None else f"{row['val_iou']:.3f}"
            parts += [f"val IoU {iou}", f"Pd {pd}", f"Fa {row['val_fa'] * 1e6:.1f}e-6"]
        if row.get("val_ap50") is not None:
            found = {k: row.get(f"val_{k}") for k in ("ap50", "precision", "recall")}
            parts.append("val " + "  ".join(f"{k} {'-' if v is None else f'{v:.3f}'}" for k, v in found.items()))
        left = self.seconds / self.epoch * (epochs - self.epoch)
        if self.config.train.minutes:
            left = min(left, max(0.0, self.config.train.minutes * 60 - self.seconds))
        return "  ".join([*parts, f"{self.seconds:.0f} s, about {left:.0f} s left"])

    def _spent(self) -> bool:
        """Whether the time budget is spent; rank 0's clock decides for all."""
        if not self.config.train.minutes:
            return False
        spent = [self.seconds >= self.config.train.minutes * 60]
        if self.world > 1:
            distributed.broadcast_object_list(spent)
        return spent[0]


def describe(config: Config, shards: str | Path) -> str:
    """One line on what a run will do, for a terminal."""
    manifests = read_all(shards, config.data.sets)
    found = identity(config, manifests)
    frames = sum(m.count("train", "labelled") for m in manifests)
    values = json.dumps(config.model.model_dump(exclude_defaults=True) or {"name": config.model.name})
    return (
        f"run {found.name}: {config.model.name} {values}, {frames} labelled key frames of "
        f"{', '.join(m.set for m in manifests)}, {config.train.epochs} epochs of batches of {config.train.batch}"
    )
