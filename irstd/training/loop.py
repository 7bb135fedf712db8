"""The training loop.

    fit(config, shards, report)                    # in this process, on one device
    fit(config, shards, report, resume=checkpoint) # goes on from a checkpoint as if nothing had happened

Inside an initialised `torch.distributed` group every rank calls `fit`; gradients are averaged by DDP. `report(metrics,
checkpoint)` is called on every rank after each validation, `checkpoint` being a folder on rank 0 and None elsewhere; what
becomes of it is the caller's business (a run folder, Ray Train, a test). Most reports come without one, None everywhere: a
checkpoint is written as often as costs at most 1 % of the steps' time (or as `train.checkpoint_every` says), with the first
report and with the last.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from irstd.config import Config
from irstd.data.manifest import read_all
from irstd.errors import InputError
from irstd.models import build_model
from irstd.models.contract import load_weights, memory_format, state
from irstd.training import checkpoint as checkpoints
from irstd.training import faults, progress, randomness
from irstd.training.evaluation import REPORTED, gathered, reported
from irstd.training.group import Group
from irstd.training.heap import keep_freed_memory
from irstd.training.identity import Identity, identity
from irstd.training.kept import Beside
from irstd.training.loaders import loader_for, val_chooses
from irstd.training.optimizer import AveragedWeights, learning_rate
from irstd.training.pace import Pace
from irstd.training.place import here
from irstd.training.record import check_whole
from irstd.training.start import start_from
from irstd.training.step import NotFinite, Stepper, has_batch_norm

FEW = 8
"""Key frames below which the statistics of a batch say little."""
Report = Callable[[dict[str, Any], Path | None], None]
Log = Callable[[str], None]


def fit(
    config: Config,
    shards: str | Path,
    report: Report,
    resume: Path | None = None,
    device: str | torch.device = "cpu",
    log: Log = print,
    known: Identity | None = None,
    stepped: Callable[[int], None] | None = None,
    scratch: Path | None = None,
    beside: str | Path | None = None,
) -> dict[str, Any]:
    """Train to the end and return the last report's metrics. See the module's docstring for `report`.

    Args:
        known: what the run goes under where the code has changed since it began; default: the identity as it is computed now.
        stepped: told, on every rank, the number of steps done after each of them.
        scratch: folder in which checkpoints are written before they are reported; default: the system's for temporary files.
        beside: the run's folder, or a URL, for what is no checkpoint (`irstd.training.kept`); None: nothing of it is written.
    """
    run = Run(config, shards, device, log, known, scratch, beside)
    if stepped is not None:
        run.stepped = stepped
    if resume is not None:
        run.restore(resume)
    return run.go(report)


class Run:
    """One rank of a run: model, optimizer, loaders, and where it stands."""

    def __init__(
        self,
        config: Config,
        shards: str | Path,
        device: str | torch.device,
        log: Log,
        known: Identity | None = None,
        scratch: Path | None = None,
        beside: str | Path | None = None,
    ) -> None:
        self.config, self.log, self.scratch = config, log, scratch
        self.beside = Beside(beside) if beside is not None else None
        self.group = Group()
        self.rank, self.world = self.group.rank, self.group.world
        train = config.train
        shares = self.world * train.accumulate
        if train.batch % shares:
            raise InputError(
                f"train.batch={train.batch} does not divide by {self.world} workers"
                + (f" x train.accumulate={train.accumulate}" if train.accumulate > 1 else "")
                + "; change one of them"
            )
        manifests = read_all(shards, config.data.sets)
        self.identity = known or identity(config, manifests)
        if train.quick:
            log(
                f"{self.identity.name}: a QUICK TEST of a recipe: it shows that the recipe runs; its numbers say nothing"
            )
        place = {"rank": self.rank, "world_size": self.world}
        split = config.data.train_on
        place["skip_damaged"] = config.data.skip_damaged
        self.loader = loader_for(config, shards, split, manifests, batch_size=train.batch // self.world, **place)
        self.val = None
        if split == "train" and sum(m.count("val", "labelled") for m in manifests):
            self.val = loader_for(config, shards, "val", manifests, batch_size=1, **place)
        self.chooses = val_chooses(config, manifests)
        if self.val is not None and not self.chooses:
            log(f"warning: {self.identity.name}: val has no target, so it can choose no checkpoint; the last is kept")

        # Float32 parts are float32: TF32 would round counts to 11 bits.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.manual_seed(train.seed)
        self.device = torch.device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        model = build_model(config)
        if train.init:
            started = start_from(model, train.init)
            log(f"{self.identity.name} {started}")
        self.model = model.to(self.device, memory_format=memory_format(model, train.channels_last))
        # Rounded down; the tiny part mends .2 * 2245, which is a little less than 449.
        self.steps_per_epoch = max(1, int(len(self.loader) * train.epoch_share + 1e-9))
        self.total = self.steps_per_epoch * train.epochs
        seen = train.batch // shares
        if shares > 1 and seen < FEW and not train.sync_batch_norm and has_batch_norm(self.model):
            over = f"{self.world} workers" + (f" x train.accumulate={train.accumulate}" if train.accumulate > 1 else "")
            log(
                f"warning: batch normalisation sees {seen} key frames at a time (train.batch={train.batch} over {over}), fewer "
                f"than {FEW}: its statistics are rough; raise train.batch, or set train.sync_batch_norm=true on GPUs"
            )
        self.stepper = Stepper(self.model, config, self.total)
        self.step, self.epoch, self.seconds, self.over = 0, 0, 0.0, False
        self.pace = Pace(train.checkpoint_every)
        self._clock: Callable[[], float] = lambda: self.seconds
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.selected: float | None = None  # the objective's value of the best
        self.best_weights: dict[str, torch.Tensor] = {}
        self.current: dict[str, torch.Tensor] = {}  # weights as of the last validation, on the CPU
        self.stepped: Callable[[int], None] = lambda step: None
        self.told: set[str] = set()  # damaged chunks that were said
        self.places: list[dict[str, Any]] = []  # where it ran, oldest first
        # What differs between ranks starts here: the model above is the same on all.
        randomness.seed(train.seed, self.rank)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.stepper.optimizer

    @property
    def average(self) -> AveragedWeights | None:
        return self.stepper.average

    # -- going on ------------------------------------------------------------------------------------------------

    def restore(self, folder: Path) -> None:
        """Take over a checkpoint's state. `InputError` where it is damaged or belongs to another run."""
        if wrong := checkpoints.damage(folder):
            raise InputError(f"{folder}: the checkpoint is damaged ({wrong}); use the one before it")
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
        check_whole(self.identity.name, self.config, kept["history"], [folder.parent])
        self.history, self.best, self.selected = (
            kept["history"],
            kept["best"],
            kept.get("selected", kept["best"].get("value")),
        )
        self.best_weights = checkpoints.weights(folder, "best")
        self.places = kept.get("places", [])
        if len(kept["random"]) == self.world:
            randomness.restore(kept["random"][self.rank])
        else:
            # No rank of the old run is one of this: each draws on from a place of its own.
            randomness.seed(self.config.train.seed, self.rank, self.step)
        self.log(f"resumed {self.identity.name} at epoch {self.epoch} of {self.config.train.epochs}, step {self.step}")

    def _save(self, folder: Path, random: list[dict[str, Any]]) -> None:
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
            "places": self.places,
            "average_updates": self.average.updates if self.average else 0,
        }
        average = self.average.values if self.average else None
        checkpoints.write(folder, self.current, self.optimizer, average, self.best_weights, values)

    # -- the loop ------------------------------------------------------------------------------------------------

    def go(self, report: Report) -> dict[str, Any]:
        """Epochs until the end, or until the time or the patience is spent; the last report's metrics."""
        started = time.monotonic() - self.seconds
        self._clock = lambda: time.monotonic() - started
        place = here(self.device, self.world)
        if self.places[-1:] != [place]:
            self.places.append(place)
        self.over = self.epoch >= self.config.train.epochs or self._stale() or (self.step > 0 and self._spent())
        while not self.over:
            self._epoch(report)
        return self.history[-1] if self.history else {}

    def _epoch(self, report: Report | None = None) -> None:
        """The steps of an epoch, or the rest of one after a resume, with the validations that are due."""
        train = self.config.train
        self.loader.set_epoch(self.epoch)
        self.model.train()
        self.pace.stepping()
        for batch in faults.batches(self):
            faults.learn(self, batch)
            self.step += 1
            self.stepped(self.step)
            # What is due with the last step waits until the loader stands at the next epoch.
            within = self.step % self.steps_per_epoch
            if not within and train.epoch_share < 1:
                break
            if report and within and train.val_steps and self.step % train.val_steps == 0:
                self._measure(report, last=self._spent())
                if self.over:
                    return
        self.epoch += 1
        self.loader.set_epoch(self.epoch)
        if report:
            due = self.step % train.val_steps == 0 if train.val_steps else self.epoch % train.val_every == 0
            # Asked once: a clock that is asked again between the validation and the end gives another answer.
            last = self._spent() or self.epoch >= train.epochs
            if due or last:
                self._measure(report, last)

    def _stale(self) -> bool:
        """Whether so many validations as the patience allows brought nothing better."""
        patience = self.config.train.patience
        if not patience or self.selected is None:
            return False
        return sum(row["step"] > self.best["step"] for row in self.history) >= patience

    def _measure(self, report: Report, last: bool) -> None:
        """Validate and report; with a checkpoint where one is due, and always with the run's last report."""
        try:
            losses = self.stepper.means()
        except NotFinite as error:
            raise faults.noted(self, error) from error
        self.pace.stopped()
        row = self._validate(losses)
        self.over = last or self._stale()
        self.seconds = self._clock()
        row["seconds"] = round(self.seconds, 3)
        row["time"] = round(time.time(), 3)
        self._report(report, row, self.group.told(self.over or self.pace.due(len(self.history))))
        self.model.train()
        self.pace.stepping()

    def _validate(self, losses: dict[str, float]) -> dict[str, Any]:
        """Metrics of the model as it is now; keeps the weights where they are the best so far."""
        row: dict[str, Any] = {"epoch": self.epoch, "step": self.step, "loss": losses.pop("loss")}
        row["lr"] = learning_rate(self.config.train, self.step, self.total)
        # One copy on the CPU serves what follows: the way back, the checkpoint, and the best weights where none are averaged.
        current = judged = self.current = state(self.model)
        faults.finite(self, current)
        if self.average is not None:
            # The averaged weights are what is judged and kept.
            self.model.load_state_dict(self.average.values)
        self._same_everywhere()
        if self.average is not None:
            judged = state(self.model)
        value = None
        if self.val is not None:
            found = gathered(faults.measured(self))
            shown = found
            if self.config.model.task == "segmentation":
                shown = reported(found, self.val.pseudo_masks)
            row |= {f"val_{k}": shown[k] for k in REPORTED[self.config.model.task] if k in shown}
            # Agreement with pseudo-masks may choose a checkpoint; it is no result.
            value = found[self.config.objective] if self.chooses else None
        self.model.load_state_dict(current)
        better = value is not None and (self.selected is None or value > self.selected)
        if better or self.selected is None:
            # What nothing has chosen yet is the last.
            self.best_weights = judged
            chosen = "last" if value is None else "val-best"
            self.best = {"epoch": self.epoch, "step": self.step, "chosen": chosen, **row}
            self.selected = value
        # A part of somebody's loss may be no number though their sum is one; JSON knows no such thing.
        row |= {f"loss_{name}": value if math.isfinite(value) else None for name, value in losses.items()}
        if self.config.data.skip_damaged:
            row["skipped_frames"] = faults.skipped(self)
        self.history.append(row)
        self._keep(judged, row)
        return row

    def _keep(self, weights: dict[str, torch.Tensor], row: dict[str, Any]) -> None:
        """Keep the judged weights with the first validation at or after every N-th epoch."""
        train = self.config.train
        if not train.keep_every or self.beside is None or self.step % self.steps_per_epoch:
            return
        before = [r["epoch"] for r in self.history[:-1] if r["step"] % self.steps_per_epoch == 0]
        if self.epoch // train.keep_every > (before[-1] if before else 0) // train.keep_every:
            about = {"run": self.identity.name} | {
                k: v for k, v in row.items() if k in ("epoch", "step") or k[:4] == "val_"
            }
            beside = self.beside
            self.group.first(lambda: beside.keep(weights, about, train.keep))

    def _same_everywhere(self) -> None:
        """Give every rank rank 0's weights and running statistics, which are those that are saved.

        The ranks' batch statistics part after the last step of an epoch: without this each rank would measure its share of
        the validation on a model that nobody keeps.
        """
        if self.world > 1:
            for value in self.model.state_dict().values():
                distributed.broadcast(value, 0)

    def _report(self, report: Report, row: dict[str, Any], checkpoint: bool) -> None:
        metrics = row | {f"best_{k}": v for k, v in self.best.items() if k.startswith("val_") or k == "epoch"}
        if self.rank == 0:
            self.log(progress.line(self.config.train, row, self.step / self.steps_per_epoch))
        if not checkpoint:
            report(metrics, None)
            return
        with self.pace.writing(), self._written() as folder:
            try:
                report(metrics, folder)
            except OSError as error:
                # The checkpoint is there, and does not get to its place.
                raise checkpoints.refused(folder or Path(), error, checkpoints.size(folder)) from error

    @contextmanager
    def _written(self) -> Iterator[Path | None]:
        """A folder that holds a checkpoint; None on all ranks but the first. Where it cannot be written, all raise the same."""
        everyone = self.group.all(randomness.states())
        if self.rank:
            self.group.first(lambda: None)
            yield None
            return
        with checkpoints.scratch(self.scratch) as place:
            self.group.first(lambda: self._save(place / "checkpoint", everyone))
            yield place / "checkpoint"

    def _spent(self) -> bool:
        """Whether the time budget is spent; rank 0's clock decides for all."""
        if not self.config.train.hours:
            return False
        return self.group.told(self._clock() >= self.config.train.hours * 3600)


__all__ = ["Log", "Report", "Run", "fit", "loader_for"]
