"""Published tables have their form, and only what was measured alike is ranked together."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
from pathlib import Path

import pytest

from irstd.cli import run as irstd
from irstd.commands import compare
from irstd.comparison import published, typeset
from irstd.comparison.rows import Row, arranged, placed
from irstd.errors import InputError
from irstd.workspace import Workspace

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "published"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    shutil.copytree(FOLDER, root / compare.PUBLISHED)
    (root / "data.dvc").touch()
    return Workspace(root, root / ".irstd")


def numbers(protocol="strict", grid=None, images=214, targets=263, **values):
    values = {"iou": 0.7, "niou": 0.6, "pd": 0.9, "fa": 2e-5} | values
    counts = {"images": images, "targets": targets}
    return {"protocol": protocol, "grid": grid, "threshold": 0.5} | counts | values


def measured(*protocols, digest="a", chosen="last", baselines=(), **more):
    found = {"split": "test", "digests": {"nuaa": digest * 64}, "chosen": chosen, "threshold": 0.5, "frames": 214}
    return found | {"protocols": list(protocols or [numbers()]), "baselines": list(baselines), "run": "r"} | more


def row(method, protocol="strict", grid="native", selection="last", split="test", shards="nuaa aaaa", **values):
    values = {"iou": 0.5, "fa": 1e-5} | values
    return Row(method, values, "nuaa", split, grid, protocol, selection, 10, 12, shards=shards)


# -- published tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", published.names(FOLDER))
def test_a_published_table_says_what_its_numbers_depend_on(name):
    rows = published.read(name, FOLDER)
    assert rows
    for each in rows:
        assert each.set and each.split and each.grid and each.protocol and each.source, each.method
        assert each.selection in published.SELECTIONS
        known = [value for value in each.values.values() if value is not None]
        assert known and all(0 <= value <= 1 for value in known), each.method
        assert each.values.get("fa") is None or each.values["fa"] < 1e-3, "Fa is a fraction"
        for text in (each.source, each.method):
            assert text == text.strip() and text.isascii()
    keys = [(each.method, *each.measured_as, each.source) for each in rows]
    assert len(set(keys)) == len(keys), "a row stands twice"


def test_the_tables_that_the_documentation_names_are_there():
    text = (FOLDER / "README.md").read_text()
    there = published.names(FOLDER)
    assert {"nuaa-213-214", "nuaa-341-86", "nudt-663-664", "irstd-1k", "daub", "irdst", "itsdt-15k"} <= set(there)
    assert all(f"`{name}`" in text for name in there)


def test_known_numbers_stand_where_they_should():
    rows = {(r.method, r.selection): r for r in published.read("nuaa-213-214", FOLDER)}
    ggl = rows["GGL-Net", "field-best"]
    assert (ggl.values["iou"], ggl.values["fa"], ggl.protocol, ggl.grid) == (0.7547, 2.065e-5, "basicirstd", "native")
    assert rows["ACM", "last"].values["iou"] == 0.6944  # the last epoch is no row of the best ones
    assert (ggl.images, ggl.targets) == (214, 263)
    (msda,) = [r for r in published.read("nuaa-341-86", FOLDER) if r.method == "GGL-Net"]
    assert (msda.values["iou"], msda.grid, msda.protocol) == (0.806, "512", "msda")


HEADER = "method,iou,niou,pd,fa,set,split,grid,protocol,selection,images,targets,source"
LINE = "M,.7,.6,.9,2e-05,S,a:b,native,strict,last,3,4,somewhere"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE.replace(",native,", ",,"), "grid is empty"),
        (LINE.replace(",somewhere", ","), "source is empty"),
        (LINE.replace("native", "big"), "grid 'big'"),
        (LINE.replace("strict", "stricd"), "protocol 'stricd'"),
        (LINE.replace("last", "best"), "selection 'best'"),
        (LINE.replace(",.7,", ",70,"), "iou is '70': write a fraction"),
        (LINE.replace("2e-05", "20.6"), "fa is '20.6'"),
        (LINE.replace(".7", "x"), "iou is 'x'"),
        (LINE.replace(",3,", ",3.5,"), "images is '3.5'"),
        (LINE + ",more", "columns"),
        (LINE.replace(".7,.6,.9,2e-05", ",,,"), "holds no number"),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, message):
    (tmp_path / "t.csv").write_text(f"{HEADER}\n{LINE}\n{line}\n")
    with pytest.raises(InputError, match=f"t.csv: line 3: .*{message}"):
        published.read("t", tmp_path)
    (tmp_path / "t.csv").write_text(f"{HEADER}\n{LINE}\n")
    assert published.read(str(tmp_path / "t.csv"), Path("nowhere"))[0].values["iou"] == 0.7


def test_an_unknown_table_has_a_nearest_name():
    with pytest.raises(InputError, match=r"nuaa-213-241: .*did you mean 'nuaa-213-214'.*there are: .*daub"):
        published.read("nuaa-213-241", FOLDER)


# -- which rows stand together -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [{"protocol": "msda"}, {"grid": "512"}, {"selection": "field-best"}, {"split": "val"}], ids=str
)
def test_what_was_measured_otherwise_stands_apart(other):
    first, second = arranged([row("a"), row("b", **other)])
    assert [r.method for r in first.rows] == ["a"] and [r.method for r in second.rows] == ["b"]
    assert first.title != second.title and not any(first.best.values()) and not any(second.best.values())


def test_the_best_of_comparable_rows_is_marked():
    rows = [
        row("a", iou=0.6, fa=3e-5),
        row("b", iou=0.8, fa=2e-5),
        row("c", iou=0.8, fa=None),
        row("d", "msda", iou=0.9),
    ]
    table, other = arranged(rows)
    assert table.best == {"iou": {1, 2}, "fa": {1}}
    assert [r.method for r in other.rows] == ["d"]
    text = typeset.markdown([table])
    assert text.count("**0.8000**") == 2 and "**20.00**" in text and "**0.6000**" not in text


def test_a_baseline_is_never_the_best():
    rows = [row("a", iou=0.6), row("b", iou=0.7), row("top-hat", iou=0.9)]
    rows[2] = Row(**vars(rows[2]) | {"reference": True})
    (table,) = arranged(rows)
    assert table.best["iou"] == {1} and any("baselines" in note for note in table.notes)


def test_other_shards_share_no_table_without_a_line():
    rows = [row("a", shards="nuaa aaaa", iou=0.6), row("b", shards="nuaa bbbb", iou=0.7)]
    (table,) = arranged(rows)
    assert not table.best
    (note,) = table.notes
    assert "a: nuaa aaaa" in note and "b: nuaa bbbb" in note and "do not rank" in note
    assert note in typeset.markdown([table]) and "do not rank" in typeset.latex([table])


def test_other_shards_beside_a_published_list_have_both_lines():
    rows = [row("a", shards="nuaa aaaa", iou=0.6), row("b", shards="nuaa bbbb", iou=0.7), row("theirs", shards=None)]
    (table,) = arranged(rows)
    assert not table.best and ["do not rank" in table.notes[0], "not checked" in table.notes[1]] == [True, True]


def test_what_is_unstated_is_not_ranked():
    (table,) = arranged([row("a", selection="unstated", iou=0.6), row("b", selection="unstated", iou=0.7)])
    assert not table.best and "unstated" in table.notes[0]


def test_an_evaluation_stands_beside_a_list_that_has_its_counts():
    beside = published.read("nuaa-213-214", FOLDER)
    rows = compare.rows_of(measured(numbers(), numbers("basicirstd", iou=0.99)), "mine")
    joined = placed(rows, beside)
    assert {(r.set, r.split) for r in joined} == {("NUAA-SIRST", "213:214")}
    tables = {t.title: t for t in arranged([*beside, *joined])}
    (last,) = [t for title, t in tables.items() if "basicirstd" in title and "selection last" in title]
    assert [r.method for r in last.rows] == ["UIU-Net", "ISTDU-Net", "DNA-Net", "ACM", "mine"]
    assert last.best["iou"] == {4} and "214 images and 263 targets" in last.notes[0]
    (best,) = [t for title, t in tables.items() if "basicirstd" in title and "field-best" in title]
    assert "mine" not in [r.method for r in best.rows]
    # One target fewer is another list.
    others = placed(compare.rows_of(measured(numbers(targets=262)), "mine"), beside)
    assert {(r.set, r.split) for r in others} == {("nuaa", "test")}


# -- how they are written ----------------------------------------------------------------------------------------


def test_intervals_are_shown():
    one = Row(**vars(row("a", iou=0.5)) | {"intervals": {"iou": (0.4, 0.625)}})
    (table,) = arranged([one])
    assert "0.5000 [0.4000, 0.6250]" in typeset.markdown([table])
    (line,) = csv.DictReader(io.StringIO(typeset.as_csv([table])))
    assert (line["iou"], line["iou_low"], line["iou_high"], line["fa"]) == ("0.5", "0.4", "0.625", "1e-05")


def test_csv_brings_back_every_number_with_what_it_depends_on():
    rows = [row("a", iou=1 / 3), row("b, c", "msda", "512", "val-best", iou=None)]
    lines = list(csv.DictReader(io.StringIO(typeset.as_csv(arranged(rows)))))
    assert float(lines[0]["iou"]) == 1 / 3 and lines[1]["iou"] == "" and lines[1]["method"] == "b, c"
    about = [(line["protocol"], line["grid"], line["selection"], line["shards"]) for line in lines]
    assert about == [("strict", "native", "last", "nuaa aaaa"), ("msda", "512", "val-best", "nuaa aaaa")]


def test_what_latex_and_markdown_reserve_is_escaped():
    (table,) = arranged([row(r"a_b & 50% #1 {x} \y | z")])
    assert r"a\_b \& 50\% \#1 \{x\} \textbackslash{}y | z" in typeset.latex([table])
    assert r"\y \| z" in typeset.markdown([table])


# -- the command -------------------------------------------------------------------------------------------------


def written(path, found):
    path.write_text(json.dumps(found))
    return str(path)


def test_the_command_prints_and_writes_all_three(workspace, tmp_path, capsys):
    files = [
        written(tmp_path / "one.json", measured(numbers("basicirstd", iou=0.71))),
        written(tmp_path / "two.json", measured(numbers("basicirstd", iou=0.69), name="renamed")),
    ]
    compare.run(workspace, files, "nuaa-213-214", "test", None, tmp_path / "out")
    text = capsys.readouterr().out
    assert "| one " in text and "| renamed " in text and "UIU-Net" in text and "0.7100" in text
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["compare.csv", "compare.md", "compare.tex"]
    assert (tmp_path / "out/compare.md").read_text() in text
    assert r"\begin{tabular}" in (tmp_path / "out/compare.tex").read_text()
    compare.run(workspace, files, None, "test", "latex", tmp_path / "only")
    assert r"\toprule" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "only").iterdir()] == ["compare.tex"]


def test_baselines_are_rows(workspace, tmp_path, capsys):
    baseline = {"method": "top-hat", "protocols": [numbers(pd=0.2), numbers("msda", 512)]}
    file = written(tmp_path / "one.json", measured(numbers(), baselines=[baseline]))
    compare.run(workspace, [file], None, "test", None, None)
    text = capsys.readouterr().out
    assert text.count("top-hat (at the rate of one)") == 2 and "grid 512" in text


def test_evaluations_of_one_name_are_told_apart(workspace, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    files = [
        written(tmp_path / "one.json", measured()),
        written(tmp_path / "other/one.json", measured()),
        written(tmp_path / "two.json", measured(name="three.5")),
    ]
    compare.run(workspace, files, None, "test", "csv", None)
    methods = [line["method"] for line in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert methods[:3] == [f"one ({files[0]})", f"one ({files[1]})", "three.5"]


def test_intervals_of_an_evaluation_are_shown(workspace, tmp_path, capsys):
    known = numbers(intervals={"iou": [0.65, 0.75], "niou": None, "fa": [1e-5, 3e-5]})
    few = numbers(intervals=None, insufficient="insufficient: 4 groups")
    files = [written(tmp_path / "a.json", measured(known)), written(tmp_path / "b.json", measured(few))]
    compare.run(workspace, files, None, "test", None, None)
    text = capsys.readouterr().out
    assert "0.7000 [0.6500, 0.7500]" in text and "20.00 [10.00, 30.00]" in text and "**0.6000**" in text


def test_a_table_alone(workspace, capsys):
    compare.run(workspace, [], "daub", "test", "csv", None)
    assert "SSTNet,0.9559,0.9808,0.981,0.9809,DAUB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare"),
        (["nowhere.json"], "nowhere.json: no evaluation here"),
        (["--table", "dabu"], "did you mean 'daub'"),
        (["--table", "daub", "--format", "latx"], "did you mean 'latex'"),
        (["{other}"], "is no evaluation"),
        (["{broken}"], "is no evaluation"),
        (["--table", "daub", "--out", "{other}"], "is a file; name a folder"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, list) else "",
)
def test_bad_usage_is_one_line(workspace, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text("[]")
    filled = [a.format(other=tmp_path / "other.json", broken=tmp_path / "broken.json") for a in arguments]
    assert irstd(["compare", *filled]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_a_threshold_of_negative_zero_has_no_sign():
    text = typeset.markdown(arranged([dataclasses.replace(row("a"), threshold=-0.0)]))
    assert "| 0 " in text and "-0" not in text.replace("---", "").replace("1e-6", "")
