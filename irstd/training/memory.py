"""What to say when a step does not fit into the device's memory: how much does, and which options need less."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import nn

from irstd.config import Config
from irstd.errors import IrstdError
from irstd.models.batch import Batch

WORDS = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
"""Of the errors of allocators that have no class of their own."""


def exhausted(error: BaseException) -> bool:
    """Whether `error` says that memory could not be had."""
    if isinstance(error, IrstdError):
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def largest(loss: nn.Module, batch: Batch, below: int) -> int:
    """The most key frames, of below / 2, below / 4, ..., whose loss and gradients fit; 0 where none do.

    `loss` is called by itself, without the other processes of the run, who may be anywhere.
    """
    count = below
    while count := count // 2:
        if _fits(loss, {name: value if value is None else value[:count] for name, value in batch.items()}):
            return count
    return 0


def _fits(loss: nn.Module, batch: Batch) -> bool:
    _free(loss)
    try:
        loss(batch)[0].backward()
    except (RuntimeError, MemoryError) as error:
        if not exhausted(error):
            raise
        return False
    finally:
        _free(loss)
    return True


def _free(loss: nn.Module) -> None:
    loss.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def advice(config: Config, workers: int, fits: int, checkpoints: bool) -> str:
    """The line for a step that does not fit. `fits`: of `largest`; `checkpoints`: whether the network can recompute."""
    train = config.train
    at_once = train.batch // (workers * train.accumulate)
    given = f"train.batch={train.batch}" + (f" over {workers} workers" if workers > 1 else "")
    given += f" in train.accumulate={train.accumulate} parts" if train.accumulate > 1 else ""
    each = "a worker" if workers > 1 else "at a time"
    less: dict[str, Any] = {}
    if checkpoints and not train.activation_checkpointing and not train.compile:
        less["train.activation_checkpointing=true (less memory, more time, the same bits)"] = True
    crop = f"data.crop below {config.data.crop}" if config.data.crop else "data.crop=256 in place of whole frames"
    less[crop if config.data.resize == "native" else f"a smaller side than data.resize={config.data.resize}"] = True
    options = " or ".join(less)
    if not fits:
        return f"{given}: not even one key frame at a time fits into the device's memory; take {options}"
    parts = next(
        k
        for k in range(train.accumulate, train.batch + 1)
        if train.batch % (workers * k) == 0 and train.batch // (workers * k) <= fits
    )
    return (
        f"{given}: {at_once} key frames {each} do not fit into the device's memory, {fits} do: train.accumulate={parts} takes "
        f"the batch in parts, train.batch={fits * workers * train.accumulate} is the largest that fits as it is; or take "
        f"{options}"
    )


def in_validation(config: Config) -> str:
    """The line for a validation, which takes whole frames one by one, that does not fit."""
    return (
        "a validation takes whole frames one by one, and one does not fit into the device's memory; take "
        + ("data.resize=letterbox:512 or so" if config.data.resize == "native" else "a smaller data.resize")
        + ", or sets of smaller frames with data.sets=[...]"
    )
