"""Search spaces as files: what is refused, with one line; trials that are one another's run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml

from irstd.cluster import spaces
from irstd.commands import tune
from irstd.errors import InputError

LR = {"train.lr": {"loguniform": [1e-4, 1e-2]}}


def written(folder, **content):
    path = folder / "some.yaml"
    path.write_text(yaml.safe_dump({"space": LR} | content))
    return str(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"space": {"train.lr": {"uniform": ["a", 1]}}}, "train.lr: uniform takes numbers, found 'a'"),
        ({"space": {"train.lr": {"uniform": [None, 1]}}}, "found None"),
        ({"space": {"train.lr": {"uniform": [0, float("nan")]}}}, "found nan"),
        ({"space": {"train.clip": {"quniform": [0, 1, 0]}}}, "step of quniform is 0"),
        ({"space": {"train.epochs": {"int": [1.5, 3]}}}, "whole numbers, found 1.5"),
        ({"space": ["train.lr"]}, "space"),
        ({"space": "train.lr"}, "space"),
        ({"space": {}}, "is empty"),
        ({"space": {"train.lr": 3}}, "expected one of choice"),
        ({"space": {"train.lr": {"uniform": [2, 1]}}}, "low < high"),
        ({"space": {"shard.chunk": {"choice": [8, 16]}}}, "shard.chunk does not decide"),
        ({"fixed": {"shard.chunk": 8}}, "shard.chunk does not decide"),
        ({"space": {"registry.name": {"choice": ["a", "b"]}}}, "registry.name does not decide"),
        ({"space": {"train.rl": {"choice": [1]}}}, "unknown key"),
    ],
)
def test_a_malformed_space_is_one_line(tmp_path, content, words):
    with pytest.raises(InputError) as caught:
        spaces.read(written(tmp_path, **content), tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_where_the_best_trial_goes_may_be_fixed(tmp_path):
    assert spaces.read(written(tmp_path, fixed={"registry.name": "mine"}), tmp_path).fixed == {"registry.name": "mine"}


def test_the_same_space_draws_the_same_trials(tmp_path):
    entries = LR | {"train.epochs": {"int": [1, 3]}, "data.target_crop": {"quniform": [0.5, 1, 0.25]}}
    first, second = (spaces.trials(spaces.read(written(tmp_path, space=entries), tmp_path)) for _ in range(2))
    assert first == second and len(first) == 8
    assert {t["train.epochs"] for t in first} <= {1, 2, 3}
    assert {t["data.target_crop"] for t in first} <= {0.5, 0.75, 1.0}


def test_trials_that_are_one_run_are_left_out(capsys):
    jobs = [SimpleNamespace(name=name) for name in ("a", "b", "a", "c", "b")]
    drawn = [{"train.lr": i} for i in range(5)]
    kept, values = tune.distinct(jobs, drawn)
    assert [j.name for j in kept] == ["a", "b", "c"] and values == [drawn[0], drawn[1], drawn[3]]
    assert "2 of 5 trials" in capsys.readouterr().out
    assert tune.distinct(kept, values) == (kept, values)
    assert not capsys.readouterr().out
