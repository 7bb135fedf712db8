"""Frames a second of `SegmentationMetrics`, against the field's way: scikit-image's label and regionprops in Python loops.

    python -m benchmarks.metrics [--seconds 10]

Frames of 512 x 512 with three targets: a probability map as a trained network gives it (near 0, blobs on the targets, moved
or misshapen, a false alarm in every second frame) and the mask. Needs scikit-image (the extra `bench`). Both sides take the
same arrays and must end with the same IoU, nIoU, Pd and Fa of the protocol `basicirstd`, else no ratio is stated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable

import numpy as np

from irstd.bench.timing import Report, figure, interleaved, machine, pinned, timed
from irstd.commands.show import say, table
from irstd.environment import cores
from irstd.errors import WorkError
from irstd.metrics import SegmentationMetrics

SIDE, TARGETS, FRAMES = 512, 3, 32
GOAL = 5.0
Pair = tuple[np.ndarray, np.ndarray]


class FieldMetrics:
    """IoU, nIoU, Pd and Fa as the field's evaluation code computes them (greedy first match, correct Fa)."""

    def __init__(self) -> None:
        self.intersection = self.union = self.targets = self.hits = self.false_pixels = self.pixels = 0
        self.ious: list[float] = []

    def update(self, probability_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        from skimage import measure

        predicted_HW, target_HW = probability_HW > 0.5, mask_HW > 0
        intersection = np.logical_and(predicted_HW, target_HW).sum()
        union = np.logical_or(predicted_HW, target_HW).sum()
        self.intersection += intersection
        self.union += union
        self.ious.append(intersection / (union + np.spacing(1)))
        blobs = list(measure.regionprops(measure.label(predicted_HW, connectivity=2)))
        targets = measure.regionprops(measure.label(target_HW, connectivity=2))
        self.targets += len(targets)
        self.pixels += mask_HW.size
        for target in targets:
            for index, blob in enumerate(blobs):
                if np.linalg.norm(np.array(blob.centroid) - np.array(target.centroid)) < 3:
                    self.hits += 1
                    del blobs[index]
                    break
        self.false_pixels += sum(blob.area for blob in blobs)

    def compute(self) -> dict[str, float]:
        return {
            "iou": self.intersection / self.union,
            "niou": float(np.mean(self.ious)),
            "pd": self.hits / self.targets,
            "fa": self.false_pixels / self.pixels,
        }


def frames(count: int = FRAMES, side: int = SIDE, seed: int = 0) -> list[Pair]:
    """Probability float32 and mask uint8 [side, side] of `count` frames."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        mask_HW = np.zeros((side, side), np.uint8)
        probability_HW = (0.05 * rng.random((side, side), np.float32)) ** 2
        for _ in range(TARGETS):
            y, x = rng.integers(8, side - 16, 2)
            h, w = rng.integers(2, 7, 2)
            mask_HW[y : y + h, x : x + w] = 1
            dy, dx = rng.integers(-3, 4, 2)  # farther than 3 px now and then: a miss
            probability_HW[y + dy : y + dy + h, x + dx : x + dx + w] = rng.random((h, w), np.float32) ** 0.2
        if number % 2:
            y, x = rng.integers(8, side - 16, 2)
            probability_HW[y : y + 3, x : x + 2] = 0.9
        found.append((probability_HW, mask_HW))
    return found


def measure(seconds: float, pairs: list[Pair]) -> Report:
    """Both sides in turns, over all of `pairs` a piece of work; CPU time of one thread."""

    def over(make: Callable[[], SegmentationMetrics | FieldMetrics]) -> Callable[[], int]:
        def work() -> int:
            metrics = make()
            for pair in pairs:
                metrics.update(*pair)
            metrics.compute()
            return len(pairs)

        return work

    same(pairs)
    sides = {
        "ours, basicirstd": over(lambda: SegmentationMetrics("basicirstd")),
        "ours, strict": over(SegmentationMetrics),
        "field": over(FieldMetrics),
    }
    with pinned():
        timing = interleaved({name: timed(work, time.process_time) for name, work in sides.items()}, seconds)
    height, width = pairs[0][1].shape
    facts = [
        f"{len(pairs)} frames {height} x {width}, {TARGETS} targets each",
        "checked: IoU, nIoU, Pd and Fa of both sides agree (basicirstd, grid native, threshold .5)",
    ]
    rows = [{"side": name, "frames/s": timing.rate(name)} for name in sides]
    ratios = [(f"{name} / field", timing.ratio(name, "field")) for name in ("ours, basicirstd", "ours, strict")]
    return Report("segmentation metrics", facts, rows, ratios, {"ours, basicirstd / field": GOAL})


def same(pairs: Iterable[Pair]) -> None:
    """`WorkError` unless both ways give the same numbers."""
    ours, field = SegmentationMetrics("basicirstd"), FieldMetrics()
    for pair in pairs:
        ours.update(*pair)
        field.update(*pair)
    mine, theirs = ours.compute(), field.compute()
    for name, value in theirs.items():
        if abs(mine[name] - value) > 1e-12:
            raise WorkError(f"{name}: ours {mine[name]!r}, the field's way {value!r}; a ratio would mean nothing")
    if not 0 < theirs["pd"] < 1 or not theirs["fa"]:
        raise WorkError("the frames hold no miss, or no false alarm, so that they compare too little")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.metrics", description="Segmentation metrics against the field's way."
    )
    parser.add_argument("--seconds", type=float, default=10)
    report = measure(parser.parse_args().seconds, frames())
    for fact in report.facts:
        say(f"  {fact}")
    say(
        "\n"
        + table([{k: figure(v) if isinstance(v, float) else v for k, v in row.items()} for row in report.rows])
        + "\n"
    )
    for line in report.lines():
        say(line)
    say(f"machine: {machine(cores())}")


if __name__ == "__main__":
    main()
