"""What checkpoints cost: the loop as it is, at its own pace, into a run folder; their time as a share of the steps'."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch

from irstd import config as configuration
from irstd.bench.baselines import Scenes, write_shards
from irstd.bench.timing import Report, pinned
from irstd.errors import WorkError
from irstd.training.checkpoint import damage, size
from irstd.training.loop import Run
from irstd.training.pace import SHARE
from irstd.training.store import Store, under_way

BATCH = 2
WIDTH = 8


class Stop(Exception):
    """The time of the measurement is over."""


def measure(
    folder: Path, seconds: float, scenes: Scenes | None = None, crop: int = 256, width: int = WIDTH, least: int = 2
) -> Report:
    """Train on generated shards in the empty folder `folder` for about `seconds`, and until `least` checkpoints were due.

    Validations, which are the moments at which a checkpoint may be written, come every other step and measure nothing. The
    first checkpoint, which is always written, is left out. Takes a GPU where there is one.
    """
    with pinned():
        shards = write_shards(scenes or Scenes(sequences=2), folder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        options = {"model.width": width, "data.crop": crop, "train.batch": BATCH}
        options |= {"train.epochs": 10**6, "train.val_steps": 2}
        store = Store(folder / "run")
        store.begin()
        run = Run(configuration.load(overrides=options), shards, device, lambda line: None, scratch=store.scratch)
        run.val = None
        began, bytes_ = time.monotonic(), 0
        rows: list[tuple[float, float]] = []

        def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
            nonlocal bytes_
            # Of the one before this: the pace counts it when it is done.
            if run.pace.written > len(rows):
                rows.append((run.pace.total_steps, run.pace.total_cost))
            if checkpoint is not None:
                bytes_ = size(checkpoint)
            store(metrics, checkpoint)
            if time.monotonic() - began > seconds and len(rows) > least:
                raise Stop

        with suppress(Stop):
            run.go(report)
        if wrong := damage(under_way(store.folder)[-1]):
            raise WorkError(f"bench train: a checkpoint is damaged ({wrong}); its cost would mean nothing")
        shutil.rmtree(store.folder)
    costs = [after[1] - earlier[1] for earlier, after in zip(rows, rows[1:], strict=False)]
    steps, cost, due = rows[-1][0] - rows[0][0], rows[-1][1] - rows[0][1], len(rows) - 1
    share = cost / steps
    verdict = "held" if share <= SHARE else "missed"
    return Report(
        "training, and what its checkpoints cost",
        [
            f"GGL-Net of width {width}, AdamW, batches of {BATCH}, {crop}x{crop} pixels, {device}; {bytes_ / 2**20:.1f} MiB each",
            "written, flushed to the disk, summed and put in place, at the default interval; without the first, always written",
        ],
        [
            {
                "checkpoints": due,
                "ms each": 1000 * median(costs),
                "ms at most": 1000 * max(costs),
                "s of steps between": steps / due,
            }
        ],
        results=[f"SHARE checkpoints / steps: {share:.2%}; goal {SHARE:.0%} at the most: {verdict}"],
    )
