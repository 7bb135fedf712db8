"""The classical baselines beside a model: at its rate of false alarms, under every protocol."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from irstd.commands.show import say


class Anew:
    """What can be gone through many times without being held: every `iter` calls `make` again."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return self.make()


class Frames:
    """The key frames of a split for the baselines, each part to be gone through many times.

    counts: frames [H, W]; truth: masks [H, W], or target boxes [M, 4]; ignores: regions [K, 4] or None; sequences: the
    name of each frame's sequence. groups: what each sequence belongs to.
    """

    def __init__(
        self,
        counts: Iterable[np.ndarray],
        truth: Iterable[np.ndarray],
        ignores: Iterable[np.ndarray | None],
        sequences: list[str],
        groups: Mapping[str, str],
    ) -> None:
        self.counts, self.truth, self.ignores, self.sequences, self.groups = counts, truth, ignores, sequences, groups

    def cluster(self, sequence: str | None) -> str:
        return self.groups[str(sequence)]


def beside_masks(
    frames: Frames, fa: float, names: list[str] | None = None, pseudo_masks: str | None = None
) -> list[dict[str, Any]]:
    """Each baseline at Fa `fa` or below (strict, native grid): [{"method", "pd", "fa", "threshold", "protocols": [...]}].

    The threshold is that of these very frames. names: see `irstd.models.classical.chosen`.
    """
    from irstd.metrics import SegmentationMetrics, pd_at_fa
    from irstd.metrics.report import SEGMENTATION, reported
    from irstd.models.classical import chosen

    found = []
    for name, operator in chosen(names).items():
        with _responses(name, operator, frames) as responses:
            point = pd_at_fa(responses, frames.truth, fa, ignores=frames.ignores)
            metrics = [
                SegmentationMetrics(protocol, point.threshold, grid, any_range=True) for protocol, grid in SEGMENTATION
            ]
            _fill(metrics, ((response_HW,) for response_HW in responses), frames)
        rows = [reported(each.compute() | each.intervals(frames.cluster), pseudo_masks) for each in metrics]
        about = {"method": name, "pd": point.pd, "fa": point.fa, "threshold": float(point.threshold)}
        found.append(about | {"protocols": rows})
    return found


def beside_boxes(frames: Frames, model: list[dict[str, Any]], names: list[str] | None = None) -> list[dict[str, Any]]:
    """Each baseline's boxes under the protocols of the model's rows: [{"method", "protocols": [...]}].

    Where a protocol reads numbers at a threshold, it is the lowest at which the baseline's false alarms a frame stay within
    the model's, on these very frames.
    """
    from irstd.metrics import DetectionMetrics, threshold_within
    from irstd.models.classical import chosen, response_boxes

    found = []
    for name, operator in chosen(names).items():
        metrics = [DetectionMetrics(row["protocol"]) for row in model]
        with _responses(name, operator, frames) as responses:
            _fill(metrics, map(response_boxes, responses), frames)
        rows = []
        for each, row in zip(metrics, model, strict=True):
            if row.get("false_alarms_per_frame") is not None:
                each.threshold = threshold_within(each, row["false_alarms_per_frame"])
            more = each.resampled(frames.cluster).report(details=False)
            rows.append(each.compute() | {"grid": None} | more)
        found.append({"method": name, "protocols": rows})
    return found


def _fill(metrics: Sequence[Any], found: Iterable[tuple[np.ndarray, ...]], frames: Frames) -> None:
    for given, truth, sequence, ignore_K4 in zip(found, frames.truth, frames.sequences, frames.ignores, strict=True):
        for each in metrics:
            each.update(*given, truth, sequence, ignore_K4=ignore_K4)


@contextmanager
def _responses(name: str, operator: Callable[[np.ndarray], np.ndarray], frames: Frames) -> Iterator[Anew]:
    """The operator's response to every frame; those of a slow one are kept on the disk until all is done."""
    from irstd.models.classical import SLOW

    total = len(frames.sequences)
    say(f"evaluate: {name} on {total} frames")
    if name not in SLOW:
        yield Anew(lambda: map(operator, frames.counts))
        return
    with tempfile.TemporaryDirectory(prefix="irstd-baseline-") as folder:
        for number, frame_HW in enumerate(frames.counts, 1):
            np.save(Path(folder) / f"{number}.npy", operator(frame_HW))
            say(f"evaluate: {name}, {number} of {total} frames")
        yield Anew(lambda: (np.load(Path(folder) / f"{number}.npy") for number in range(1, total + 1)))
