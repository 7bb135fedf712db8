"""A sweep without Ray: it goes on from its journal wherever it was cut, stops what ASHA stops, and runs nothing twice."""

from __future__ import annotations

import json
import math
import random

import pytest

from irstd.cluster import points, searchers, spaces, stopping
from irstd.cluster.journal import Journal
from irstd.cluster.points import key
from irstd.cluster.sweep import Sweep
from irstd.errors import InputError, WorkError

EPOCHS = 9
SPACE = {
    "model": "bp-fpn",
    "search": "tpe",
    "scheduler": {"kind": "asha", "grace": 1},
    "budget": {"trials": 14, "epochs": EPOCHS},
    "space": {
        "model.gils.fuse": {"choice": ["add", "concat", "gate"]},
        "model.gils.channels": {"choice": [16, 64], "when": {"model.gils.fuse": "concat"}},
        "model.gils.norm": {"choice": [True, False]},
        "train.warmup": {"int": [0, 200]},
        "data.zoom": {"quniform": [0.0, 0.5, 0.1]},
        "train.lr": {"loguniform": [1e-4, 1e-2]},
    },
}


def made(**more):
    return spaces.Space.model_validate({"name": "s"} | SPACE | more)


def name_of(point):
    if point.get("model.gils.fuse") == "gate" and point.get("model.gils.norm") is False:
        raise InputError("gate needs norm")
    return key(point)


def value_at(point, epoch):
    best = 0.5 - abs(math.log10(point["train.lr"] / 1e-3)) / 4 + 0.1 * (point.get("model.gils.channels") == 64)
    return best * (1 - 0.5**epoch)


def rows(point):
    return [{"epoch": e, "step": 10 * e, "val_ap50": value_at(point, e)} for e in range(1, EPOCHS + 1)]


class Killed(BaseException):
    pass


class Runner:
    """Runs trials one after the other and counts the epochs that were trained; dies after `lives` events."""

    def __init__(self, space, path, lives=None, parallel=1):
        self.lives, self.parallel, self.trained, self.begun = lives, parallel, [], []
        rule = stopping.Stopping(space.scheduler, EPOCHS)
        self.checkpoints = {}
        self.args = (searchers.make(space), rule, Journal(path), name_of, "val_ap50")
        self.trials = space.trials

    def watch(self, event, trial):
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                raise Killed

    def run(self, checkpoints):
        """checkpoints: epochs that each run has on its disk, by run; what is trained goes there before it is reported."""
        sweep = Sweep(
            *self.args, known=lambda run: self.finished(checkpoints, run), trials=self.trials, watch=self.watch
        )
        self.sweep = sweep
        active = []
        while True:
            while len(active) < self.parallel and (trial := sweep.ask()):
                self.begun.append(trial.run)
                active.append((trial, iter(rows(trial.overrides))))
            if not active:
                return sweep
            trial, left = active.pop(0)
            row = next(left, None)
            if row is None:
                sweep.end(trial.number, "finished")
                continue
            if row["epoch"] > checkpoints.get(trial.run, (0, None))[0]:
                self.trained.append((trial.run, row["epoch"]))
                checkpoints[trial.run] = (row["epoch"], trial.overrides)
            if not sweep.report(trial.number, row):
                active.append((trial, left))

    @staticmethod
    def finished(checkpoints, run):
        epoch, point = checkpoints.get(run, (0, None))
        return rows(point) if epoch == EPOCHS else None


def summary(sweep):
    return [(t.run, t.state, t.value, [r["epoch"] for r in t.rows]) for t in sweep.trials]


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("search", ["tpe", "random"])
def test_a_search_that_is_killed_anywhere_ends_as_if_it_had_not_been(tmp_path, search, parallel):
    """Searcher and stopping rule are made again from the journal: the same points, the same stops, nothing trained twice."""
    space = made(search=search, budget={"trials": 10, "epochs": EPOCHS})
    whole = Runner(space, None, parallel=parallel)
    expected = summary(whole.run({}))
    assert {state for _, state, _, _ in expected} == {"finished", "pruned"}
    draw = random.Random(1)
    path, checkpoints, trained, deaths = tmp_path / "journal.jsonl", {}, [], 0
    while True:
        runner = Runner(space, path, lives=draw.randint(1, 25), parallel=parallel)
        done = {event["trial"] for event in Journal(path).read() if event["event"] == "end"}
        try:
            found = summary(runner.run(checkpoints))
        except Killed:
            deaths += 1
            if draw.random() < 0.3:  # in the middle of a line
                with path.open("ab") as file:
                    file.write(b'{"event":"repo')
            continue
        finally:
            trained += runner.trained
            if done:
                before = {
                    run for i, run in enumerate(dict.fromkeys(r for r, *_ in summary(runner.sweep)), 1) if i in done
                }
                assert not before & set(runner.begun), "a trial that was over began again"
        break
    assert deaths > 3
    assert len(trained) == len(set(trained)), "an epoch was trained twice"
    if parallel == 1:
        assert found == expected
    else:
        # Side by side, what a killed session had under way is heard of in another order.
        assert len(found) == len(expected) and {s for _, s, *_ in found} <= {"finished", "pruned"}


