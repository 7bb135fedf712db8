"""What each of two real processes does in `test_ranks.py`; it imports no more than training needs."""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from toys import quiet, toy

from irstd.errors import IrstdError
from irstd.training import loop
from irstd.training.store import Store

OPTIONS = {"train__epochs": 2, "train__val_steps": 5, "train__schedule": "cosine", "train__lr": 1e-2}


def followed(
    shards: str, folder: Path | None, resume: Path | None = None, stop: int = 0, **more: Any
) -> dict[str, Any]:
    """A run, or the part of it from `resume` or up to step `stop`: key frames and rate of each step, and draws at its end.

    The draws are of the global generators, which a network of somebody else may use: each step takes some.
    """
    run = loop.Run(toy(**(OPTIONS | more)), shards, "cpu", quiet)
    if resume is not None:
        run.restore(resume)
    steps: dict[int, dict[str, Any]] = {}
    keys: list[Any] = []

    def stepped(step: int) -> None:
        rate = run.optimizer.param_groups[0]["lr"]
        draws = [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: NPY002
        steps[step] = {"keys": sorted(keys), "lr": rate, "draws": draws}
        keys.clear()
        if step == stop:
            raise KeyboardInterrupt

    run.stepper.loss_module.register_forward_pre_hook(lambda module, inputs: keys.extend(map(list, inputs[0]["key"])))
    run.stepped = stepped
    store = Store(folder) if folder else None
    if store:
        store.begin(quiet)

    def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        if store and checkpoint:
            os.rename(checkpoint, folder / f"step-{metrics['step']}")

    with contextlib.suppress(KeyboardInterrupt):
        run.go(report)
    return {"steps": steps, "weights": {k: v.double().sum().item() for k, v in run.model.state_dict().items()}}


def child(rank: int, place: str, shards: str, folder: str) -> None:
    """One of two processes: a whole run, one that goes on from a single process's, one that is stopped and goes on."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    here = Path(folder)
    mine = here if rank == 0 else None
    found = {
        "whole": followed(shards, mine and mine / "two"),
        "from one": followed(shards, None, here / "one" / "step-5"),
        "stopped": followed(shards, mine and mine / "stopped", stop=8),
    }
    found["gone on"] = followed(shards, mine and mine / "gone-on", here / "stopped" / "step-5")
    try:
        followed(shards, None, train__sync_batch_norm=True)
    except IrstdError as error:
        found["refused"] = str(error)
    (here / f"rank-{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
