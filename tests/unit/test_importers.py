"""What each importer makes of a source folder, and that recognition says what it saw."""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from recordings import frames, shared, write_image, write_video

from irstd.data import rle
from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.importers import Candidate, Found, choose, scan
from irstd.errors import InputError


def found_in(source: Path, format: str = "auto", list_name: str | None = None) -> tuple[str, Found]:
    listing = scan(source)
    importer, reason = choose(listing, format)
    return reason, importer.read(listing, list_name)


def by_name(found: Found) -> dict[str, Candidate]:
    return {candidate.name: candidate for candidate in found.candidates}


def labels(candidate: Candidate, count: int = 6, height: int = 24, width: int = 32) -> Annotations:
    assert candidate.annotate is not None
    return candidate.annotate(count, height, width)


# -- simple ---------------------------------------------------------------------------------------------------------


def test_simple_finds_videos_images_and_folders_of_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "day 1" / "cam.mkv", frames())
    write_image(tmp_path / "still.png", frames(1)[0])
    for i in (10, 9, 1):
        write_image(tmp_path / "seq.7" / f"{i}.png", frames(1)[0])
    (tmp_path / "seq.7.csv").write_text("frame,x,y,w,h\n2,1,2,3,4\n")
    (tmp_path / ".cache").mkdir()
    write_image(tmp_path / ".cache" / "x.png", frames(1)[0])
    reason, found = found_in(tmp_path)
    assert reason == "format simple: 1 videos and 4 images"
    candidates = by_name(found)
    assert set(candidates) == {"day 1/cam", "still", "seq.7"}
    assert [file.name for file in candidates["seq.7"].files] == ["1.png", "9.png", "10.png"]
    assert labels(candidates["seq.7"], 3).frames[2].boxes.tolist() == [[1, 2, 3, 4]]
    assert candidates["still"].annotate is None and candidates["still"].group is None


