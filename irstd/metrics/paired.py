"""The difference of two models on the same frames, by resampling the groups of both together."""

from __future__ import annotations

from typing import Any

import numpy as np

from irstd.errors import InputError
from irstd.metrics import bootstrap
from irstd.metrics.detection import DetectionMetrics
from irstd.metrics.segmentation import _NIOU_UNIT as NIOU_UNIT
from irstd.metrics.segmentation import NUMBERS, SegmentationMetrics

Metrics = SegmentationMetrics | DetectionMetrics


def difference(one: Metrics, other: Metrics, name: str, cluster: bootstrap.Cluster | None = None) -> dict[str, Any]:
    """`{"number", "difference", "groups", "interval"}` of `one` minus `other`, both fed with the same frames.

    Every resample draws the same groups for both, so what makes a group hard for both does not widen the interval. interval:
    [low, high], 95 %; None under 10 groups ("insufficient" then says why), and where the number mostly does not exist.
    difference: None where a number does not exist. Raises: InputError where the groups are not the same.
    """
    names = set(one.groups)
    if names != set(other.groups):
        raise InputError("models are compared on the same frames, and these saw different sequences")
    groups, _ = bootstrap.gather(sorted(names, key=str), cluster)
    new, old = one.compute()[name], other.compute()[name]
    known = new is not None and old is not None
    found = {"number": name, "difference": new - old if known else None, "groups": groups, "interval": None}
    if why := bootstrap.insufficient(groups):
        return found | {"insufficient": why}
    samples_R = sampled(one, name, cluster) - sampled(other, name, cluster)
    return found | {"interval": bootstrap.interval(samples_R)}


def sampled(metrics: Metrics, name: str, cluster: bootstrap.Cluster | None = None) -> np.ndarray:
    """float [R]: a number over each resample of the groups, nan where it does not exist there."""
    if isinstance(metrics, DetectionMetrics):
        return metrics.resampled(cluster).sampled(name)
    rows = metrics.state()["groups"]
    groups, group_N = bootstrap.gather([row["group"] for row in rows], cluster)
    weights_RG = bootstrap.draws(groups)
    numerator, denominator = ([float(row[column]) for row in rows] for column in NUMBERS[name])
    found_R = bootstrap.quotient(
        bootstrap.weighted(numerator, weights_RG, group_N), bootstrap.weighted(denominator, weights_RG, group_N)
    )
    return found_R / NIOU_UNIT if name == "niou" else found_R
