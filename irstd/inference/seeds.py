"""What several seeds of one training have in common: `metrics.seeds` of a package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any


def summary(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """{"mean", "deviation", "values"}, each by number, of one row a seed.

    deviation: of a sample (n - 1); None of one seed. mean and deviation are None where a seed has no such number; numbers
    that no seed has are left out.
    """
    values = {name: [row.get(name) for row in rows] for name in names}
    values = {name: column for name, column in values.items() if any(v is not None for v in column)}
    whole = {name: column for name, column in values.items() if None not in column}
    return {
        "mean": {name: fmean(whole[name]) if name in whole else None for name in values},
        "deviation": {name: stdev(whole[name]) if name in whole and len(rows) > 1 else None for name in values},
        "values": values,
    }


def phrase(found: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """Mean and deviation of each number in one phrase: "iou 0.751 +- 0.012"."""
    parts = []
    for name in names or found["mean"]:
        mean, deviation = found["mean"].get(name), found["deviation"].get(name)
        if mean is not None:
            parts.append(f"{name} {mean:.4g}" + (f" +- {deviation:.2g}" if deviation is not None else ""))
    return ", ".join(parts)
