"""What would poison training stops shards, unless it is waived by name; waivers change no byte of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dvc.utils.serialize import parse_yaml
from recordings import tree
from test_doctor_findings import FRAMES, HEIGHT, WIDTH, Scene

from irstd import config as configuration
from irstd.config import ShardConfig
from irstd.data import shards
from irstd.data.ingest import ingest
from irstd.data.manifest import Manifest
from irstd.errors import InputError


def _twice(s: Scene) -> None:
    s.rows[7] *= 2


def _whole(s: Scene) -> None:
    s.rows[7] = [(0, 0, WIDTH, HEIGHT)]


def _flat(s: Scene) -> None:
    s.frames_THW[7] = 3000


def _conflict(s: Scene) -> None:
    s.frames_THW[7] = s.frames_THW[6]
    del s.rows[7]


HARMS = {"duplicate-boxes": _twice, "whole-frame": _whole, "flat-targets": _flat, "frozen-conflict": _conflict}


def data_with(tmp_path: Path, *kinds: str, only: int = 1) -> Path:
    """A set `mine` of four sequences, of which the first `only` have what is wrong."""
    source = tmp_path / "source"
    for number, name in enumerate("abcd"):
        each = Scene(name, seed=number)
        for kind in kinds if number < only else ():
            HARMS[kind](each)
        each.write(source)
    ingest(source, "mine", tmp_path / "data", tmp_path / "staging")
    return tmp_path / "data"


@pytest.mark.parametrize("kind", HARMS)
def test_it_stops_and_a_waiver_lets_it_pass(kind: str, tmp_path: Path) -> None:
    data, out = data_with(tmp_path, kind), tmp_path / "shards"
    with pytest.raises(InputError) as refused:
        shards.build(data, out, ShardConfig())
    text = str(refused.value)
    assert text.startswith("mine/a frame 7: ") and "\n" not in text
    # As it stands there, it can be pasted: DVC reads params.yaml as YAML 1.2, where a colon within [] needs the quotes.
    pasted = re.search(r"waive: \[.*?\](?= under shard: in params.yaml)", text)
    assert pasted and parse_yaml(pasted[0], "params.yaml") == {"waive": [f"mine/a:{kind}"]}
    assert not out.exists()
    said: list[str] = []
    for number, waiver in enumerate((kind, f"mine:{kind}", f"mine/a:{kind}")):
        shards.build(data, tmp_path / f"shards-{number}", ShardConfig(waive=[waiver]), warn=said.append)
    assert said == [f"shards: set mine: {kind} in 1 sequence, waived by shard.waive"] * 3
    assert tree(tmp_path / "shards-0") == tree(tmp_path / "shards-1") == tree(tmp_path / "shards-2")
    with pytest.raises(InputError, match="mine/a frame 7"):
        shards.build(data, out, ShardConfig(waive=[f"mine/b:{kind}", f"other:{kind}"]), warn=said.append)


def test_waivers_change_neither_tars_nor_digest(tmp_path: Path) -> None:
    """The same data, with and without waivers for what is not there."""
    data = data_with(tmp_path)
    first, second = tmp_path / "one", tmp_path / "two"
    shards.build(data, first, ShardConfig())
    shards.build(data, second, ShardConfig(waive=["frozen", "mine:whole-frame"]))
    assert tree(first) == tree(second)
    assert Manifest.read(first / "mine").digest == Manifest.read(second / "mine").digest


def test_the_shards_that_are_there_stay(tmp_path: Path) -> None:
    data, out = data_with(tmp_path), tmp_path / "shards"
    shards.build(data, out, ShardConfig())
    before = tree(out)
    worse = Scene("a")
    _twice(worse)
    worse.write(tmp_path / "source")
    ingest(tmp_path / "source", "mine", data, tmp_path / "staging", update=True)
    with pytest.raises(InputError, match="mine/a frame 7: 1 frame with a box twice"):
        shards.build(data, out, ShardConfig())
    assert tree(out) == before


def test_many_are_one_line(tmp_path: Path) -> None:
    data = data_with(tmp_path, "duplicate-boxes", "whole-frame", only=3)
    # The box that covers the frame replaced the doubled one.
    with pytest.raises(InputError, match=r"^mine/a frame 7: [^\n]+\(and 2 more: irstd doctor data mine shows all\)"):
        shards.build(data, tmp_path / "shards", ShardConfig())


def test_guesses_never_stop(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, name in enumerate("abc"):
        each = Scene(name, seed=number)
        each.rows = {t: [(x + 2, y, w, h)] for t, [(x, y, w, h)] in each.rows.items()}  # shifted
        each.frames_THW[FRAMES - 1] = 3000  # flat, and labelled as empty
        each.frames_THW[7] = each.frames_THW[6]  # frozen; the label moves by a pixel or two
        each.write(source)
    ingest(source, "mine", tmp_path / "data", tmp_path / "staging")
    shards.build(tmp_path / "data", tmp_path / "shards", ShardConfig())


def test_a_waiver_of_what_is_not_there_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    waive = ["mnie:frozen", "mine/aa:frozen", "mine/a:frozen", "frozen"]
    shards.build(data_with(tmp_path), tmp_path / "shards", ShardConfig(waive=waive), warn=said.append)
    assert said == [
        "shards: shard.waive names the set 'mnie', which is not there (did you mean 'mine'?)",
        "shards: shard.waive names mine/aa, which is not there (did you mean 'a'?)",
    ]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("frosen", "'frosen' is no kind of finding (did you mean 'frozen'?)"),
        ("mine:shifted", "'shifted' is no kind of finding (did you mean 'shifted-labels'?)"),
        ("mine/a/b:frozen", "write KIND, SET:KIND or SET/SEQUENCE:KIND"),
        ("unreadable", "'unreadable' is no kind of finding"),
        (":frozen", "write KIND, SET:KIND or SET/SEQUENCE:KIND"),
    ],
)
def test_a_waiver_that_says_nothing_is_refused(given: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"shard:\n  waive: ['{given}']\n")
    with pytest.raises(InputError) as refused:
        configuration.load(tmp_path)
    assert says in str(refused.value) and "shard.waive" in str(refused.value) and "\n" not in str(refused.value)
