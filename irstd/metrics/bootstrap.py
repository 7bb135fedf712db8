"""Intervals by resampling whole groups: frames of one recording are not independent, recordings are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np

MINIMUM = 10
"""Groups below which an interval would say more about luck than about the model."""
RESAMPLES = 1000
LEVEL = 0.95
SEED = 0

Cluster = Callable[[str | None], Hashable]


def draws(groups: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """int64 [R, G]: how often each of G groups is drawn in each resample, with replacement, G draws a resample.

    Decided by the number of groups and the seed alone, whatever was measured.
    """
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=resamples)


def interval(values_R: np.ndarray) -> list[float] | None:
    """[low, high]: the percentiles 2.5 and 97.5 of a number over the resamples.

    Resamples in which the number does not exist (Pd without a target) are nan and left out; None where they are more
    than half.
    """
    known = values_R[~np.isnan(values_R)]
    if 2 * len(known) < len(values_R):
        return None
    tail = 50 * (1 - LEVEL)
    return [float(value) for value in np.percentile(known, [tail, 100 - tail])]


def gather(names: Iterable[str | None], cluster: Cluster | None) -> tuple[int, np.ndarray]:
    """The number of groups, and the group of each name: int [N]. Groups are numbered in the order of their own names, so
    that parts merged in any order are resampled alike."""
    found = [str(cluster(name) if cluster else name) for name in names]
    places = {group: place for place, group in enumerate(sorted(set(found)))}
    return len(places), np.array([places[group] for group in found], np.intp)


def ratios(
    counts: Mapping[str, np.ndarray],
    numbers: Mapping[str, tuple[str, str]],
    weights_RG: np.ndarray,
    group_N: np.ndarray,
) -> dict[str, np.ndarray]:
    """In each resample [R] the value of each number that is a sum of one count over a sum of another; nan where it is none.

    counts: [N] or [N, ...] by name, one row a sequence. numbers: name -> (numerator, denominator).
    """
    totals = {name: weighted(values, weights_RG, group_N) for name, values in counts.items()}
    return {name: quotient(totals[top], totals[bottom]) for name, (top, bottom) in numbers.items()}


def intervals(samples: Mapping[str, np.ndarray]) -> dict[str, list[float] | None]:
    """The interval of each number."""
    return {name: interval(values_R) for name, values_R in samples.items()}


def over_seeds(seeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, list[float] | None]:
    """The interval of each number's mean over seeds: seeds and groups are drawn both.

    seeds: of each training the values [R] by number, of the same groups in the same draws (`draws` gives them for all). Each
    resample draws as many trainings as there are, with replacement, beside its groups.
    """
    drawn_RS = draws(len(seeds), seed=SEED + 1)
    found = {}
    for name in seeds[0]:
        values_RS = np.stack([values[name] for values in seeds], axis=1)
        found[name] = interval(np.where(drawn_RS, values_RS * drawn_RS, 0).sum(axis=1) / len(seeds))
    return found


def weighted(values_N: Sequence[float] | np.ndarray, weights_RG: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """float [R, ...]: the sum of the values over each resample."""
    values_N = np.asarray(values_N, float)
    sums_G = np.zeros((weights_RG.shape[1], *values_N.shape[1:]))
    np.add.at(sums_G, group_N, values_N)
    return np.tensordot(weights_RG.astype(float), sums_G, axes=1)


def quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """nan where nothing is divided."""
    out = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def insufficient(groups: int) -> str | None:
    """Why there are no intervals; None where there are enough groups."""
    return None if groups >= MINIMUM else f"{groups} groups, and intervals need {MINIMUM}"
