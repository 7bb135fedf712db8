"""The benchmark of searches: what it simulates is the product's search, and its arithmetic."""

from __future__ import annotations

import math

import pytest

from benchmarks import sweeps
from irstd.cluster import points

SPACE = sweeps.SPACES["optimizer"]


@pytest.fixture(scope="module")
def curves():
    """Curves that rise to a value which one path decides most."""
    found = {}
    for point in points.grid(SPACE):
        best = 0.8 - 0.2 * abs(math.log10(point["train.lr"] / 1e-2)) - 0.01 * (point["train.loss.bce"] == 1.0)
        rows = [{"epoch": e, "step": e, "seconds": float(e)} for e in range(1, sweeps.EPOCHS + 1)]
        for row in rows:
            row[sweeps.METRIC] = row[f"best_{sweeps.METRIC}"] = best * (1 - 0.6 ** row["epoch"])
        found[points.key(point)] = rows
    return found


def test_a_simulated_search_keeps_to_its_steps_and_finds(curves):
    assert len(curves) == 48
    for arm in sweeps.ARMS:
        found = sweeps.simulated(SPACE, curves, arm, 1, 60)
        assert [used for used, _ in found] == list(range(61)), arm
        values = [value for _, value in found]
        assert values == sorted(values) and values[-1] > 0
    assert sweeps.simulated(SPACE, curves, "random + asha", 2, 60) == sweeps.simulated(
        SPACE, curves, "random + asha", 2, 60
    )


def test_regret_is_nothing_at_the_best_and_one_at_the_median(curves, monkeypatch, tmp_path):
    monkeypatch.setattr(sweeps, "ARMS", {arm: sweeps.ARMS[arm] for arm in ("random", "random + asha")})
    rows, grid = sweeps.regrets("optimizer", curves, 2)
    assert grid["worst"] < grid["median"] < grid["best"]
    for arm in sweeps.ARMS:
        first, last = sweeps.at(rows, arm, 0.0), sweeps.at(rows, arm, sweeps.SHARE)
        assert first == pytest.approx([grid["best"] / (grid["best"] - grid["median"])] * 2)
        assert all(0 <= value < 1 for value in last)
    assert all(row["share"] <= sweeps.SHARE + 0.01 for row in rows)
    found = sweeps.summary(rows)
    assert len(found) == 2 * 61 and found[60]["median"] == pytest.approx(
        sum(sweeps.at(rows, "random", 1)) / 2, abs=1e-4
    )
    sweeps.picture(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