def test_asha_stops_what_is_below_the_best_third():
    rule = stopping.Stopping(spaces.Scheduler(kind="asha", grace=1, reduction=3), 9)
    assert rule.rungs == [1, 3]
    found = [rule.report(number, 1, value) for number, value in enumerate((0.5, 0.4, 0.6, 0.55, 0.1), 1)]
    assert found == [False, True, False, False, True]
    # The cut is the 2/3 percentile of what was there before: of .5 and .4 it is .467, of .5, .4 and .6 it is .533.
    assert not rule.report(1, 2, 0.5) and not rule.report(3, 3, 0.7) and rule.report(1, 3, 0.6)
    # A trial's end stops nothing, or it would be killed before it has finished.
    assert not rule.report(3, 9, 0.0)


def test_every_trial_gets_a_third_of_its_epochs_unless_said():
    asha = spaces.Scheduler(kind="asha")
    assert stopping.Stopping(asha, 9).rungs == [3] and stopping.Stopping(asha, 24).rungs == [8]
    assert asha.over(9, between=4).grace == 4 and asha.over(2).grace == 1
    rule = stopping.Stopping(asha, 9)
    assert not any(rule.report(n, 1, v) for n, v in ((1, 0.5), (2, 0.1))), "judged too soon"
    assert [rule.report(n, 3, v) for n, v in ((1, 0.5), (2, 0.1))] == [False, True]
    assert spaces.Scheduler().over(9).grace == 1 and spaces.Scheduler(kind="asha", grace=1).over(9).grace == 1


def test_the_median_rule_stops_what_is_below_it():
    rule = stopping.Stopping(spaces.Scheduler(kind="median", grace=2), 9)
    for number, value in enumerate((0.5, 0.6, 0.7), 1):
        assert not any(rule.report(number, epoch, value) for epoch in (1, 2, 3))
    assert not rule.report(4, 1, 0.1) and rule.report(4, 2, 0.1)
    assert not rule.report(5, 1, 0.65) and not rule.report(5, 2, 0.65)


def test_a_finished_run_is_taken_and_not_run():
    space = made()
    first = Runner(space, None)
    checkpoints = {}
    first.run(checkpoints)
    again = Runner(space, None)
    sweep = again.run(checkpoints)
    taken = [t for t in sweep.trials if t.taken]
    assert taken and not {t.run for t in taken} & set(again.begun)
    assert all(t.state == "finished" and len(t.rows) == EPOCHS for t in taken)


def test_a_failed_trial_is_tried_again_and_the_others_go_on(tmp_path):
    space, path = made(search="random", scheduler="none"), tmp_path / "j"
    one = Runner(space, path).args
    sweep = Sweep(*one, trials=3)
    for state in ("finished", "failed", "finished"):
        trial = sweep.ask()
        sweep.report(trial.number, rows(trial.overrides)[0])
        sweep.end(trial.number, state, "the loss became nan" if state == "failed" else None)
    assert sweep.ask() is None and sweep.over
    assert [t.error for t in sweep.trials] == [None, "the loss became nan", None]
    assert sweep.best().state == "finished"
    again = Sweep(*Runner(space, path).args, trials=3)
    assert not again.over
    trial = again.ask()
    assert trial.number == 2 and trial.error is None and again.ask() is None
    # More trials: the same search goes on.
    more = Sweep(*Runner(space, path).args, trials=5)
    assert [more.ask().number for _ in range(3)] == [2, 4, 5] and more.ask() is None


