"""Intensity rules: sensor counts to the numbers that a network sees, x = (counts - offset) * scale.

A rule is named in the configuration and travels with the model. Above 8 bits a fixed full scale is refused: a real 16-bit
recording may span a few hundred counts, which a division by 65535 turns into nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from irstd.errors import InputError

if TYPE_CHECKING:
    from irstd.data.manifest import Manifest

RULES = ("full_scale", "sequence", "dataset", "frame")


def resolve(rule: str, bit_depth: int) -> str:
    """The named rule behind 'auto': `full_scale` for 8-bit recordings, as the field does, `frame` above.

    `frame` learned soonest and most surely on 16-bit recordings (benchmarks/RESULTS.md), and it needs no statistics of a
    recording that is still coming in.
    """
    if rule == "auto":
        return "full_scale" if bit_depth <= 8 else "frame"
    if rule not in RULES:
        raise InputError(f"unknown intensity rule {rule!r}; known: auto, {', '.join(RULES)}")
    return rule


def offset_scale(
    rule: str,
    bit_depth: int,
    sequence: Mapping[str, float] | None = None,
    dataset: Mapping[str, float] | None = None,
    frame_HW: np.ndarray | None = None,
) -> tuple[float, float]:
    """Offset and scale of x = (counts - offset) * scale.

    `sequence`, `dataset`: mappings with `median`, `p005`, `p995` in counts (of `sequence.json` and of the train split).
    The robust rules put the median at x = 0.5 and the span between the percentiles 0.5 and 99.5 over an x of 0.5, so that
    the background lies about the middle of [0, 1] and nothing is clipped (our reading; the field divides 8 bits by 255).
    """
    rule = resolve(rule, bit_depth)
    if rule == "full_scale":
        if bit_depth > 8:
            raise InputError(
                f"intensity rule full_scale with a {bit_depth}-bit recording would erase it; use data.intensity=sequence"
            )
        return 0.0, 1.0 / 255.0
    if rule == "frame":
        if frame_HW is None:
            raise ValueError("the rule 'frame' needs the frame")
        low, middle, high = np.percentile(frame_HW, [0.5, 50, 99.5])
        stats: Mapping[str, float] = {"median": float(middle), "p005": float(low), "p995": float(high)}
    else:
        found = sequence if rule == "sequence" else dataset
        if found is None:
            raise InputError(f"intensity rule {rule}: its statistics are missing; build the shards again (irstd shard)")
        stats = found
    span = max(float(stats["p995"]) - float(stats["p005"]), 1.0)
    return float(stats["median"]) - span, 0.5 / span


def of_train(manifests: Iterable[Manifest]) -> dict[str, float] | None:
    """The statistics of the rule `dataset`: of the train splits of these sets together; None where they have none."""
    return pooled(
        [(m.count("train", "key_frames"), m.content["intensity"]) for m in manifests if m.content["intensity"]]
    )


def pooled(statistics: list[tuple[int, Mapping[str, float]]]) -> dict[str, float] | None:
    """Statistics of many sequences as one: means weighted by the number of frames; None for an empty list."""
    total = sum(n for n, _ in statistics)
    if not total:
        return None
    return {k: sum(n * float(s[k]) for n, s in statistics) / total for k in ("median", "p005", "p995")}
