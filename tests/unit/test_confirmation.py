"""What is confirmed with fresh seeds; the record of a sweep; what one sees of it; Pd at a rate as an objective."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from scipy import stats

from irstd import config as configuration
from irstd.cluster.journal import Journal
from irstd.cluster.searchers import Listed
from irstd.cluster.spaces import Scheduler
from irstd.cluster.stopping import Stopping
from irstd.cluster.sweep import Sweep, Trial
from irstd.commands import confirmation, estimate, leaderboard, sweeps
from irstd.commands.leaderboard import Board, both
from irstd.errors import InputError, WorkError
from irstd.metrics import pd_at_fa
from irstd.metrics.at_fa import MetricsAtFa
from irstd.metrics.curve import FINE

HEAD = {"sweep": "s-1", "objective": {"metric": "val_iou", "mode": "max"}, "mlflow": None}


def swept(points, values, *watches, failed=(), path=None):
    """A sweep over given points, each of two epochs, the second of which has its value."""
    sweep = Sweep(
        Listed(points),
        Stopping(Scheduler(), 2),
        Journal(path),
        lambda point: json.dumps(point, sort_keys=True),
        "val_iou",
        trials=len(points),
        watch=both(*watches),
    )
    for watch in watches:
        watch.sweep = sweep
    while trial := sweep.ask():
        for epoch, share in ((1, 0.5), (2, 1.0)):
            row = {
                "epoch": epoch,
                "step": 4 * epoch,
                "seconds": 1.5 * epoch,
                "val_iou": share * values[trial.number - 1],
            }
            sweep.report(trial.number, row)
        bad = trial.number in failed
        sweep.end(trial.number, "failed" if bad else "finished", "the training loss became nan" if bad else None)
    return sweep


def confirmed(values, failed=()):
    """`values` by candidate and seed: of two trials and the default."""
    best = swept([{"train.lr": lr} for lr in (0.1, 0.2, 0.3)], [0.3, 0.5, 0.4])
    chosen = confirmation.candidates(best.ranked(), 2)
    assert [c.name for c in chosen] == ["trial 2", "trial 3", "default"]
    fresh = confirmation.seeds(7, 3)
    runs = confirmation.points(chosen, fresh)
    assert fresh == [8, 9, 10] and 7 not in fresh
    # Seed by seed: what is there when the search is stopped can be paired.
    assert [r["train.seed"] for r in runs] == [8] * 3 + [9] * 3 + [10] * 3
    return confirmation.results(
        chosen, fresh, swept(runs, [v for by_seed in zip(*values, strict=True) for v in by_seed], failed=failed)
    )


def test_winner_and_gain_come_from_fresh_seeds_alone():
    found = confirmed([(0.5, 0.6, 0.7), (0.52, 0.64, 0.79), (0.4, 0.5, 0.7)])
    # The sweep's own best, trial 2, is not the winner.
    assert found["winner"] == "trial 3"
    row = found["candidates"][1]
    assert row["values"] == [0.52, 0.64, 0.79] and row["mean"] == pytest.approx(0.65)
    differences = np.array([0.12, 0.14, 0.09])
    low, high = stats.t.interval(0.95, 2, differences.mean(), differences.std(ddof=1) / np.sqrt(3))
    assert row["gain"] == pytest.approx({"mean": differences.mean(), "low": low, "high": high, "n": 3})
    assert confirmation.middle(row) == 1
    assert "the gain is real" in confirmation.verdict(found, "val_iou")
    assert "may be no gain" in confirmation.verdict(
        confirmed([(0.5, 0.6, 0.7), (0.4, 0.9, 0.7), (0.4, 0.5, 0.7)]), "val_iou"
    )


def test_the_default_can_win():
    found = confirmed([(0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (0.6, 0.6, 0.6)])
    assert found["winner"] == "default" and "no trial beats the default" in confirmation.verdict(found, "val_iou")
    assert [r["note"] for r in confirmation.table(found, "val_iou")] == ["", "", "winner"]


def test_of_equals_the_default_wins():
    """A knob that does nothing is no reason to change it."""
    assert confirmed([(0.5, 0.5, 0.5), (0.5, 0.6, 0.4), (0.5, 0.5, 0.5)])["winner"] == "default"


def test_a_trial_that_is_the_default_is_confirmed_as_the_default():
    """Both would be the same runs, and the second of them a point that repeats the first."""
    best = swept([{"train.lr": lr} for lr in (0.1, 0.2, 0.3)], [0.3, 0.5, 0.4])
    default = best.trials[1].run
    chosen = confirmation.candidates(best.ranked(), 2, default)
    assert [c.name for c in chosen] == ["trial 3", "trial 1", "default"]
    assert [c.name for c in confirmation.candidates(best.ranked()[:1], 2, default)] == ["default"]


def test_what_was_confirmed_before_counts_while_its_candidates_are_the_best():
    best = swept([{"train.lr": lr} for lr in (0.1, 0.2, 0.3)], [0.3, 0.5, 0.4])
    found = {"candidates": [{"trial": 2}, {"trial": 3}, {"trial": None}], "winner": "trial 3"}
    assert confirmation.still(found, confirmation.candidates(best.ranked(), 2)) is found
    more = swept([{"train.lr": lr} for lr in (0.1, 0.2, 0.3, 0.4)], [0.3, 0.5, 0.4, 0.9])
    assert confirmation.still(found, confirmation.candidates(more.ranked(), 2)) is None
    assert confirmation.still(None, confirmation.candidates(best.ranked(), 2)) is None


def test_points_that_are_left_out_do_not_write_the_record_each(tmp_path):
    record = sweeps.Record(tmp_path, HEAD)
    record.sweep = swept([{}], [0.3])
    (tmp_path / "sweep.json").unlink(missing_ok=True)
    record({"event": "end"}, None)
    (tmp_path / "sweep.json").unlink()
    record({"event": "skip"}, None)
    assert not (tmp_path / "sweep.json").exists()


def test_a_record_says_where_the_end_was_not_reached(tmp_path):
    """So that the same command does it: what is finished is not logged again."""
    record = sweeps.Record(tmp_path, HEAD)
    swept([{"train.lr": 0.1}], [0.3], record)
    record.write("finished")
    with pytest.raises(WorkError), record.done():
        raise WorkError("MLflow does not answer")
    assert sweeps.read(tmp_path)["state"] == "interrupted"
    record.write("finished")
    with record.done():
        pass
    assert sweeps.read(tmp_path)["state"] == "finished"


def test_runs_that_failed_leave_their_pairs_out():
    # The third run is the default's first seed, the fourth the first candidate's second.
    found = confirmed([(0.5, 0.6, 0.7), (0.5, 0.6, 0.9), (0.4, 0.5, 0.7)], failed=(3,))
    assert found["winner"] is None and "not confirmed" in confirmation.verdict(found, "val_iou")
    assert found["candidates"][0]["gain"]["n"] == 2
    found = confirmed([(0.5, 0.6, 0.9), (0.5, 0.6, 0.7), (0.4, 0.5, 0.7)], failed=(4,))
    assert found["candidates"][0]["values"] == [0.5, None, 0.9] and found["winner"] == "trial 3"


def test_the_record_of_a_sweep(tmp_path):
    record = sweeps.Record(tmp_path, HEAD)
    record.epochs = 2
    sweep = swept([{"train.lr": 0.1}, {"train.lr": 0.2}], [0.3, 0.5], record, failed=(1,))
    record.write("finished", model="models:/m/1")
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["state"] == "finished" and found["best"] == 2 and found["counts"] == {"failed": 1, "finished": 1}
    one, two = found["trials"]
    assert one["error"] == "the training loss became nan" and one["state"] == "failed"
    assert two["curve"] == [[1, 4, 1.5, 0.25, 0.25], [2, 8, 3.0, 0.5, 0.5]]
    assert (two["value"], two["best_epoch"], two["epoch"], two["train_seconds"]) == (0.5, 2, 2, 3.0)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text())))
    assert [(r["trial"], r["step"], r["val_iou"]) for r in rows] == [
        ("1", "4", "0.15"),
        ("1", "8", "0.3"),
        ("2", "4", "0.25"),
        ("2", "8", "0.5"),
    ]
    # What an earlier session found stays.
    again = sweeps.Record(tmp_path, HEAD)
    again.sweep = sweep
    again.write("running")
    kept = json.loads((tmp_path / "sweep.json").read_text())
    assert kept["model"] == "models:/m/1" and kept["started"] == found["started"]


def test_the_best_so_far_is_a_trials_value():
    sweep = Sweep(Listed([{}]), Stopping(Scheduler(), 9), Journal(None), str, "val_iou")
    sweep.ask()
    for epoch, value, best in ((1, 0.5, 0.5), (2, 0.2, 0.5)):
        sweep.report(1, {"epoch": epoch, "step": epoch, "val_iou": value, "best_val_iou": best})
    assert sweep.trials[0].value == 0.5 and [r["value"] for r in sweep.trials[0].rows] == [0.5, 0.5]


def test_a_log_has_a_line_for_each_trial_and_summaries(capsys, monkeypatch):
    monkeypatch.setattr(leaderboard, "SUMMARY", 0.0)
    board = Board("val_iou", epochs=2, terminal=False)
    with board:
        swept([{"train.lr": 0.1}, {"train.lr": 0.2}], [0.3, 0.5], board, failed=(1,))
    said = capsys.readouterr().out.splitlines()
    assert "trial 1/2: train.lr=0.1: failed: the training loss became nan" in said
    assert "trial 2/2: train.lr=0.2 -> val_iou 0.5000" in said
    assert "2 of 2 trials over, 1 failed, 0 under way, best so far trial 2 with val_iou 0.5000" in said[-1]
    assert not any("\x1b" in line for line in said)


def test_a_terminal_has_a_table():
    from rich.console import Console

    board = Board("val_iou", epochs=2, terminal=True)
    swept([{"data.sets": ["[red]"]}, {"train.lr": 0.2}], [0.3, 0.5], board)
    out = io.StringIO()
    Console(file=out, width=100).print(board._render())
    text = out.getvalue()
    assert "2 *" in text and "0.5000" in text and "[red]" in text and "2 of 2 trials over" in text


def frames(seed=3, count=6, side=64):
    random = np.random.default_rng(seed)
    for _ in range(count):
        mask = np.zeros((side, side), bool)
        y, x = random.integers(4, side - 4, 2)
        mask[y - 1 : y + 2, x - 1 : x + 2] = True
        yield np.clip(random.normal(0.2, 0.15, mask.shape) + 0.5 * mask * random.random(), 0, 1), mask


def test_validations_report_pd_at_the_wanted_rate():
    fa, seen = 1e-3, list(frames())
    whole, one, two = (MetricsAtFa("strict", 0.5, fa=fa) for _ in range(3))
    for place, (score, mask) in enumerate(seen):
        whole.update(score, mask, "g")
        (one if place < 2 else two).update(score, mask, "g")
    found = whole.compute()
    exact = pd_at_fa([s for s, _ in seen], [m for _, m in seen], fa)
    # Of a fixed set of thresholds, so never better than over all scores.
    assert 0 < found["pd_at_fa"] <= exact.pd and found["fa_wanted"] == fa
    assert found["pd_at_fa"] == whole.curve.pd_at([fa])[0]["pd"] and len(FINE) == len(whole.curve.thresholds)
    merged = MetricsAtFa.from_state(json.loads(json.dumps(one.state())))
    merged.merge(MetricsAtFa.from_state(two.state()))
    assert merged.compute() == found
    with pytest.raises(InputError, match="measured differently"):
        merged.merge(MetricsAtFa("strict", 0.5, fa=1e-2))


def test_too_few_pixels_for_a_rate_are_refused():
    metrics = MetricsAtFa("strict", 0.5, fa=1e-6)
    metrics.update(*next(frames()))
    with pytest.raises(InputError, match=r"evaluate.wanted_fa=1e-06: too little to tell"):
        metrics.compute()


def test_pd_at_a_rate_decides_and_so_belongs_to_the_identity():
    plain = configuration.load()
    chosen = configuration.load(overrides={"evaluate.wanted_fa": 1e-4})
    decides = configuration.load(overrides={"evaluate.wanted_fa": 1e-4, "evaluate.objective": "pd_at_fa"})
    assert plain.identity() == chosen.identity() != decides.identity()
    with pytest.raises(InputError, match="needs the rate"):
        configuration.load(overrides={"evaluate.objective": "pd_at_fa"})


def test_what_trials_took_beside_training():
    def trial(number, began, ended, begins):
        rows = [{"epoch": e, "step": e, "seconds": 10.0 * e, "value": 0.5} | b for e, b in enumerate(begins, 1)]
        return Trial(number, str(number), {}, state="finished", rows=rows, began=began, ended=ended)

    told = {"begin_process": 1.0, "begin_imports": 3.0}
    once = [
        trial(1, 100.0, 126.0, [told, {}]),
        trial(2, 126.0, 147.0, [{"begin_process": 0.25, "begin_imports": 0.0}, {}]),
    ]
    again = trial(3, 0.0, 1000.0, [told, told])
    said = estimate.overhead([*once, again])
    assert said.startswith(
        "beside training a trial took 3.5 s (median of 2; the first 6.0 s): process 0.6, imports 1.5, "
    )
    assert said.endswith("network, records and end 1.4")
    assert estimate.overhead([again]) is None
