"""Search spaces as files: what is refused, with one line; conditions; points that are drawn, enumerated, tried out."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from irstd import config as configuration
from irstd.cluster import points, spaces
from irstd.config import check_path
from irstd.errors import InputError

ROOT = Path(configuration.__file__).parents[2]
LR = {"train.lr": {"loguniform": [1e-4, 1e-2]}}
FUSE = {"model.gils.fuse": {"choice": ["add", "concat"]}}
CHANNELS = {"model.gils.channels": {"choice": [16, 64], "when": {"model.gils.fuse": "concat"}}}


def written(folder, **content):
    path = folder / "some.yaml"
    path.write_text(yaml.safe_dump({"space": LR} | content))
    return str(path)


def space_of(folder, **content):
    return spaces.read(written(folder, **content), folder)


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
        ({"space": None}, "is empty"),
        ({"space": {"train.lr": 3}}, "expected one of choice"),
        ({"space": {"train.lr": {"choise": [1]}}}, "expected one of choice"),
        ({"space": {"train.lr": {"uniform": [2, 1]}}}, "low < high"),
        ({"space": {"shard.chunk": {"choice": [8, 16]}}}, "shard.chunk does not decide"),
        ({"fixed": {"shard.chunk": 8}}, "shard.chunk does not decide"),
        ({"space": {"registry.name": {"choice": ["a", "b"]}}}, "registry.name does not decide"),
        ({"space": {"train.rl": {"choice": [1]}}}, "train.rl"),
        ({"space": {"train.lrr": {"choice": [1]}}}, "did you mean 'train.lr'?"),
        ({"space": {"train.seed": {"choice": [1, 2]}}}, "the confirmation varies it"),
        ({"space": {"data.sets": {"choice": [["a"], ["b"]]}}}, "measured on different frames"),
        ({"space": {"data.train_on": {"choice": ["train", "train+val"]}}}, "measured on different frames"),
        ({"space": {"evaluate.grid": {"choice": [None, 256]}}}, "measured on different grids"),
        ({"name": "a/b"}, "name: 'a/b' is no name for a folder"),
        ({"name": "../a"}, "is no name for a folder"),
        ({"trials": 5}, "budget: {trials: 5}"),
        ({"serach": "grid"}, "unknown key 'serach' (did you mean 'search'?)"),
        ({"search": "grid"}, "train.lr has 0.0001 .. 0.01 (log)"),
        ({"fixed": {"train.lr": 0.1}}, "both fixed and searched over"),
        ({"fixed": {"train.epochs": 3}, "budget": {"epochs": 4}}, "say the same thing"),
        ({"budget": {"trials": 0}}, "budget.trials"),
        ({"scheduler": "ahsa"}, "scheduler.kind"),
        ({"objective": {"metric": "iou", "at_fa": 1e-5}}, "at_fa goes with metric: pd"),
        ({"objective": {"mode": "min"}}, "objective.mode"),
        ({"objective": {"metric": "pd"}, "fixed": {"evaluate.objective": "iou"}}, "belongs under objective"),
        ({"space": {"train.epochs": {"int": [1, 5]}}, "scheduler": "asha"}, "different train.epochs"),
        # Conditions.
        ({"space": CHANNELS}, "neither searched over nor fixed"),
        ({"space": CHANNELS | {"model.gils.fus": {"choice": [1]}}}, "did you mean 'model.gils.fus'?"),
        ({"space": CHANNELS, "fixed": {"model.gils.fuse": "add"}}, "never holds for model.gils.fuse=concat"),
        ({"space": CHANNELS | {"model.gils.fuse": {"choice": ["add", "gate"]}}}, "is add or gate"),
        ({"space": LR | {"train.clip": {"choice": [1], "when": {"train.lr": 0.001}}}}, "a range"),
        (
            {
                "space": {
                    "train.clip": {"choice": [1], "when": {"train.ema": 0.9}},
                    "train.ema": {"choice": [0.9], "when": {"train.clip": 1}},
                }
            },
            "the conditions go round",
        ),
        ({"space": {"train.lr": {"choice": [1], "when": "x"}}}, "when takes a mapping"),
    ],
)
def test_a_malformed_space_is_one_line(tmp_path, content, words):
    with pytest.raises(InputError) as caught:
        spaces.read(written(tmp_path, **content), tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_where_the_best_trial_goes_may_be_fixed(tmp_path):
    assert space_of(tmp_path, fixed={"registry.name": "mine"}).fixed == {"registry.name": "mine"}


def test_the_same_space_draws_the_same_points(tmp_path):
    entries = LR | {"train.epochs": {"int": [1, 3]}, "data.target_crop": {"quniform": [0.5, 1, 0.25]}}
    first, second = (list(itertools.islice(points.draws(space_of(tmp_path, space=entries)), 20)) for _ in range(2))
    assert first == second
    assert {t["train.epochs"] for t in first} == {1, 2, 3}
    assert {t["data.target_crop"] for t in first} == {0.5, 0.75, 1.0}
    assert first != list(itertools.islice(points.draws(space_of(tmp_path, space=entries, seed=1)), 20))


def test_steps_begin_at_the_low_end(tmp_path):
    space = space_of(tmp_path, space={"data.zoom": {"quniform": [0.1, 0.45, 0.1]}})
    assert space.space["data.zoom"].points == [0.1, 0.2, 0.3, 0.4]
    assert {p["data.zoom"] for _, p in zip(range(50), points.draws(space), strict=False)} == {0.1, 0.2, 0.3, 0.4}


def test_a_path_is_drawn_where_its_condition_holds(tmp_path):
    space = space_of(tmp_path, model="bp-fpn", space=FUSE | CHANNELS | LR)
    drawn = list(itertools.islice(points.draws(space), 40))
    assert all(("model.gils.channels" in p) == (p["model.gils.fuse"] == "concat") for p in drawn)
    assert {p["model.gils.fuse"] for p in drawn} == {"add", "concat"}
    # What a condition leaves out shifts nothing else.
    plain = list(
        itertools.islice(
            points.draws(space_of(tmp_path, space=FUSE | {"model.gils.channels": {"choice": [16, 64]}} | LR)), 40
        )
    )
    assert [p["train.lr"] for p in plain] == [p["train.lr"] for p in drawn]


def test_conditions_hang_on_conditions(tmp_path):
    third = {"model.gils.op": {"choice": ["s2d", "avgpool"], "when": {"model.gils.channels": [64]}}}
    space = space_of(tmp_path, search="grid", space=third | CHANNELS | FUSE)
    assert list(points.grid(space)) == [
        {"model.gils.fuse": "add"},
        {"model.gils.channels": 16, "model.gils.fuse": "concat"},
        {"model.gils.channels": 64, "model.gils.fuse": "concat", "model.gils.op": "s2d"},
        {"model.gils.channels": 64, "model.gils.fuse": "concat", "model.gils.op": "avgpool"},
    ]


def test_a_fixed_value_is_a_condition_too(tmp_path):
    space = space_of(tmp_path, space=CHANNELS, fixed={"model.gils.fuse": "concat"})
    assert all("model.gils.channels" in p for _, p in zip(range(5), points.draws(space), strict=False))


def test_a_condition_hears_what_the_command_line_says_of_a_fixed_path(tmp_path):
    """Else a path would be searched over that the trials do not use."""
    pairs = {"model.dgr.pairs": {"choice": ["a", "b"], "when": {"model.dgr.variant": "feature"}}}
    space = space_of(tmp_path, model="bp-fpn", space=pairs | FUSE, fixed={"model.dgr.variant": "feature"})
    same = spaces.given(space, {"train.lr": 0.1})
    assert same == space
    with pytest.raises(InputError, match=r"model.dgr.pairs: its condition never holds .*; model.dgr.variant is none"):
        spaces.given(space, {"model.dgr.variant": "none"})


def test_a_value_that_is_never_possible_is_found_before(tmp_path):
    def check(point):
        if point["model.gils.op"] == "conv4":
            raise InputError("no such op")
        if point["model.gils.op"] == "conv3" and point["model.gils.source"] == "stem":
            raise InputError("conv3 needs dark2")

    entries = {"model.gils.op": {"choice": ["s2d", "conv3"]}, "model.gils.source": {"choice": ["stem", "dark2"]}}
    share = points.examine(space_of(tmp_path, space=entries), check)
    assert 0.5 < share < 1
    entries["model.gils.op"]["choice"].append("conv4")
    with pytest.raises(InputError, match=r"model.gils.op=conv4 is never possible: no such op"):
        points.examine(space_of(tmp_path, space=entries), check)


def test_an_end_of_a_range_that_the_configuration_refuses_is_found(tmp_path):
    space = space_of(tmp_path, space={"train.ema": {"uniform": [0.5, 1.0]}})
    with pytest.raises(InputError, match=r"train.ema=1 is never possible"):
        points.examine(space, lambda point: spaces.config_of(space, tmp_path, point))


@pytest.mark.parametrize(
    ("model", "objective", "found"),
    [
        ("ggl-net", {}, ("iou", None, None)),
        ("bp-fpn", {}, ("ap50", None, None)),
        ("ggl-net", {"metric": "iou"}, ("iou", None, None)),  # as chosen without a word: the same run
        ("ggl-net", {"metric": "niou"}, ("niou", "niou", None)),
        ("ggl-net", {"metric": "pd", "at_fa": 1e-5}, ("pd_at_fa", "pd_at_fa", 1e-5)),
        ("bp-fpn", {"protocol": "centroid"}, ("ap", None, None)),
        ("bp-fpn", {"metric": "f1", "protocol": "nnlab"}, ("f1", "f1", None)),
    ],
)
def test_the_objective_chooses_the_checkpoint(tmp_path, model, objective, found):
    space = space_of(tmp_path, model=model, objective=objective)
    config = spaces.config_of(space, tmp_path, {"train.lr": 1e-3})
    assert (config.objective, config.evaluate.objective, config.evaluate.wanted_fa) == found
    assert config.evaluate.protocol == objective.get("protocol", "strict")


@pytest.mark.parametrize(
    ("model", "objective", "words"),
    [
        ("ggl-net", {"metric": "ap50"}, "ap50 is no number of segmentation"),
        ("bp-fpn", {"metric": "iou"}, "iou is no number of detection"),
        ("bp-fpn", {"metric": "pd", "at_fa": 1e-5}, "is no number of detection"),
        ("ggl-net", {"protocol": "nnlab"}, "nnlab does not score segmentation"),
    ],
)
def test_a_metric_that_the_task_cannot_report_is_refused(tmp_path, model, objective, words):
    with pytest.raises(InputError, match=words):
        spaces.config_of(space_of(tmp_path, model=model, objective=objective), tmp_path, {})


def test_a_larger_budget_is_the_same_search(tmp_path):
    one, two, other = (
        space_of(tmp_path, **more)
        for more in ({"budget": {"trials": 3}}, {"budget": {"trials": 9, "hours": 2}}, {"seed": 1})
    )
    assert one.content() == two.content() != other.content()


@pytest.mark.parametrize("path", sorted((ROOT / "tune_spaces").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_spaces_can_be_searched(path):
    """Every value goes with something, every knob's default is the network's own, and objective and scheduler fit."""
    space = spaces.read(str(path), ROOT)
    default = spaces.config_of(space, ROOT, {})
    for knob in space.space:
        check_path(knob, path.name)
    assert points.examine(space, lambda point: spaces.config_of(space, ROOT, point)) > 0.2
    assert space.scheduler.kind == "none" or default.train.val_every <= space.scheduler.grace < default.train.epochs
