"""What the gradient map's border does to a small GGL-Net, and what storing the map saves.

    python -m benchmarks.gradient_borders --data DIR [--out FILE] [--steps 440] [--seeds 3]
    python -m benchmarks.gradient_borders --data DIR --time [--seconds 60]

The 8-bit images of NUAA-SIRST (list idx_427), intensity rule `full_scale`, training on crops, measuring on whole images:

- replicate: the stored map, its border replicated (the default);
- zero: the stored map with zeros beyond the border: crops from the middle never see the ring that whole images have;
- authors: the map is computed in the network from the padded crop, with zeros beyond it, as the released code does;
- none: no gradient branch.

`--time` compares whole training steps, in turns: the map stored in the shards, computed by the loader from the whole frame,
and computed in the network from the crop. Times are the CPU time of one thread: others at work on the machine count less.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.painting import build_shards
from benchmarks.trials import SETTINGS, Trial, loader, run_all, table
from irstd import config as configuration
from irstd.bench.timing import Side, interleaved, machine, pinned
from irstd.bench.train import Feed, endless
from irstd.config import GradientConfig, ShardConfig
from irstd.training.loop import Run

CROP = 96


def listed(data: Path, source: Path) -> Path:
    """The images of the list with their masks, as they came, without the backgrounds, which no split names."""
    for name in ("images", "masks", "idx_427"):
        shutil.copytree(data / "sirst" / name, source / name)
    return source


def shards(source: Path, work: Path, gradient: GradientConfig) -> Path:
    return build_shards(source, work, "stills", ShardConfig(frames=1, gradient=gradient))


def trials(data: Path, work: Path) -> list[Trial]:
    source = listed(data, work / "source")
    replicate = shards(source, work / "replicate", GradientConfig())
    zero = shards(source, work / "zero", GradientConfig(padding="zero"))
    crop = {"data.crop": CROP}
    return [
        Trial("borders", "replicate", replicate, crop),
        Trial("borders", "zero", zero, crop, loader),
        Trial("borders", "authors", replicate, crop | {"model.border": "authors"}),
        Trial("borders", "none", replicate, crop | {"model.gradient_branch": False}),
    ]


def step_times(data: Path, work: Path, seconds: float, crops: tuple[int, ...] = (CROP, 256)) -> list[str]:
    """Lines with the ratios of whole training steps and of batches alone, the map stored against computed."""
    source = listed(data, work / "source")
    stored = shards(source, work / "stored", GradientConfig())
    without = shards(source, work / "without", GradientConfig(operator="none"))
    places = {"stored": (stored, True), "by the loader": (without, True), "in the network": (without, False)}
    lines = []
    with pinned():
        for crop in crops:
            options = SETTINGS | {"data.crop": crop, "train.schedule": "constant"}
            config = configuration.load(overrides=options)
            run = Run(config, stored, "cpu", log=lambda line: None)
            feeds = {n: Feed(endless(loader(config, f, "train", g)), "cpu") for n, (f, g) in places.items()}
            steps = interleaved({name: training(run, feed) for name, feed in feeds.items()}, seconds)
            alone = {name: endless(loader(config, f, "train", g)) for name, (f, g) in places.items()}
            batches = interleaved({name: drawing(batch) for name, batch in alone.items()}, seconds / 4)
            for what, timing in (("training step", steps), ("batch alone", batches)):
                each = 1000 / timing.rate("stored")
                lines.append(f"{what}, crops of {crop}: stored takes {each:.2f} ms of CPU")
                lines += [f"  {n} / stored: {timing.ratio('stored', n)}" for n in places if n != "stored"]
    return [machine(os.cpu_count() or 1), *lines]


def training(run: Run, feed: Feed) -> Side:
    """One whole step of the loop on the next batch of `feed`."""

    def step() -> tuple[int, float]:
        run.loader = feed  # type: ignore[assignment]
        start = time.process_time()
        run._epoch()
        return 1, time.process_time() - start

    return step


def drawing(batches: Iterator[dict[str, Any]]) -> Side:
    """A few batches, on which nothing is trained."""

    def draw() -> tuple[int, float]:
        start = time.process_time()
        for _ in range(8):
            next(batches)
        return 8, time.process_time() - start

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds sirst/")
    parser.add_argument("--out", type=Path, default=Path("gradient_borders.jsonl"), help="rows; those there are kept")
    parser.add_argument("--steps", type=int, default=440)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--time", action="store_true", help="step times instead of training")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="irstd-borders-") as folder:
        if options.time:
            print("\n".join(step_times(options.data, Path(folder), options.seconds)))
            return
        rows = run_all(trials(options.data, Path(folder)), range(options.seeds), options.steps, options.out)
    names = {"iou": "IoU", "niou": "nIoU", "pd": "Pd", "fa": "Fa, 1e-6"}
    names |= {"false_border": "false at the border, 1e-6", "false_inside": "false inside, 1e-6"}
    scale = dict.fromkeys(("fa", "false_border", "false_inside"), 1e6)
    print(table([row for row in rows if row["study"] == "borders"], names, scale))


if __name__ == "__main__":
    main()
