"""Recipe files: what they may hold, and what is refused with one line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from irstd import config
from irstd.config import Expected, Recipe
from irstd.errors import InputError

ENTRY = {
    "metric": "iou",
    "value": 0.8,
    "tolerance": 0.01,
    "mark": "published",
    "source": "a table",
    "split": "test",
    "protocol": "msda",
    "grid": 512,
    "chosen": "field-best",
}
TEXT = """
model: {name: bp-fpn, width: 0.5}
train: {epochs: 100}
quick: {train.epochs: 2, data: {sets: [sample]}}
"""


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_quick_test_is_the_recipe_with_less_work_and_says_so(tmp_path):
    path = recipe(tmp_path, TEXT)
    whole, quick = config.load(recipe=path), config.load(recipe=path, quick=True)
    assert (whole.train.epochs, whole.data.sets, whole.train.quick) == (100, [], False)
    assert (quick.train.epochs, quick.data.sets, quick.train.quick) == (2, ["sample"], True)
    assert quick.model == whole.model
    assert config.load(recipe=path, overrides={"train.epochs": 3}, quick=True).train.epochs == 3


def test_the_mark_alone_makes_another_run_and_a_run_without_it_is_as_before():
    one, quick = config.load(), config.load(overrides={"train.quick": True})
    assert "quick" not in one.identity()["train"] and quick.identity() != one.identity()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quick: {train.epoch: 2}", ["recipe.yaml: quick: unknown key 'train.epoch'", "train.epochs"]),
        ("quick: {train: {optimizer: adam}}", ["quick: train.optimizer", "does the same with less"]),
        ("quick: [train]", ["quick: expected a mapping"]),
        ("qick: {train.epochs: 2}", ["recipe.yaml", "qick"]),
        ("expected: .8", ["expected: write a list"]),
        ("data: {crop: 32, resize: 'stretch:64'}", ["data.crop=32", "data.resize=stretch:64"]),
        ("train: {epochz: 3}", ["recipe.yaml", "train.epochs"]),
    ],
)
def test_what_a_recipe_may_not_hold_is_one_line(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        config.load(recipe=recipe(tmp_path, text))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_quick_test_needs_a_recipe_that_has_one(tmp_path):
    with pytest.raises(InputError, match=r"recipe\.yaml: has no section quick"):
        config.load(recipe=recipe(tmp_path, "train: {epochs: 3}\n"), quick=True)
    with pytest.raises(InputError, match=r"--quick: .* --recipe"):
        config.load(quick=True)


def test_a_recipe_is_of_one_network(tmp_path):
    path = recipe(tmp_path, TEXT)
    with pytest.raises(InputError, match=r"recipe\.yaml: is a recipe of bp-fpn, and ggl-net was asked for"):
        config.load(recipe=path, model="ggl-net")
    assert config.load(recipe=path, model="bp-fpn").model.name == "bp-fpn"
    # A recipe that names none is for any.
    assert config.load(recipe=recipe(tmp_path, "train: {epochs: 3}\n"), model="bp-fpn").model.name == "bp-fpn"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"protocol": "msdb"}, ["protocol=msdb", "did you mean 'msda'"]),
        ({"metric": "ap50"}, ["metric=ap50", "msda", "iou"]),
        ({"mark": "guessed"}, ["mark", "measured"]),
        ({"valu": 3}, ["unknown key 'valu'", "did you mean 'value'"]),
        ({"tolerance": -1}, ["tolerance"]),
        ({"chosen": "best"}, ["chosen"]),
    ],
)
def test_a_wrong_expected_number_is_one_line(tmp_path, changed, words):
    entry = ", ".join(f"{k}: {v}" for k, v in (ENTRY | changed).items())
    with pytest.raises(InputError) as caught:
        Recipe.read(recipe(tmp_path, f"expected: [{{{entry}}}]\n"))
    line = str(caught.value)
    assert "\n" not in line and "recipe.yaml: expected[0]" in line
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (0.8, "within"),
        (0.79, "within"),
        (0.81, "within"),
        (0.75, "0.04 outside, below"),
        (0.85, "0.04 outside, above"),
        (None, "found none"),
    ],
)
def test_an_expected_number_is_held_against_that_of_its_split_protocol_and_grid_alone(found, verdict):
    expected = Expected(**ENTRY)
    row = {"protocol": "msda", "grid": 512, "iou": found}
    others = [row | {"grid": None, "iou": 0.1}, row | {"protocol": "dnanet", "iou": 0.2}]
    line = expected.held_against("test", [*others, row], "val-best")
    assert line is not None and line.endswith(verdict)
    assert "expected iou 0.8 +- 0.01 (published: a table; test, msda, grid 512, field-best)" in line
    assert expected.held_against("val", [row], "val-best") is None
    assert expected.held_against("test", others, "val-best") is None


ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    stop = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#") for line in lines[:stop])


def shown(value: float) -> str:
    """As headers write it: .806, and 4.35e-6."""
    return (
        f"{value * 1e6:.12g}e-6"
        if 0 < value < 1e-3
        else f"{value:.12g}".removeprefix("0")
        if value < 1
        else f"{value:.1f}"
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_header_states_command_hours_and_expected_numbers_with_their_marks(path):
    text = header(path)
    found, expected = config.load(recipe=path), Recipe.read(path).expected
    assert f"irstd train {found.model.name} --recipe recipes/{path.name}" in text
    assert "irstd ingest" in text and "irstd shard" in text
    hours = text.partition("Hours:")[2].splitlines()[0].strip()
    assert hours.startswith("not run") or float(hours.split()[0]) > 0
    said = text.partition("Expected:")[2]
    marks = {mark for mark in ("measured", "published", "not run") if f"**{mark}**" in said}
    assert marks and {entry.mark for entry in expected} == marks - {"not run"}
    for entry in expected:
        assert shown(entry.value) in said and entry.protocol in said, entry
        assert entry.chosen == ("last" if found.data.train_on != "train" else "val-best") or entry.mark == "published"
    assert f"`{path.stem}`" in (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_quick_test_goes_the_same_way_with_less(path):
    whole, quick = config.load(recipe=path), config.load(recipe=path, quick=True)
    assert quick.data.sets == ["sample"] and quick.data.resized[0] == whole.data.resized[0]
    assert (quick.data.crop is None) == (whole.data.crop is None)
    assert quick.train.epochs == 2 and quick.model.width < whole.model.width
    assert (quick.train.ema > 0, quick.train.ema_ramp is None) == (whole.train.ema > 0, whole.train.ema_ramp is None)


def by_network(path: Path) -> object:
    """One recipe of each network at once, the others with the slow tests."""
    quick = path.stem in ("demo", "bp-fpn-halmstad")
    return pytest.param(path, id=path.stem, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("path", [by_network(path) for path in RECIPES])
def test_the_quick_test_of_every_recipe_runs_and_learns_numbers(path, sample_shards, tmp_path):
    """Through the bare loop, on a smaller sample than the shipped one."""
    from runs import Keeper

    from irstd.training import loop

    lines: list[str] = []
    keeper = Keeper(tmp_path)
    quick = config.load(recipe=path, quick=True)
    loop.fit(quick, sample_shards, keeper, log=lines.append)
    assert "QUICK TEST" in lines[0] and lines[0].startswith(f"quick-{quick.model.name}-")
    losses = [row["loss"] for row in keeper.metrics]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert losses[1] < losses[0] * 1.1, losses
    assert (keeper.folder / "epoch-2" / "best.safetensors").is_file()


def test_the_bare_launcher_runs_a_quick_test(sample_shards, tmp_path, monkeypatch, capsys):
    from irstd.inference.package import Package
    from irstd.training.__main__ import main

    monkeypatch.chdir(tmp_path)
    path = ROOT / "recipes" / "demo.yaml"
    given = [str(path), "--shards", str(sample_shards), "--out", "runs", "--device", "cpu", "--quick", "train.epochs=1"]
    assert main(given) == 0
    said = capsys.readouterr().out
    (folder,) = (each for each in (tmp_path / "runs").iterdir() if each.is_dir())
    assert folder.name.startswith("quick-ggl-net-") and "QUICK TEST" in said and "expects" not in said
    kept = Package.read(folder / "package").content["lineage"]["recipe"]
    assert kept["file"] == "demo.yaml" and kept["expected"] == []