def test_simple_csv(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", frames())
    # As spreadsheets write it: a byte order mark, CRLF, columns in any order.
    text = "class,frame,x,y,w,h\r\nbird,1,5,6,2.5,2\r\n,1,9,9,1,1\r\n\r\n,3,,,,\r\n"
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    _, found = found_in(tmp_path / "a.mkv")
    got = labels(found.candidates[0])
    assert [frame.labelled for frame in got.frames] == [True] * 6
    assert got.frames[1].boxes.tolist() == [[5, 6, 2.5, 2], [9, 9, 1, 1]]
    assert got.frames[1].classes == ["bird", "target"]
    assert got.target_frames == 1

    (tmp_path / "a.yaml").write_text("labelled: listed\n")
    got = labels(found_in(tmp_path)[1].candidates[0])
    assert [frame.labelled for frame in got.frames] == [False, True, False, True, False, False]
    assert len(got.frames[3].boxes) == 0


def test_sidecars(tmp_path: Path) -> None:
    write_video(tmp_path / "x" / "a.mkv", frames())
    write_video(tmp_path / "x" / "b.mkv", frames())
    (tmp_path / "irstd.yaml").write_text("bit_depth: 14\nlicence: CC0-1.0\n")
    (tmp_path / "x" / "irstd.yaml").write_text("fps: 12.5\ngroup: Field 1\n")
    (tmp_path / "x" / "b.yaml").write_text("bit_depth: 12\n")
    candidates = by_name(found_in(tmp_path)[1])
    a, b = candidates["x/a"], candidates["x/b"]
    assert (a.bit_depth, a.licence, a.fps, a.group) == (14, "CC0-1.0", 12.5, "Field 1")
    assert (b.bit_depth, b.licence, b.fps, b.group) == (12, "CC0-1.0", 12.5, "Field 1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bitdepth: 14", r"unknown key 'bitdepth' \(did you mean 'bit_depth'\?\); known: bit_depth, fps, labelled"),
        ("bit_depth: 17", "bit_depth is 17: give a whole number from 1 to 16"),
        ("bit_depth: true", "bit_depth is True"),
        ("fps: 0", "fps is 0: give a number above 0"),
        ("labelled: some", "labelled is 'some': give all or listed"),
        ("group: ''", "group is '': give a name"),
        ("- a", "expected a mapping"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_bad_sidecars(tmp_path: Path, text: str, says: str) -> None:
    write_video(tmp_path / "a.mkv", frames())
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"^a\.yaml: .*{says}") as caught:
        found_in(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column 'frame' in its first line: expected frame,x,y,w,h,class"),
        ("frame,x,y,w\n", "no column 'h'"),
        ("frame,x,y,w,h,clas\n", r"unknown column 'clas' \(did you mean 'class'\?\)"),
        ("frame;x;y;w;h\n", "separated by ';': save it with commas"),
        ("frame,x,y,w,h\n1,2,3\n", "line 2 has 3 columns, its header 5"),
        ("frame,x,y,w,h\n1.5,2,3,4,5\n", "line 2: frame is '1.5': give a whole number"),
        ("frame,x,y,w,h\n-1,2,3,4,5\n", "line 2: frame is -1: frames are counted from 0"),
        ("frame,x,y,w,h\n1,2,3,4,\n", "line 2: x,y,w,h are '2,3,4,': give four numbers, or none"),
        ("frame,x,y,w,h\n1,,,,\n1,2,3,4,5\n", "frame 1 has an empty row and a box: remove one"),
        ("frame,x,y,w,h\n1,2,nan,4,5\n", "frame 1: .*not finite"),
        ("frame,x,y,w,h\n6,2,3,4,5\n", r"has targets for frame 6, but the recording has 6 frames \(0 to 5\)"),
        ("frame,x,y,w,h\n1,40,3,4,5\n", "frame 1: .*wholly outside the frame of 32x24"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, says: str) -> None:
    write_video(tmp_path / "a.mkv", frames())
    (tmp_path / "a.csv").write_text(text)
    candidate = found_in(tmp_path)[1].candidates[0]
    with pytest.raises(InputError, match=rf"^a\.csv: .*{says}") as caught:
        labels(candidate)
    assert "\n" not in str(caught.value)


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", frames(1)[0])
    write_image(tmp_path / "b.png", frames(1)[0])
    (tmp_path / "c.csv").write_text("frame,x,y,w,h\n")
    images, csv = found_in(tmp_path)[1].messages
    assert images.startswith("2 images lie in the source itself: each is a sequence of one frame")
    assert csv == "not read, no recording of that name beside it: c.csv"


def test_links_that_leave_the_source_are_refused(tmp_path: Path) -> None:
    outside = write_video(tmp_path / "outside" / "a.mkv", frames())
    source = tmp_path / "source"
    write_video(source / "b.mkv", frames())
    os.symlink(source / "b.mkv", source / "inside.mkv")
    assert len(found_in(source)[1].candidates) == 2
    for target in (outside, outside.parent):
        os.symlink(target, source / "link.mkv")
        with pytest.raises(
            InputError, match=r"^link\.mkv: is a link that leaves .*: copy the file in, or remove the link"
        ):
            scan(source)
        (source / "link.mkv").unlink()
    os.symlink(source / "gone", source / "link.mkv")
    with pytest.raises(InputError, match=r"^link\.mkv: is a link to nothing"):
        scan(source)


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no recording")
    with pytest.raises(InputError, match="no recordings found: give a folder with videos"):
        found_in(tmp_path)
    with pytest.raises(InputError, match=r"notes\.txt: not a recording: give a video"):
        scan(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="missing: no such file or folder"):
        scan(tmp_path / "missing")
    write_video(tmp_path / "a.mkv", frames())
    with pytest.raises(InputError, match=r"--format halmsted: unknown \(did you mean 'halmstad'\?\)"):
        found_in(tmp_path, "halmsted")
    with pytest.raises(InputError, match="not of the format 'sirst': leave --format out"):
        found_in(tmp_path, "sirst")
    with pytest.raises(InputError, match="--list x: the format 'simple' has no published lists: leave --list out"):
        found_in(tmp_path, list_name="x")


# -- native ---------------------------------------------------------------------------------------------------------


def test_native(tmp_path: Path) -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[3, 4] = 1
    written = Annotations(
        [FrameTargets(i, i != 2, [[4, 3, 1, 1]] if i == 0 else []) for i in range(6)],
    )
    write_video(tmp_path / "a.mkv", frames(bits=14))
    (tmp_path / "a.annotations.json").write_text(written.to_json())
    (tmp_path / "a.yaml").write_text('bit_depth: 14\ngroup: "a"\n')
    write_video(tmp_path / "b.mkv", frames())
    reason, found = found_in(tmp_path)
    assert reason == "format native: 1 files *.annotations.json"
    candidates = by_name(found)
    assert labels(candidates["a"]).digest() == written.digest()
    assert candidates["a"].bit_depth == 14 and candidates["b"].annotate is None
    with pytest.raises(InputError, match=r"^a\.annotations\.json: has targets for frame 5, but the recording has 5"):
        labels(candidates["a"], 5)
    (tmp_path / "c.annotations.json").write_text(written.to_json())
    with pytest.raises(InputError, match=r"^c\.annotations\.json: no recording of that name beside it: add the"):
        found_in(tmp_path)


# -- Halmstad -------------------------------------------------------------------------------------------------------


def test_halmstad_layout(tmp_path: Path) -> None:
    for name in ("IR_BIRD_020", "IR_BIRD_029", "IR_DRONE_101"):
        write_video(tmp_path / "Video_IR" / f"{name}.mp4", np.repeat(frames()[..., None], 3, axis=3))
        (tmp_path / "labels_csv").mkdir(exist_ok=True)
        (tmp_path / "labels_csv" / f"{name}.csv").write_text("frame,class,x,y,w,h\n1,BIRD,3.5,2,4,4\n1,BIRD,1,1,2,2\n")
    (tmp_path / "LICENSE").write_text("Creative Commons Legal Code\n\nCC0 1.0 Universal\n")
    reason, found = found_in(tmp_path)
    assert reason == "format halmstad: 3 videos IR_CLASS_NNN.mp4"
    groups = {candidate.name: candidate.group for candidate in found.candidates}
    assert groups == {"IR_BIRD_020": "ir_bird-00x", "IR_BIRD_029": "ir_bird-00x", "IR_DRONE_101": "ir_drone-05x"}
    assert {candidate.licence for candidate in found.candidates} == {"CC0-1.0"}
    # MATLAB calls the first pixel 1: the golden case of the shift.
    got = labels(found.candidates[0])
    assert got.frames[1].boxes.tolist() == [[2.5, 1, 4, 4], [0, 0, 2, 2]] and got.frames[1].classes == ["BIRD", "BIRD"]
    assert got.labelled_frames == 6 and got.target_frames == 1
    (tmp_path / "labels_csv" / "IR_BIRD_020.csv").unlink()
    (tmp_path / "labels_csv" / "IR_BIRD_029.csv").unlink()
    (tmp_path / "Video_IR" / "IR_BIRD_020_LABELS.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut")
    damaged, bare, _ = found_in(tmp_path)[1].candidates
    with pytest.raises(InputError, match=r"^Video_IR/IR_BIRD_020_LABELS\.mat: not readable as MATLAB labels .*: copy"):
        labels(damaged)
    assert bare.annotate is None


@pytest.mark.parametrize("inside", ["", "some"])
def test_a_part_of_halmstad_with_its_tables_in_the_folder(tmp_path: Path, inside: str) -> None:
    """Taken for a folder of plain videos, all of them would be without labels."""
    write_video(tmp_path / inside / "IR_BIRD_020.mp4", np.repeat(frames()[..., None], 3, axis=3))
    (tmp_path / inside / "labels_csv").mkdir()
    (tmp_path / inside / "labels_csv" / "IR_BIRD_020.csv").write_text("frame,class,x,y,w,h\n1,BIRD,3.5,2,4,4\n")
    reason, found = found_in(tmp_path)
    assert reason == "format halmstad: 1 videos IR_CLASS_NNN.mp4"
    assert labels(found.candidates[0]).frames[1].boxes.tolist() == [[2.5, 1, 4, 4]]


def test_matlab_objects_give_what_the_tables_give(tmp_path: Path) -> None:
    """All real label files, by both ways to the canonical form, to the bit."""
    folder = shared("halmstad")
    (tmp_path / "Video_IR").mkdir()
    for path in (folder / "Video_IR").iterdir():
        if path.suffix == ".mat":
            shutil.copy(path, tmp_path / "Video_IR")
        else:
            (tmp_path / "Video_IR" / path.name).touch()
    count = {
        row["video"]: int(row["frames"]) for row in csv.DictReader((folder / "videos.csv").read_text().splitlines())
    }
    tables, objects = by_name(found_in(folder)[1]), by_name(found_in(tmp_path)[1])
    assert len(objects) == 49 and set(objects) == set(tables)
    for name, candidate in objects.items():
        assert candidate.annotate is not None and tables[name].annotate is not None
        got = candidate.annotate(count[name], 256, 320)
        assert got.digest() == tables[name].annotate(count[name], 256, 320).digest(), name
        assert got.target_frames > 250


def test_halmstad_real_labels() -> None:
    folder = shared("halmstad")
    _, found = found_in(folder)
    assert len(found.candidates) == 49 and len({candidate.group for candidate in found.candidates}) == 9
    got = labels(by_name(found)["IR_DRONE_067"], 306, 256, 320)
    assert (got.labelled_frames, got.target_frames) == (306, 304)
    rows = (folder / "labels_csv" / "IR_DRONE_068.csv").read_text().splitlines()
    assert rows[1] == "0,DRONE,210.0,8.0,13.0,10.0"
    first = labels(by_name(found)["IR_DRONE_068"], 313, 256, 320).frames[0]
    assert first.boxes.tolist() == [[209, 7, 13, 10]] and first.classes == ["DRONE"]


# -- SIRST ----------------------------------------------------------------------------------------------------------


def sirst(root: Path, lists: dict[str, str]) -> Path:
    """Five images: a has two targets, b none, c is RGBA, d has its mask under its own name, e has no mask."""
    for i, name in enumerate("abcde"):
        write_image(root / "images" / f"{name}.png", frames(1, seed=i)[0])
    mask = np.zeros((24, 32), np.uint8)
    write_image(root / "masks" / "b_pixels0.png", mask)
    mask[2:4, 5:8] = 255
    mask[20, 30] = 128  # the least that is target
    mask[10, 10] = 127
    for name in ("a_pixels0", "c_pixels0", "d"):
        write_image(root / "masks" / f"{name}.png", mask)
    write_image(root / "backgrounds" / "sky.png", frames(1, seed=9)[0])
    for path, text in lists.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    return root


def test_sirst_layout(tmp_path: Path) -> None:
    sirst(tmp_path, {"idx_1/train.txt": "a\r\nb\r\n", "idx_1/test.txt": "images/c.png\n\n"})
    reason, found = found_in(tmp_path)
    assert reason == "format sirst: 5 files in images/ and 4 in masks/" and found.published == "idx_1"
    candidates = by_name(found)
    assert {name: c.split for name, c in candidates.items()} == {
        "a": "train",
        "b": "train",
        "c": "test",
        "d": "unlisted",
        "e": "unlisted",
        "backgrounds/sky": "unlisted",
    }
    got = labels(candidates["a"], 1)
    assert got.masks and got.frames[0].boxes.tolist() == [[5, 2, 3, 2], [30, 20, 1, 1]]
    assert got.frames[0].points.tolist() == [[6, 2.5], [30, 20]]
    mask = rle.decode(got.frames[0].mask, 24, 32)
    assert mask.sum() == 7 and mask[20, 30] and not mask[10, 10]
    assert labels(candidates["d"], 1).to_json() == got.to_json()
    for empty in (labels(candidates["b"], 1), labels(candidates["backgrounds/sky"], 1)):
        assert (empty.labelled_frames, empty.target_frames) == (1, 0)
    assert candidates["e"].annotate is None
    assert all(candidate.group is None for candidate in found.candidates)


def test_sirst_lists(tmp_path: Path) -> None:
    lists = {"img_idx/train_ONE.txt": "a\n", "img_idx/test_ONE.txt": "b\n", "idx_2/trainval.txt": "c\n"}
    sirst(tmp_path, lists)
    with pytest.raises(InputError, match=r"2 published lists are here: .*idx_2.*: choose one with --list NAME"):
        found_in(tmp_path)
    with pytest.raises(InputError, match=r"--list idx_3: no such list \(did you mean 'idx_2'\?\)"):
        found_in(tmp_path, list_name="idx_3")
    found = found_in(tmp_path, list_name="ONE")[1]
    assert found.published == "img_idx/ONE" and by_name(found)["b"].split == "test"
    assert by_name(found_in(tmp_path, list_name="idx_2")[1])["c"].split == "train"
    # Where train and val are told apart, trainval says nothing more.
    (tmp_path / "idx_2" / "val.txt").write_text("b\n")
    assert by_name(found_in(tmp_path, list_name="idx_2")[1])["c"].split == "unlisted"


def test_sirst_without_lists_is_split_by_us(tmp_path: Path) -> None:
    _, found = found_in(sirst(tmp_path, {}))
    assert found.published is None and {candidate.split for candidate in found.candidates} == {None}


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"idx_1/val.txt": "a\nz\n"}, r"^idx_1/val\.txt: names 'z', which images/ does not hold: complete"),
        ({"idx_1/val.txt": "a\n", "idx_1/test.txt": "a\n"}, r"'a' is in '(val|test)' too: an image has one split"),
        ({"idx_1/val.txt": "e\n"}, r"^images/e\.png: the list idx_1 names it, and it has no mask masks/e\.png"),
    ],
)
def test_sirst_lists_that_do_not_fit(tmp_path: Path, lists: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        found_in(sirst(tmp_path, lists))


def test_sirst_masks_that_do_not_fit(tmp_path: Path) -> None:
    sirst(tmp_path, {})
    write_image(tmp_path / "masks" / "a_pixels0.png", np.zeros((25, 31), np.uint8))
    write_image(tmp_path / "masks" / "b_pixels0.png", np.eye(24, 32, dtype=np.uint8))
    candidates = by_name(found_in(tmp_path)[1])
    with pytest.raises(
        InputError, match=r"^masks/a_pixels0\.png: the mask is 31x25 pixels, its image images/a\.png 32x24"
    ):
        labels(candidates["a"], 1)
    with pytest.raises(InputError, match=r"^masks/b_pixels0\.png: values up to 1 \(uint8\): give a mask of 0 and 255"):
        labels(candidates["b"], 1)
    with pytest.raises(InputError, match=r"^images/c\.png: has 2 pages"):
        labels(candidates["c"], 2)


def test_sirst_real_layout() -> None:
    _, found = found_in(shared("sirst"))
    assert Counter(candidate.split for candidate in found.candidates) == {"train": 256, "val": 85, "unlisted": 40}
    assert found.published == "idx_427"
