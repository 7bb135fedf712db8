"""Confirmation: the best trials and the default run again with fresh seeds, and what then is left of the gain.

The best of many trials looks better than it is: its value was chosen for being high. Numbers from seeds that had no say in the
choice do not have that advantage, so winner and gain come from these alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from scipy import stats

from irstd.cluster.points import Point, key
from irstd.cluster.sweep import Sweep, Trial

DEFAULT = "default"


@dataclass(frozen=True)
class Candidate:
    """What is confirmed. trial: its number in the sweep; None: the default configuration."""

    name: str
    trial: int | None
    overrides: Point


def candidates(best: list[Trial], count: int, default: str | None = None) -> list[Candidate]:
    """The `count` best trials, the best first, and the default. A trial that is the run `default` stands there as the default
    alone: the same seeds would make the same runs of it.
    """
    others = [t for t in best if t.run != default]
    found = [Candidate(f"trial {t.number}", t.number, t.overrides) for t in others[:count]]
    return [*found, Candidate(DEFAULT, None, {})]


def still(found: dict[str, Any] | None, chosen: list[Candidate]) -> dict[str, Any] | None:
    """What an earlier session confirmed; None where it is of other candidates than these, which the search found since."""
    same = found is not None and [row["trial"] for row in found["candidates"]] == [c.trial for c in chosen]
    return found if same else None


def seeds(base: int, count: int) -> list[int]:
    """Seeds that the search did not use: it trained with `base` alone."""
    return [(base + 1 + i) % 2**31 for i in range(count)]


def points(chosen: list[Candidate], fresh: list[int]) -> list[Point]:
    """One a run, seed by seed: what is done when the search is stopped can be paired."""
    return [{**candidate.overrides, "train.seed": seed} for seed in fresh for candidate in chosen]


def results(chosen: list[Candidate], fresh: list[int], sweep: Sweep) -> dict[str, Any]:
    """{"seeds", "candidates": [{"name", "trial", "overrides", "runs", "values", "mean", "deviation", "gain"}], "winner"}.

    A gain is that over the default, from differences of runs with the same seed; its interval is Student's (95 %). winner: the
    name of the candidate with the highest mean among those with all seeds; the default where none is better, None where the
    default itself has no value.
    """
    by_point = {key(trial.overrides): trial for trial in sweep.trials}
    rows = []
    for candidate in chosen:
        trials = [by_point.get(key({**candidate.overrides, "train.seed": seed})) for seed in fresh]
        values = [t.value if t is not None and t.state == "finished" else None for t in trials]
        known = [v for v in values if v is not None]
        rows.append(
            {
                "name": candidate.name,
                "trial": candidate.trial,
                "overrides": candidate.overrides,
                "runs": [t.run if t is not None else None for t in trials],
                "values": values,
                "mean": mean(known) if known else None,
                "deviation": stdev(known) if len(known) > 1 else None,
                "gain": None,
            }
        )
    default = rows[-1]
    for row in rows[:-1]:
        pairs = zip(row["values"], default["values"], strict=True)
        row["gain"] = gain([a - b for a, b in pairs if a is not None and b is not None])
    whole = [row for row in rows if None not in row["values"]]
    # Of equals the default: nothing is changed for nothing.
    winner = max(whole, key=lambda row: (row["mean"], row is default)) if default in whole else None
    return {"seeds": fresh, "candidates": rows, "winner": winner["name"] if winner else None}


def gain(differences: list[float]) -> dict[str, Any] | None:
    """{"mean", "low", "high", "n"}: mean of paired differences with Student's interval of 95 %; None where there is none."""
    n = len(differences)
    if not n:
        return None
    middle = mean(differences)
    half = stats.t.ppf(0.975, n - 1) * stdev(differences) / math.sqrt(n) if n > 1 else None
    return {
        "mean": middle,
        "low": None if half is None else middle - half,
        "high": None if half is None else middle + half,
        "n": n,
    }


def middle(row: dict[str, Any]) -> int:
    """The place of the seed whose value is the median: what is registered is then neither luck nor its lack."""
    order = sorted(range(len(row["values"])), key=lambda i: row["values"][i])
    return order[(len(order) - 1) // 2]


def table(found: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    """Rows to print."""
    from irstd.reports.sweep import gained

    rows = []
    for row in found["candidates"]:
        rows.append(
            {
                "candidate": row["name"],
                f"{metric} mean": row["mean"],
                "deviation": row["deviation"],
                "n": sum(v is not None for v in row["values"]),
                "gain over the default": gained(row["gain"]) or "-",
                "note": "winner" if row["name"] == found["winner"] else "",
            }
        )
    return rows


def verdict(found: dict[str, Any], metric: str) -> str:
    """One sentence on what the confirmation says."""
    rows = {row["name"]: row for row in found["candidates"]}
    winner = found["winner"]
    if winner is None:
        return "not confirmed: runs of the default or of every candidate failed"
    if winner == DEFAULT:
        return (
            f"with fresh seeds no trial beats the default configuration ({metric} {rows[DEFAULT]['mean']:.4f}); it wins"
        )
    gained = rows[winner]["gain"]
    sure = gained["low"] is not None and gained["low"] > 0
    return (
        f"{winner} wins: {gained['mean']:+.4f} {metric} over the default, 95 % interval [{gained['low']:+.4f}, "
        f"{gained['high']:+.4f}] from {gained['n']} seeds; "
        + ("the gain is real" if sure else "it may be no gain at all")
    )
