"""From a source to data/: added, unchanged, refused; bad input leaves data/ as it was."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recordings import frames, shared, tree, write_image, write_video

from irstd.data import sequence, splits, staging
from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.doctor.integrity import broken
from irstd.data.ingest import IngestReport, ingest, remove
from irstd.errors import InputError, WorkError

CSV = "frame,x,y,w,h\n1,3,4,5,6\n"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., IngestReport]:
    """ingest(source, "s", **options) into tmp_path/data; what is staged is gone afterwards."""

    def call(source: Path, name: str = "s", **options) -> IngestReport:
        try:
            return ingest(source, name, tmp_path / "data", tmp_path / "staging", **options)
        finally:
            assert not any((tmp_path / "staging").glob("*"))

    return call


def recordings(source: Path, names: str = "abcd") -> Path:
    """A video and its boxes for each letter; what is there stays, since Matroska numbers its files at random."""
    for i, name in enumerate(names):
        if not (source / f"{name}.mkv").exists():
            write_video(source / f"{name}.mkv", frames(bits=14, seed=i))
            (source / f"{name}.csv").write_text(CSV)
    return source


def test_files_that_were_not_read_are_named(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    source = recordings(tmp_path / "source", "ab")
    (source / "a.yaml").write_text("bit_depth: 14\n")
    assert not [message for message in run(source).messages if message.startswith("not read")]
    for name in ("thermal.seq", "list.txt", "notes.md", "c.csv", ".hidden"):
        (source / name).write_text(CSV)
    # Labels and sidecars of recordings that are there already count as read.
    line = next(message for message in run(source).messages if message.startswith("not read: "))
    assert line == "not read: 4 of 9 files of the source: c.csv, list.txt, notes.md and 1 more"


def test_a_sequence_on_disk(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    source = recordings(tmp_path / "source", "a")
    write_video(source / "Night 2" / "cam.1.mkv", frames(4), fps=9.0)
    for i in range(11):
        write_image(source / "seq" / f"{i}.png", frames(1, bits=16, seed=i)[0])
    (source / "a.yaml").write_text("bit_depth: 14\nlicence: CC0-1.0\ngroup: Field\n")
    steps: list = []
    report = run(source, progress=lambda *step: steps.append(step))
    assert report.added == ["a", "night-2-cam-1", "seq"] and report.unlabelled == ["night-2-cam-1", "seq"]
    assert report.messages[0].startswith("format simple: 2 videos")
    assert any("2 of 3 have no labels" in message for message in report.messages)
    assert [name for *_, name in steps] == report.added and steps[-1][0] == steps[-1][1] > 0

    a, night, seq = sequence.sequences(tmp_path / "data", "s")
    assert sequence.sets(tmp_path / "data") == ["s"]
    assert (a.folder / "a.mkv").read_bytes() == (source / "a.mkv").read_bytes()
    written = json.loads((a.folder / "sequence.json").read_text())
    images = frames(bits=14, seed=0)
    low, middle, high = np.percentile(images, [0.5, 50, 99.5])
    assert written == {
        "schema": 1,
        "set": "s",
        "name": "a",
        "source": ["a.mkv"],
        "source_sha256": tree(source)["a.mkv"],
        "annotations_sha256": tree(a.folder)["annotations.json"],
        "frames": 6,
        "fps": 25.0,
        "height": 24,
        "width": 32,
        "bit_depth": 14,
        "dtype": "uint16",
        "grey_rule": "none",
        "intensity": {
            "min": int(images.min()),
            "max": 16383,
            "median": round(middle, 4),
            "p005": round(low, 4),
            "p995": round(high, 4),
        },
        "licence": "CC0-1.0",
        "group": "field",
        "labelled_frames": 6,
        "target_frames": 1,
        "notes": [],
    }
    np.testing.assert_array_equal(np.stack(list(a.read())), images)
    assert a.annotations().frames[1].boxes.tolist() == [[3, 4, 5, 6]]
    assert (night.fps, night.group, night.annotations_sha256, night.labelled) == (9.0, "night-2-cam-1", None, False)
    assert [frame.labelled for frame in night.annotations().frames] == [False] * 4
    assert seq.source == tuple(f"frames/{i}.png" for i in range(11)) and seq.fps is None
    np.testing.assert_array_equal(np.stack(list(seq.read()))[10], frames(1, bits=16, seed=10)[0])


def test_again_is_a_no_op(tmp_path: Path, run: Callable[..., IngestReport], monkeypatch: pytest.MonkeyPatch) -> None:
    source = recordings(tmp_path / "source")
    for i in range(3):
        write_image(source / "seq" / f"{i}.png", frames(1)[0])
    run(source)
    before = tree(tmp_path / "data")

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(staging, "open_recording", never)
    report = run(source)
    assert (report.added, report.updated) == ([], []) and len(report.unchanged) == 5
    assert tree(tmp_path / "data") == before


def test_each_recording_is_decoded_once(
    tmp_path: Path, run: Callable[..., IngestReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    from irstd.data.video import Recording

    decoded: Counter[str] = Counter()
    raw = Recording._raw

    def counted(self: Recording):
        for image in raw(self):
            decoded[self.path.name] += 1
            yield image

    monkeypatch.setattr(Recording, "_raw", counted)
    run(recordings(tmp_path / "source"))
    assert decoded == {f"{name}.mkv": 6 for name in "abcd"}


def test_new_recordings_are_added(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    run(recordings(tmp_path / "source", "abcd"))
    before, given = tree(tmp_path / "data"), splits.read(tmp_path / "data" / "s")
    assert given["method"] == "balanced" and set(given["groups"].values()) == set(splits.SPLITS)
    report = run(recordings(tmp_path / "source", "abcdefgh"))
    assert (report.added, report.unchanged) == (["e", "f", "g", "h"], ["a", "b", "c", "d"])
    after = splits.read(tmp_path / "data" / "s")
    assert given["groups"].items() <= after["groups"].items() and len(after["groups"]) == 8
    del before["s/splits.json"]
    assert before.items() <= tree(tmp_path / "data").items()


@pytest.mark.parametrize("what", ["recording", "labels", "labels gone", "bit depth"])
def test_a_change_needs_update(tmp_path: Path, run: Callable[..., IngestReport], what: str) -> None:
    source = recordings(tmp_path / "source")
    run(source)
    before = tree(tmp_path / "data")
    options: dict = {}
    if what == "recording":
        write_video(source / "b.mkv", frames(bits=14, seed=77))
    elif what == "labels":
        (source / "b.csv").write_text(CSV + "2,3,4,5,6\n")
    elif what == "labels gone":
        (source / "b.csv").unlink()
    else:
        (source / "b.yaml").write_text("bit_depth: 14\n")
    with pytest.raises(InputError, match=rf"^s/b \({what.split(' gone')[0]}\): differs .*--update.*another --name"):
        run(source, **options)
    assert tree(tmp_path / "data") == before
    report = run(source, update=True, **options)
    assert report.updated == ["b"] and report.unchanged == ["a", "c", "d"]
    b = sequence.load(tmp_path / "data" / "s" / "b")
    assert b.source_sha256 == tree(source)["b.mkv"] and b.bit_depth == (14 if what == "bit depth" else 16)
    assert b.labelled == (what != "labels gone") and b.annotations().target_frames == {"labels": 2}.get(
        what, b.labelled
    )
    assert {k: v for k, v in before.items() if "/b/" not in k}.items() <= tree(tmp_path / "data").items()
    assert run(source).unchanged == ["a", "b", "c", "d"]


def _empty_folder(source: Path) -> None:
    shutil.rmtree(source)
    source.mkdir()


def _native_too_long(source: Path) -> None:
    for path in source.glob("*.csv"):
        path.unlink()
    text = Annotations([FrameTargets(i, True) for i in range(7)]).to_json()
    (source / "e.annotations.json").write_text(text)


def _change_and_new(source: Path) -> None:
    (source / "a.csv").write_text(CSV + "2,1,1,1,1\n")


BAD: dict[str, tuple[Callable[[Path], object], dict, str]] = {
    "empty folder": (_empty_folder, {}, r"no recordings found: give a folder with videos"),
    "labels longer": (
        lambda s: (s / "e.csv").write_text(CSV + "6,1,2,3,4\n"),
        {},
        r"^e\.csv: has targets for frame 6, but the recording has 6 frames .*counted from 0",
    ),
    "annotations longer": (
        _native_too_long,
        {"name": "t"},
        r"^e\.annotations\.json: has targets for frame 6, but .*has 6 frames",
    ),
    "nan": (
        lambda s: (s / "e.csv").write_text("frame,x,y,w,h\n1,nan,4,5,6\n"),
        {},
        r"^e\.csv: line 2: frame 1: .*not finite: give",
    ),
    "negative": (
        lambda s: (s / "e.csv").write_text("frame,x,y,w,h\n1,3,4,-5,6\n"),
        {},
        r"^e\.csv: line 2: frame 1: .*no area",
    ),
    "outside": (
        lambda s: (s / "e.csv").write_text("frame,x,y,w,h\n1,32,4,5,6\n"),
        {},
        r"^e\.csv: line 2: frame 1: .*outside",
    ),
    "bit depth": (
        lambda s: None,
        {"bit_depth": 12, "name": "t"},
        r"^a\.mkv: frame \d has a count of \d+, 12 bits end at 4095: declare",
    ),
    "two depths": (
        lambda s: (s / "e.yaml").write_text("bit_depth: 14"),
        {"bit_depth": 15},
        r"^e\.mkv: --bit-depth says 15, its sidecar 14: leave out the wrong one",
    ),
    "one slug": (
        lambda s: write_image(s / "E.png", frames(1)[0]),
        {},
        r"^(E\.png and e\.mkv|e\.mkv and E\.png): both would be called 'e': rename one",
    ),
    "no slug": (lambda s: write_image(s / "空.png", frames(1)[0]), {}, r"^'空': no letter or digit .*: rename it"),
    "name of bytes": (
        lambda s: (s / "e.mkv").rename(s / os.fsdecode(b"\xfcber.mkv")),
        {},
        r"^'\\udcfcber\.mkv': this name is no text in UTF-8 .*: rename it",
    ),
    "name of two lines": (
        lambda s: (s / "e.mkv").rename(s / "x\ny.mkv"),
        {},
        r"^'x\\ny\.mkv': this name is no .* of one line: rename it",
    ),
    "change": (_change_and_new, {}, r"^s/a \(labels\): differs from what is there, .*--update"),
    "link": (lambda s: os.symlink(__file__, s / "x.mkv"), {}, r"^x\.mkv: is a link that leaves"),
    "link to a folder": (lambda s: os.symlink("/", s / "x"), {}, r"^x: is a link that leaves .*: copy the file in, or"),
    "link to nothing": (lambda s: os.symlink("gone.mkv", s / "x.mkv"), {}, r"^x\.mkv: is a link to nothing: copy"),
    "group-by": (lambda s: None, {"group_by": "(x"}, r"^--group-by \(x: not a regular expression"),
    "group-by without group": (lambda s: None, {"group_by": "x"}, r"^--group-by x: has no group: put .* in \( \)"),
    "group-by finds none": (lambda s: None, {"group_by": "(x)"}, r"^a: --group-by \(x\) finds no group in it: correct"),
    "format": (lambda s: None, {"format": "sirst"}, r"not of the format 'sirst'"),
    "list": (lambda s: None, {"list_name": "x"}, r"--list x: the format 'simple' has no published lists"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_leaves_data_as_it_was(tmp_path: Path, run: Callable[..., IngestReport], name: str) -> None:
    damage, options, says = BAD[name]
    run(recordings(tmp_path / "source"))
    before = tree(tmp_path / "data")
    damage(recordings(tmp_path / "source", "abcde"))
    with pytest.raises(InputError, match=says) as caught:
        run(tmp_path / "source", **options)
    assert "\n" not in str(caught.value) and caught.value.status == 2
    assert tree(tmp_path / "data") == before


@pytest.mark.parametrize("name", ["", "My Set", "a/b", "../x", ".", "Ü"])
def test_names_of_sets_are_slugs(tmp_path: Path, run: Callable[..., IngestReport], name: str) -> None:
    with pytest.raises(InputError):
        run(recordings(tmp_path / "source", "a"), name)
    assert not (tmp_path / "data").exists()


def test_an_error_in_the_last_step_is_undone(
    tmp_path: Path, run: Callable[..., IngestReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = recordings(tmp_path / "source")
    run(source)
    before = tree(tmp_path / "data")
    recordings(source, "abcdef")
    (source / "a.csv").write_text(CSV + "2,1,1,1,1\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        run(source, update=True)
    assert tree(tmp_path / "data") == before
    with pytest.raises(OSError, match="No space"):
        run(source, "new")
    assert sequence.sets(tmp_path / "data") == ["s"] and not (tmp_path / "data" / "new").exists()


def test_groups(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    for day in "1234":
        recordings(tmp_path / "source" / f"day{day}", "ab")
    run(tmp_path / "source", group_by=r"^(day\d)/", licence="MIT")
    found = sequence.sequences(tmp_path / "data", "s")
    assert Counter(each.group for each in found) == dict.fromkeys(["day1", "day2", "day3", "day4"], 2)
    assert {each.licence for each in found} == {"MIT"}
    given = splits.read(tmp_path / "data" / "s")
    assert set(given["groups"]) == {"day1", "day2", "day3", "day4"}
    assert Counter(splits.split_of(each, given) for each in found) == dict.fromkeys(splits.SPLITS, 2)
    # What is not said again is no change; another group is one that --update does not allow either.
    assert len(run(tmp_path / "source").unchanged) == 8
    with pytest.raises(InputError, match=r"its group was 'day1' and would become 'a': a group is given once"):
        run(tmp_path / "source", group_by=r"/(\w)$", update=True)


def test_unlabelled_sequences_of_a_group(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    source = recordings(tmp_path / "source", "abcdef")
    for name in "ef":
        (source / f"{name}.csv").unlink()
    run(source, group_by="([abcd]|(?:e|f))")
    given = splits.read(tmp_path / "data" / "s")
    found = {each.name: splits.split_of(each, given) for each in sequence.sequences(tmp_path / "data", "s")}
    assert set(given["groups"]) == set("abcd") and found["e"] == found["f"] == "unlabelled"


def test_fewer_than_three_groups_have_no_split(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    run(recordings(tmp_path / "source", "ab"))
    given = splits.read(tmp_path / "data" / "s")
    assert given["groups"] == {}
    assert splits.split_of(sequence.sequences(tmp_path / "data", "s")[0], given) is None
    run(recordings(tmp_path / "source", "abc"))
    assert sorted(splits.read(tmp_path / "data" / "s")["groups"].values()) == ["test", "train", "val"]


def test_published_splits(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    source, names = tmp_path / "source", [f"n{i}" for i in range(12)]
    for i, name in enumerate(names):
        write_image(source / "images" / f"{name}.png", frames(1, seed=i)[0])
        write_image(source / "masks" / f"{name}.png", np.full((24, 32), 255 * (i % 2), np.uint8))
    (source / "img_idx").mkdir()
    (source / "img_idx" / "train_X.txt").write_text("\n".join(names[:10]))
    (source / "img_idx" / "test_X.txt").write_text(names[10])
    run(source)
    given = splits.read(tmp_path / "data" / "s")
    assert given["method"] == "published:img_idx/X + val: 0.2 of its train groups"
    assert Counter(given["groups"].values()) == {"train": 8, "val": 2, "test": 1, "unlisted": 1}
    assert given["groups"]["n10"] == "test" and given["groups"]["n11"] == "unlisted"
    assert len(run(source).unchanged) == 12
    with pytest.raises(InputError, match=r"^s: its splits are 'published:img_idx/X', .*'balanced': .*another --name"):
        run(recordings(tmp_path / "other"))
    (source / "img_idx" / "test_X.txt").write_text(names[11])
    (source / "img_idx" / "train_X.txt").write_text("\n".join(names[:11]))
    with pytest.raises(InputError, match=r"^group 'n1[01]' is in .* and would move to .*: a group never moves"):
        run(source)


def test_across_file_systems(tmp_path: Path, run: Callable[..., IngestReport], monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def fenced(source: Path, target: Path) -> None:
        if ("staging" in str(source)) != ("staging" in str(target)):
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(staging.os, "rename", fenced)
    run(recordings(tmp_path / "source"))
    assert len(sequence.sequences(tmp_path / "data", "s")) == 4
    assert not list((tmp_path / "data").rglob(".*"))


def test_remove(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    source = recordings(tmp_path / "source")
    run(source)
    given = splits.read(tmp_path / "data" / "s")
    remove(tmp_path / "data", "s", "b")
    assert [each.name for each in sequence.sequences(tmp_path / "data", "s")] == ["a", "c", "d"]
    assert run(source).added == ["b"] and splits.read(tmp_path / "data" / "s") == given
    with pytest.raises(
        InputError,
        match=r"^no sequence 'aa' in the set s \(did you mean 'a'\?\): its sequences are the folders in data/s/",
    ):
        remove(tmp_path / "data", "s", "aa")
    for other in ("t", "../data/s", "."):
        with pytest.raises(InputError, match=rf"^no set '{re.escape(other)}' in .*; there are: s$"):
            remove(tmp_path / "data", other, "a")
    for name in "abcd":
        remove(tmp_path / "data", "s", name)
    assert sequence.sets(tmp_path / "data") == [] and not any((tmp_path / "data").iterdir())


def test_a_recording_that_changed_in_data_is_noticed(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    run(recordings(tmp_path / "source", "a"))
    a = sequence.load(tmp_path / "data" / "s" / "a")
    write_video(a.recording, frames(5, bits=14))
    with pytest.raises(WorkError, match=r"^s/a: a\.mkv gives 5 frames, recorded are 6: restore the recording"):
        list(a.read())
    write_video(a.recording, frames(6, 26, 32, bits=14))
    with pytest.raises(WorkError, match=r"^s/a: a\.mkv gives frames of \(26, 32\) uint16, recorded are"):
        list(a.read())
    (a.folder / "sequence.json").write_text('{"schema": 9}')
    with pytest.raises(InputError, match=r"sequence\.json: not of schema 1: ingest the recording again"):
        sequence.load(a.folder)
    with pytest.raises(InputError, match=r"no sequence here \(sequence\.json is missing\)"):
        sequence.load(tmp_path)


def test_what_lies_in_data_is_compared_with_what_was_ingested(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    source = recordings(tmp_path / "source", "a")
    for name, count in (("seq", 3), ("single", 1)):  # folders of frames
        for i in range(count):
            write_image(source / name / f"{i}.png", frames(1, seed=i)[0])
    run(source)
    found = {each.name: each for each in sequence.sequences(tmp_path / "data", "s")}
    for each in found.values():
        assert each.recompute_sha256() == each.source_sha256 and broken(each) is None
    write_image(found["seq"].folder / "frames" / "1.png", frames(1, seed=9)[0])
    assert found["seq"].recompute_sha256() != found["seq"].source_sha256
    assert broken(found["seq"]) == "frames is altered (sha256); dvc checkout data.dvc"
    (found["single"].folder / "frames" / "0.png").unlink()
    assert broken(found["single"]) == "frames/0.png is missing; dvc checkout data.dvc"
    (found["seq"].folder / "annotations.json").write_text("{}")
    with pytest.raises(InputError, match=r"^s/seq/annotations\.json: was put there by hand"):
        found["seq"].annotations()


def test_labels_edited_in_data_are_refused_and_update_brings_them_back(
    tmp_path: Path, run: Callable[..., IngestReport]
) -> None:
    source = recordings(tmp_path / "source")
    run(source)
    before = tree(tmp_path / "data")
    a = sequence.load(tmp_path / "data" / "s" / "a")
    path = a.folder / "annotations.json"
    path.write_text(path.read_text().replace("[3,4,5,6]", "[4,4,5,6]").replace("3.0", "4.0"))
    assert tree(tmp_path / "data") != before
    with pytest.raises(InputError, match=r"^s/a/annotations\.json: is altered \(sha256\): .*--update"):
        a.annotations()
    assert "is altered" in str(broken(a))
    with pytest.raises(InputError, match=r"^s/a \(labels\): differs"):
        run(source)
    assert run(source, update=True).updated == ["a"] and tree(tmp_path / "data") == before


def test_what_a_killed_call_left_is_swept(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    source = recordings(tmp_path / "source")
    run(source)
    before = tree(tmp_path / "data")
    shutil.copytree(tmp_path / "data" / "s" / "a", tmp_path / "data" / "s" / ".b.removed")
    shutil.copytree(tmp_path / "data" / "s", tmp_path / "data" / ".s.removed")
    shutil.copytree(tmp_path / "data" / "s" / "a", tmp_path / "data" / "s" / ".a.new")
    (tmp_path / "data" / "s" / ".splits.json.x1").touch()
    assert sequence.sets(tmp_path / "data") == ["s"]
    assert not run(source).splits_changed
    assert tree(tmp_path / "data") == before
    (tmp_path / "data" / "s" / "splits.json").unlink()
    report = run(source)
    assert report.splits_changed and not report.added and tree(tmp_path / "data") == before


def test_slug() -> None:
    assert sequence.slug("Day 1/Cam.2") == "day-1-cam-2"
    assert sequence.slug("Übung__Süd-3") == "ubung__sud-3"
    assert sequence.slug("--a--") == "a"
    for bad in ("", "...", "空", "a" * 300):
        with pytest.raises(InputError):
            sequence.slug(bad)


def test_real_halmstad_videos(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    real = shared("halmstad")
    for name in ("IR_BIRD_001", "IR_DRONE_067", "IR_DRONE_068"):
        for part in (f"Video_IR/{name}.mp4", f"labels_csv/{name}.csv"):
            (tmp_path / "source" / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real / part, tmp_path / "source" / part)
    shutil.copyfile(real / "LICENSE", tmp_path / "source" / "LICENSE")
    report = run(tmp_path / "source", "halmstad")
    assert report.added == ["ir_bird_001", "ir_drone_067", "ir_drone_068"]
    bird, drone, other = sequence.sequences(tmp_path / "data", "halmstad")
    assert (bird.frames, drone.frames, drone.labelled_frames, drone.target_frames) == (310, 306, 306, 304)
    assert drone.group == other.group == "ir_drone-05x" and drone.licence == "CC0-1.0"
    # Two groups only: the shard step will ask for blocks.
    assert splits.read(tmp_path / "data" / "halmstad")["groups"] == {}


def test_real_sirst(tmp_path: Path, run: Callable[..., IngestReport]) -> None:
    report = run(shared("sirst"), "sirst")
    assert len(report.added) == 381 and report.unlabelled == []
    found = sequence.sequences(tmp_path / "data", "sirst")
    given = splits.read(tmp_path / "data" / "sirst")
    assert Counter(splits.split_of(each, given) for each in found) == {"train": 256, "val": 85, "unlisted": 40}
    assert Counter(each.grey_rule for each in found) == {"equal-channels": 188, "bt601": 129, "none": 64}
    assert sum(each.target_frames for each in found) == 341
    assert sum(len(each.annotations().frames[0].boxes) for each in found) == 424
