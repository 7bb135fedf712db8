"""Matched detections of all groups together: their intervals, bins and curves. Nothing is matched twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from irstd.metrics import bootstrap
from irstd.metrics.bins import BINNINGS
from irstd.metrics.coco import RECALLS, average, mean_below
from irstd.metrics.protocols import DetectionProtocol

if TYPE_CHECKING:
    from irstd.metrics.detection import Group

RATES = (0.01, 0.1, 1.0)
"""False alarms a frame at which reports state the recall."""
POINTS = 1000
"""Rows of a curve at most."""


@dataclass(frozen=True)
class Resampled:
    """D detections by descending score and S sequences, in G groups.

    hit_D: whether it took a target. bins_D: per binning, the bin of the target that it took, -1 for none. counted_D: whether
    average precision looks at it. last_L: the places of the last detection of each distinct score. targets_SB: per binning,
    targets in each bin.
    """

    protocol: DetectionProtocol
    threshold: float
    fps: float | None
    scores_D: np.ndarray
    hit_D: np.ndarray
    counted_D: np.ndarray
    group_D: np.ndarray
    bins_D: dict[str, np.ndarray]
    last_L: np.ndarray
    frames_S: np.ndarray
    targets_S: np.ndarray
    targets_SB: dict[str, np.ndarray]
    group_S: np.ndarray
    groups: int

    @classmethod
    def of(
        cls,
        sequences: Sequence[tuple[str | None, Group]],
        cluster: bootstrap.Cluster | None,
        protocol: DetectionProtocol,
        threshold: float,
        fps: float | None,
    ) -> Resampled:
        groups, group_S = bootstrap.gather([name for name, _ in sequences], cluster)
        columns = [group.columns() for _, group in sequences]
        scores_D = np.concatenate([np.zeros(0), *(c.scores_D for c in columns)])
        order = np.argsort(-scores_D, kind="stable")
        scores_D = scores_D[order]
        target_D = np.concatenate([np.zeros(0, np.int32), *(c.target_D for c in columns)])[order]
        counted_D = np.concatenate([np.zeros(0, bool), *(c.counted_D for c in columns)])[order]
        bins_D, targets_SB = {}, {}
        for axis, binning in enumerate(BINNINGS):
            found, counts = [np.zeros(0, np.intp)], []
            for (_, group), column in zip(sequences, columns, strict=True):
                bin_M = binning.of(np.array(group.targets, float).reshape(-1, 2)[:, axis])
                counts.append(np.bincount(bin_M, minlength=len(binning.labels)))
                found.append(np.where(column.target_D >= 0, np.append(bin_M, -1)[column.target_D], -1))
            bins_D[binning.name] = np.concatenate(found)[order]
            targets_SB[binning.name] = np.array(counts).reshape(len(sequences), -1)
        sequence_D = np.repeat(np.arange(len(sequences)), [len(c.scores_D) for c in columns])[order]
        return cls(
            protocol=protocol,
            threshold=threshold,
            fps=fps,
            scores_D=scores_D,
            hit_D=target_D >= 0,
            counted_D=counted_D,
            group_D=group_S[sequence_D],
            bins_D=bins_D,
            last_L=np.flatnonzero(np.diff(scores_D, append=-np.inf)),
            frames_S=np.array([group.frames for _, group in sequences]),
            targets_S=np.array([len(group.targets) for _, group in sequences]),
            targets_SB=targets_SB,
            group_S=group_S,
            groups=groups,
        )

    def report(self, details: bool = True) -> dict[str, Any]:
        """What a report says beside the numbers themselves.

        {"groups", "intervals": {number: [low, high] or None} or None ("insufficient" says why), "bins": {"scr": [...], "size":
        [...]}, "recall_at": [{"false_alarms_per_frame", "recall", "threshold", "interval"}]}. A bin's average precision ignores
        targets of other bins and what took them; every false alarm counts in each bin. Without `details` no bins and rates.
        """
        found: dict[str, Any] = {"groups": self.groups, "intervals": None}
        why = bootstrap.insufficient(self.groups)
        samples: dict[Any, list[float]] = {}
        if why is None:
            weights_RG = bootstrap.draws(self.groups)
            samples = self._samples(weights_RG, details)
            found["intervals"] = self._ratios(weights_RG) | {
                name: bootstrap.interval(np.array(values)) for name, values in samples.items() if isinstance(name, str)
            }
        else:
            found["insufficient"] = why
        if not details:
            return found
        intervals = {name: bootstrap.interval(np.array(v)) for name, v in samples.items() if isinstance(name, tuple)}
        found["bins"] = {binning.name: self._bins(binning.name, binning.labels, intervals) for binning in BINNINGS}
        found["recall_at"] = [self._recall_at(rate) | {"interval": intervals.get(("rate", rate))} for rate in RATES]
        return found

    def samples(self) -> dict[str, np.ndarray]:
        """Each number in each resample of groups, [R]: what intervals are made of."""
        weights_RG = bootstrap.draws(self.groups)
        values = self._samples(weights_RG, details=False)
        return self._ratio_samples(weights_RG) | {name: np.array(found) for name, found in values.items()}

    def curve(self) -> dict[str, list[float]]:
        """Columns threshold, recall, precision, false_alarms_per_frame over falling thresholds: detections that score at
        least the threshold count. At most 1000 rows, spread evenly over what is found and what is falsely found."""
        tp_L, fp_L = np.cumsum(self.hit_D)[self.last_L], np.cumsum(~self.hit_D)[self.last_L]
        chosen = np.arange(len(self.last_L))
        if len(chosen) > POINTS:
            place_L = tp_L / tp_L[-1] + fp_L / fp_L[-1] if tp_L[-1] and fp_L[-1] else chosen / len(chosen)
            steps = np.linspace(place_L[0], place_L[-1], POINTS)
            chosen = np.unique(np.searchsorted(place_L, steps).clip(max=len(place_L) - 1))
        tp, fp = tp_L[chosen], fp_L[chosen]
        targets, frames = self.targets_S.sum(), self.frames_S.sum()
        return {
            "threshold": self.scores_D[self.last_L[chosen]].tolist(),
            "recall": (tp / targets).tolist() if targets else [None] * len(tp),
            "precision": (tp / (tp + fp)).tolist(),
            "false_alarms_per_frame": (fp / frames).tolist(),
        }

    def _recall_at(self, rate: float) -> dict[str, Any]:
        """The lowest threshold at which false alarms stay within the rate, and the recall there."""
        frames, targets = int(self.frames_S.sum()), int(self.targets_S.sum())
        found = {"false_alarms_per_frame": rate, "recall": None, "threshold": None}
        if not targets:
            return found
        fp_L = np.cumsum(~self.hit_D)[self.last_L]
        count = int(np.searchsorted(fp_L, rate * frames + 1e-9, side="right"))
        if not count:
            return found | {"recall": 0.0}
        last = self.last_L[count - 1]
        return found | {
            "recall": float(self.hit_D[: last + 1].sum() / targets),
            "threshold": float(self.scores_D[last]),
        }

    def _bins(self, name: str, labels: Sequence[str], intervals: dict[Any, Any]) -> list[dict[str, Any]]:
        rows = []
        for place, label in enumerate(labels):
            targets = int(self.targets_SB[name][:, place].sum())
            if not targets:
                continue
            taken_D = self.bins_D[name] == place
            chosen = self.counted_D & (taken_D | ~self.hit_D)
            found = average(self.scores_D[chosen], self.hit_D[chosen], targets)
            if self.protocol.point == "curve":
                hits, recall = int(taken_D[self.counted_D].sum()), found.recall
            else:
                hits = int(np.count_nonzero(taken_D & (self.scores_D > self.threshold)))
                recall = hits / targets
            row = {"bin": label, "targets": targets, "hits": hits, "recall": recall}
            row[self.protocol.average] = float(found.precision_R.mean())
            row["intervals"] = {
                number: intervals[name, place, number]
                for number in ("recall", self.protocol.average)
                if (name, place, number) in intervals
            } or None
            rows.append(row)
        return rows

    def sampled(self, name: str) -> np.ndarray:
        """float [R]: a number over each resample of the groups, nan where it does not exist there."""
        weights_RG = bootstrap.draws(self.groups)
        counted = self._ratio_samples(weights_RG)
        return counted[name] if name in counted else np.array(self._samples(weights_RG, details=False)[name])

    def _ratios(self, weights_RG: np.ndarray) -> dict[str, Any]:
        """Intervals of what is a count over a count at the threshold."""
        return {name: bootstrap.interval(values) for name, values in self._ratio_samples(weights_RG).items()}

    def _ratio_samples(self, weights_RG: np.ndarray) -> dict[str, np.ndarray]:
        if self.protocol.point == "curve":
            return {}
        above = self.scores_D > self.threshold
        sums = {
            "hits": bootstrap.weighted(above & self.hit_D, weights_RG, self.group_D),
            "detections": bootstrap.weighted(above, weights_RG, self.group_D),
            "targets": bootstrap.weighted(self.targets_S, weights_RG, self.group_S),
            "frames": bootstrap.weighted(self.frames_S, weights_RG, self.group_S),
        }
        false_alarms = sums["detections"] - sums["hits"]
        found = {
            "precision": bootstrap.quotient(sums["hits"], sums["detections"]),
            "recall": bootstrap.quotient(sums["hits"], sums["targets"]),
            "f1": bootstrap.quotient(2 * sums["hits"], sums["detections"] + sums["targets"]),
            "false_alarms_per_frame": bootstrap.quotient(false_alarms, sums["frames"]),
        }
        if self.fps is not None:
            found["false_alarms_per_hour"] = found["false_alarms_per_frame"] * 3600 * self.fps
        return found

    def _samples(self, weights_RG: np.ndarray, details: bool) -> dict[Any, list[float]]:
        """Values of each resample: by the number's name, by (binning, bin, number), and by ("rate", rate)."""
        counted = np.flatnonzero(self.counted_D)
        hit_C, group_C = self.hit_D[counted], self.group_D[counted]
        above_C = self.scores_D[counted] > self.threshold
        places = {None: np.flatnonzero(hit_C)}
        for name, bins_D in self.bins_D.items() if details else ():
            present = np.flatnonzero(self.targets_SB[name].sum(axis=0))
            places |= {(name, int(b)): np.flatnonzero(bins_D[counted] == b) for b in present}
        totals = {None: bootstrap.weighted(self.targets_S, weights_RG, self.group_S)}
        for name, counts_SB in self.targets_SB.items():
            sums_RB = bootstrap.weighted(counts_SB, weights_RG, self.group_S)
            totals |= {(name, b): sums_RB[:, b] for b in range(sums_RB.shape[1])}
        frames_R = bootstrap.weighted(self.frames_S, weights_RG, self.group_S)
        average_name = self.protocol.average
        found: dict[Any, list[float]] = {}

        def add(key: Any, value: float) -> None:
            found.setdefault(key, []).append(value)

        for r, weights_G in enumerate(weights_RG):
            weight_C = weights_G[group_C]
            false_C = np.cumsum(weight_C * ~hit_C)
            for key, place in places.items():
                precision_R, recall = _weighted_average(weight_C[place], false_C[place], totals[key][r])
                ap = float(precision_R.mean())
                if key is None:
                    add(average_name, ap)
                    if self.protocol.point == "curve":
                        precision = mean_below(precision_R, recall) if recall == recall else np.nan
                        add("precision", precision)
                        add("recall", recall)
                        both = precision + recall
                        add("f1", 2 * precision * recall / both if both else 0.0 if both == 0 else np.nan)
                    continue
                add((*key, average_name), ap)
                if self.protocol.point == "threshold":
                    hits = weight_C[place[above_C[place]]].sum()
                    recall = hits / totals[key][r] if totals[key][r] else np.nan
                add((*key, "recall"), recall)
            if not details:
                continue
            weight_D = weights_G[self.group_D]
            true_L, false_L = (np.cumsum(weight_D * part)[self.last_L] for part in (self.hit_D, ~self.hit_D))
            for rate in RATES:
                count = int(np.searchsorted(false_L, rate * frames_R[r] + 1e-9, side="right"))
                hits = true_L[count - 1] if count else 0
                add(("rate", rate), hits / totals[None][r] if totals[None][r] else np.nan)
        return found


def _weighted_average(weight_K: np.ndarray, false_K: np.ndarray, targets: float) -> tuple[np.ndarray, float]:
    """Interpolated precision at the 101 recalls and the largest recall, from the hits alone: precision is highest at one.

    weight_K: how often each hit counts, by descending score. false_K: false alarms before it. nan without a target.
    """
    if not targets:
        return np.full(len(RECALLS), np.nan), np.nan
    true_K = np.cumsum(weight_K)
    if not len(true_K):
        return np.zeros(len(RECALLS)), 0.0
    precision_K = true_K / (true_K + false_K + np.spacing(1))
    highest_K = np.maximum.accumulate(precision_K[::-1])[::-1]
    place_R = np.searchsorted(true_K / targets, RECALLS, side="left")
    return np.append(highest_K, 0.0)[place_R], float(true_K[-1] / targets)
