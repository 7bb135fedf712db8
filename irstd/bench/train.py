"""`irstd bench train`: the share of a training step that waits for data.

The training loop itself runs on crops, once fed by the loader and once by a batch that lies ready; their ratio is what the data
path costs on this machine, overlap included. The narrower a network, the more a step waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irstd import config as configuration
from irstd.bench.baselines import Scenes, write_shards
from irstd.bench.timing import Report, interleaved, pinned
from irstd.data.manifest import read_all
from irstd.errors import WorkError
from irstd.models.batch import Batch
from irstd.training.loop import Run, loader_for

BATCH = 2
NETWORKS: dict[str, dict[str, Any]] = {
    "GGL-Net, width 8": {"model.name": "ggl-net", "model.width": 8},
    "GGL-Net, width 16": {"model.name": "ggl-net", "model.width": 16},
    "BP-FPN": {"model.name": "bp-fpn"},
}
"""The networks that are measured; of the first, a narrow one, the most is asked."""
LEAST = 0.97
"""What of the rate may be left by waiting: 3 % of a step at the most, for networks of full width."""


class Feed:
    """Stands in for the loader in the loop: gives `steps` batches an epoch, and notes how long each kept it waiting."""

    def __init__(self, batches: Iterator[Batch], device: str, steps: int = 1) -> None:
        self.batches, self.device, self.steps = batches, device, steps
        self.waited, self.total = 0.0, 0.0

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Epochs go on in the stream of batches itself."""

    def __iter__(self) -> Iterator[Batch]:
        start = time.perf_counter()
        for _ in range(self.steps):
            asked = time.perf_counter()
            batch = next(self.batches)
            self.waited += time.perf_counter() - asked
            yield batch
        if self.device == "cuda":  # the step is only queued so far
            torch.cuda.synchronize()
        self.total += time.perf_counter() - start


def measure(
    folder: Path,
    seconds: float,
    shards: Path | None = None,
    scenes: Scenes | None = None,
    crop: int = 256,
    networks: dict[str, dict[str, Any]] | None = None,
) -> Report:
    """Train on `shards` (default: of `scenes`, made in the empty folder `folder`), each network for about `seconds`.

    Takes a GPU where there is one. `InputError` where the shards have no masks: GGL-Net learns from them.
    """
    networks = networks or NETWORKS
    report = Report("training, and what it waits for")
    with pinned():
        scenes = scenes or Scenes(sequences=2)
        source = str(scenes) if shards is None else f"shards in {shards}"
        shards = write_shards(scenes, folder) if shards is None else shards
        device = "cuda" if torch.cuda.is_available() else "cpu"
        for name, options in networks.items():
            _network(report, name, options, shards, crop, device, seconds)
    report.facts = [
        source,
        f"batches of {BATCH}, crops of {crop}, {device}; the loop's whole step (augmentation, loss, backward, optimizer)",
        "checked: the batch that lies ready is the loader's first one, bit for bit",
    ]
    if device == "cuda":
        report.facts.append("on a GPU waiting overlaps with queued steps; the ratio says what is lost")
    return report


def _network(
    report: Report, name: str, options: dict[str, Any], shards: Path, crop: int, device: str, seconds: float
) -> None:
    # A constant rate: the schedule would ask how many epochs there are.
    given = {"data.crop": crop, "train.batch": BATCH, "train.schedule": "constant"} | options
    config = configuration.load(overrides=given)
    run = Run(config, shards, device, log=lambda line: None)
    ready = _ready(config, shards)
    feeds = {"from shards": Feed(endless(run.loader), device), "batch ready": Feed(repeat(ready), device)}

    def side(feed: Feed) -> Any:
        def epoch() -> tuple[int, float]:
            before = feed.total
            run.loader = feed
            # The loop's own epoch, without the validation and the checkpoint that `go` adds to it.
            run._epoch()
            return BATCH * feed.steps, feed.total - before

        return epoch

    timing = interleaved({fed: side(feed) for fed, feed in feeds.items()}, seconds)
    for fed, feed in feeds.items():
        waits = f"{feed.waited / feed.total:.1%}"
        report.rows.append({"network": name, "side": fed, "samples/s": timing.rate(fed), "waits for data": waits})
    what = f"samples/s from shards / batch ready, {name}"
    report.ratios.append((what, timing.ratio("from shards", "batch ready")))
    if name != next(iter(NETWORKS)):
        report.goals[what] = LEAST


def _ready(config: configuration.Config, shards: Path) -> Batch:
    """The first batch; drawn twice, since a batch that differed would train on other pixels."""
    manifests = read_all(shards, config.data.sets)
    one, two = (next(iter(loader_for(config, shards, "train", manifests, batch_size=BATCH))) for _ in range(2))
    arrays = [name for name, value in one.items() if isinstance(value, np.ndarray)]
    if one["key"] != two["key"] or not all(np.array_equal(one[name], two[name]) for name in arrays):
        raise WorkError("bench train: the loader gave two different first batches; a ratio would mean nothing")
    return one


def endless(loader: Any) -> Iterator[Batch]:
    """Batches epoch after epoch."""
    while True:
        yield from loader