def test_hours_are_counted_over_sessions_and_stop_what_is_under_way(tmp_path):
    space, path, now = made(search="random", scheduler="none"), tmp_path / "j", [0.0]

    def sweep(hours=1.0):
        return Sweep(*Runner(space, path).args, trials=5, hours=hours, clock=lambda: now[0])

    first = sweep()
    trial = first.ask()
    now[0] = 1800
    assert first.report(1, rows(trial.overrides)[0]) is False
    now[0] = 1e6  # nothing runs between sessions
    second = sweep()
    assert second.elapsed() == pytest.approx(1800)
    assert second.ask().number == 1
    now[0] += 1700
    assert second.report(1, rows(trial.overrides)[1]) is False
    now[0] += 200
    assert second.ask() is None
    assert second.report(1, rows(trial.overrides)[2]) is True
    assert second.trials[0].state == "stopped" and second.over and second.best().number == 1
    # Allowed more, it goes on from there.
    third = sweep(hours=2.0)
    assert third.ask().number == 1


def test_hours_that_pass_after_the_last_trial_cut_nothing():
    """A search that came to its end in time is confirmed, and stays finished however long that takes."""
    now = [0.0]

    def sweep(trials):
        space = made(search="random", scheduler="none")
        args = Runner(space, None).args
        return Sweep(*args, trials=trials, hours=1.0, clock=lambda: now[0])

    def run(sweep, epoch):
        trial = sweep.ask()
        sweep.report(trial.number, rows(trial.overrides)[epoch - 1])
        sweep.end(trial.number, "finished")

    whole = sweep(1)
    run(whole, EPOCHS)
    now[0] += 7200
    assert whole.spent and not whole.cut
    short = sweep(2)
    run(short, EPOCHS)
    now[0] += 7200
    assert short.ask() is None and short.cut
    under_way = sweep(1)
    trial = under_way.ask()
    now[0] += 7200
    assert under_way.report(1, rows(trial.overrides)[0]) and under_way.cut


def test_looking_at_a_search_does_not_cut_the_line_that_it_writes(tmp_path):
    path = tmp_path / "j"
    args = Runner(made(search="random"), path).args
    Sweep(*args, trials=2).ask()
    with path.open("ab") as file:
        file.write(b'{"event":"repo')
    before = path.read_bytes()
    seen = Sweep(*Runner(made(search="random"), path).args, trials=2, begin=False)
    assert len(seen.trials) == 1 and path.read_bytes() == before
    # The next session cuts it.
    Sweep(*Runner(made(search="random"), path).args, trials=2)
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_stop_that_was_decided_is_carried_out_after_a_kill(tmp_path):
    space, path = made(search="random"), tmp_path / "j"
    sweep = Sweep(*Runner(space, path).args, trials=2)
    trials = [sweep.ask(), sweep.ask()]
    sweep.report(1, {"epoch": 1, "step": 1, "val_ap50": 0.9})
    assert sweep.report(2, {"epoch": 1, "step": 1, "val_ap50": 0.1})
    lines = path.read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "end"
    path.write_text("\n".join(lines[:-1]) + "\n")
    again = Sweep(*Runner(space, path).args, trials=2)
    assert [t.state for t in again.trials] == ["asked", "pruned"] and trials[1].rule == "asha"


def test_what_the_configuration_refuses_is_left_out_and_said():
    sweep = Runner(made(search="random", budget={"trials": 12}), None).run({})
    assert len(sweep.trials) == 12 and sweep.skipped and set(sweep.reasons) == {"gate needs norm"}


def test_a_small_space_ends_when_it_is_used_up():
    entries = {"train.warmup": {"choice": [0, 10, 20]}, "model.gils.norm": {"choice": [True, False]}}
    for search in ("grid", "random", "tpe"):
        space = made(search=search, space=entries, scheduler="none", budget={"trials": 50})
        sweep = Sweep(searchers.make(space), stopping.Stopping(space.scheduler, 1), Journal(None), key, "v", trials=50)
        while trial := sweep.ask():
            sweep.report(trial.number, {"epoch": 1, "step": 1, "v": trial.overrides["train.warmup"]})
            sweep.end(trial.number, "finished")
        assert len(sweep.trials) == 6 and sweep.over, search


