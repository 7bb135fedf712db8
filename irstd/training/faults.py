"""What may go wrong within a run, each with one line that says what, where, and how to go on. Checkpoints stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from irstd.data.windows import Damaged
from irstd.errors import NonFinite, WorkError
from irstd.models.batch import Batch
from irstd.training import memory
from irstd.training.evaluation import Metrics, measure
from irstd.training.optimizer import learning_rate
from irstd.training.step import NotFinite

if TYPE_CHECKING:
    from irstd.training.loop import Run


def batches(run: Run) -> Iterator[Batch]:
    """The training loader's; WorkError for damaged shards."""
    try:
        yield from run.loader
    except Damaged as error:
        raise WorkError(
            f"{error}. The run stands in step {run.step + 1}, and its last checkpoint is good: the same command goes on from "
            "there when that is mended, and data.skip_damaged=true passes over it"
        ) from error


def learn(run: Run, batch: Batch) -> None:
    """A step; WorkError for a loss that is no number, and for a batch that does not fit into the device's memory."""
    try:
        run.stepper(batch, run.step)
        return
    except NotFinite as error:
        raise noted(run, error) from error
    except NonFinite as error:
        raise noted(run, NotFinite.at(str(error), run.step, batch["key"])) from error
    except (RuntimeError, MemoryError) as error:
        if not memory.exhausted(error):
            raise
    # Here, where the error with all that it holds is gone.
    count = len(batch["key"]) // run.config.train.accumulate
    fits = memory.largest(run.stepper.loss_module, batch, count)
    raise WorkError(memory.advice(run.config, run.world, fits, run.model.checkpoints))


def finite(run: Run, weights: dict[str, torch.Tensor]) -> None:
    """WorkError where the last step left weights that are no numbers: no checkpoint of them takes a good one's place."""
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise noted(run, NotFinite.at(f"{name} became no number", run.step - 1, run.stepper.key))


def noted(run: Run, error: NotFinite) -> WorkError:
    """The same, said with the file that now holds which step and key frames it was."""
    if run.beside is None:
        return error
    about = {"run": run.identity.name, "rank": run.rank, "workers": run.world, "epoch": run.epoch}
    rate = learning_rate(run.config.train, error.where["step"] - 1, run.total)
    try:
        place = run.beside.note(about | error.where | {"lr": rate})
    except OSError:
        return error
    return WorkError(f"{error}. Step and key frames are in {place}; the last checkpoint is from before")


def measured(run: Run) -> Metrics:
    """This rank's share of the validation."""
    assert run.val is not None
    try:
        return measure(run.model, run.val, run.config.evaluate)
    except (RuntimeError, MemoryError) as error:
        if not memory.exhausted(error):
            raise
    raise WorkError(memory.in_validation(run.config))


def skipped(run: Run) -> int:
    """Damaged key frames that all ranks passed over since the report before; the chunks that they lay in are said once."""
    mine = [loader.passed_over() for loader in (run.loader, run.val) if loader is not None]
    passed = [each for rank in run.group.all(mine) for each in rank]
    for _, lines in passed:
        for chunk, line in lines.items():
            if chunk not in run.told:
                run.told.add(chunk)
                run.log(f"passed over: {line}")
    return sum(count for count, _ in passed)