def test_tpe_learns_and_random_does_not():
    def late(search):
        trials = (
            Runner(made(search=search, scheduler="none", budget={"trials": 40, "epochs": EPOCHS}), None).run({}).trials
        )
        return sum(t.value for t in trials[20:]) / 20

    assert late("tpe") > late("random") + 0.05


def test_values_go_to_the_searcher_and_back(tmp_path):
    """1, 1.0 and true are different values, and so are lists."""
    space = made(space={"train.milestones": {"choice": [[0.5], [0.6, 0.8]]}, "train.clip": {"choice": [1, 1.0, None]}})
    seen = [
        searchers.Seen(point, "finished", 0.1, [(1, 0.1)])
        for point in ({"train.clip": v, "train.milestones": m} for v in (1, 1.0, None) for m in ([0.5], [0.6, 0.8]))
    ]
    found = searchers.TPE(space, startup=2).propose(9, seen)
    assert found["train.milestones"] in ([0.5], [0.6, 0.8]) and found["train.clip"] in (1, None)
    assert found == searchers.TPE(space, startup=2).propose(9, seen)


def test_steps_from_a_low_of_many_digits_go_to_the_searcher():
    space = made(space={"data.zoom": {"quniform": [0.12345644, 0.9, 0.3]}})
    knob = space.space["data.zoom"]
    assert all(points.within(knob, value) in knob.points for value in (0.0, 0.2, 0.5, 1.0))
    seen = [searchers.Seen({"data.zoom": points.within(knob, v)}, "finished", v, [(1, v)]) for v in (0.1, 0.5)]
    assert searchers.TPE(space, startup=2).propose(9, seen)["data.zoom"] in knob.points


def test_numbers_of_a_choice_are_neighbours_and_names_are_not():
    """What a rate of 3e-3 gave is a hint for 1e-2, however the space writes it; 1, 1.0 and true are no order."""
    kinds = [
        [1e-3, 3e-3, 1e-2],
        [3, 2, 1],
        [1, 1.0, 2],
        [True, 2, 3],
        ["a", "b", "c"],
        [1, 2],
        [1, 3, 2],
        [[1], [2], [3]],
    ]
    knobs = [spaces.Knob(kind="choice", values=values) for values in kinds]
    assert [searchers.ordered(knob) for knob in knobs] == [True, True] + [False] * 6
    assert searchers.distribution(knobs[0]).single() is False
    space = made(
        space={"train.warmup": {"choice": [0, 10, 20, 30, 40, 50, 60, 70]}, "train.clip": {"choice": [1.0, None]}}
    )

    def value(point):
        return -abs(point["train.warmup"] - 50) / 100

    tried = [{"train.warmup": w, "train.clip": c} for w in (0, 20, 40, 70) for c in (1.0, None)]
    seen = [searchers.Seen(point, "finished", value(point), [(1, value(point))]) for point in tried]
    found = [searchers.TPE(space, startup=2).propose(number, seen)["train.warmup"] for number in range(20)]
    assert sum(abs(w - 50) <= 10 for w in found) > 10


def test_a_trial_that_ray_gives_up_without_a_word_is_run_again(tmp_path):
    from irstd.cluster.tune import TRIES, _to_the_end

    def search(path, deaf):
        """The second trial's end is not told, the first `deaf` times."""
        sweep = Sweep(*Runner(made(search="random", scheduler="none"), path).args, trials=3)
        calls = []

        def fit():
            calls.append(1)
            while trial := sweep.ask():
                if trial.number != 2 or len(calls) > deaf:
                    sweep.report(trial.number, rows(trial.overrides)[0])
                    sweep.end(trial.number, "finished")

        _to_the_end(sweep, fit)
        return sweep, len(calls)

    sweep, calls = search(tmp_path / "a", 1)
    assert sweep.over and {t.state for t in sweep.trials} == {"finished"} and calls == 2
    sweep, calls = search(tmp_path / "b", 9)
    assert sweep.over and [t.state for t in sweep.trials] == ["finished", "failed", "finished"] and calls == TRIES
    assert "Ray Tune did not run it" in sweep.trials[1].error


def test_a_damaged_journal_is_one_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event":"begin","time":1}\n{"event"\n{"event":"begin","time":2}\n')
    with pytest.raises(WorkError, match="line 2 is damaged") as caught:
        Journal(path).read()
    assert "\n" not in str(caught.value)
