"""Which key frame a file's name means, and what values a file holds."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import cv2
import numpy as np
import pytest

from irstd.data import predictions
from irstd.data.predictions import Names
from irstd.errors import InputError

SHAPE = (6, 8)


def video(name="s/clouds-a", frames=3, originals=None):
    return Names([(name, i) for i in range(frames)], {name: originals} if originals else {})


def stills(*names, originals=None):
    return Names([(name, 0) for name in names], originals or {})


def resolved(names, *files):
    found, extra = names.resolve(map(PurePosixPath, files))
    return {key: str(path) for key, path in found.items()}, extra


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        "clouds-a/2.png",
        "clouds-a/000002.png",
        "s/clouds-a/02.npy",
        "images/clouds-a/000002.png",
        "out/s/clouds-a/2.png",
    ],
)
def test_sequence_and_frame_with_any_folders_in_front(file):
    assert resolved(video(), file) == ({("s/clouds-a", 2): file}, [])


@pytest.mark.parametrize(
    "file", ["misc_9.png", "s/misc_9.npy", "Misc_9.png", "Misc_9.bmp.png", "out/Misc_9.png", "misc_9/0.png"]
)
def test_a_still_by_its_name_or_that_of_its_original(file):
    names = stills("s/misc_9", "s/misc_40", originals={"s/misc_9": ["Misc_9.bmp"], "s/misc_40": ["Misc_40.bmp"]})
    assert resolved(names, file) == ({("s/misc_9", 0): file}, [])


def test_a_still_below_folders_by_the_original_s_name_alone():
    names = stills("s/test-images-a", originals={"s/test-images-a": ["a.png"]})
    for file in "a.png", "test/images/a.png", "Test-Images-A.npy":
        assert resolved(names, file)[0] == {("s/test-images-a", 0): file}


def test_two_sequences_of_one_name_are_told_apart_by_the_set():
    names = Names([("s/a", 0), ("t/a", 0), ("s/v", 0), ("s/v", 1), ("t/v", 0), ("t/v", 1)], {})
    assert resolved(names, "t/a.png", "t/v/1.png")[0] == {("t/a", 0): "t/a.png", ("t/v", 1): "t/v/1.png"}
    for file in "a.png", "v/1.png":
        with pytest.raises(InputError, match=r"may be of [st]/., [st]/.*folder of the set's name"):
            resolved(names, file)


def test_originals_that_count_from_one_are_found_by_their_names():
    names = video(frames=3, originals=["1.bmp", "2.bmp", "3.bmp"])
    by_name, extra = resolved(names, "clouds-a/1.png", "clouds-a/2.png", "clouds-a/3.png")
    assert by_name["s/clouds-a", 0] == "clouds-a/1.png" and by_name["s/clouds-a", 2] == "clouds-a/3.png" and not extra
    by_number, _ = resolved(names, "clouds-a/0.png", "clouds-a/1.png", "clouds-a/2.png")
    assert by_number["s/clouds-a", 0] == "clouds-a/0.png" and by_number["s/clouds-a", 2] == "clouds-a/2.png"
    # With the original's extension it can be nothing else.
    for file in "clouds-a/2.bmp.png", "clouds-a/2.bmp":
        assert resolved(names, file)[0] == {("s/clouds-a", 1): file}


def test_what_may_be_two_frames_is_refused():
    names = video(frames=5, originals=[f"{i}.bmp" for i in range(1, 6)])
    with pytest.raises(
        InputError, match=r"clouds-a/2.png: may be frame 2 of s/clouds-a, or the original that is frame 1"
    ):
        resolved(names, "clouds-a/2.png", "clouds-a/3.png")


def test_two_files_of_one_frame_are_refused():
    with pytest.raises(InputError, match=r"clouds-a/1.png and clouds-a/0001.npy: are both of frame 1 of s/clouds-a"):
        resolved(video(), "clouds-a/1.png", "clouds-a/0001.npy")


def test_what_is_of_no_key_frame_is_named():
    found, extra = resolved(video(), "clouds-a/0.png", "clouds-a/9.png", "else/0.png", "x.png", "clouds-a/first.png")
    assert list(found) == [("s/clouds-a", 0)]
    assert sorted(extra) == ["clouds-a/9.png", "clouds-a/first.png", "else/0.png", "x.png"]


# -- maps --------------------------------------------------------------------------------------------------------


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def a_map(dtype, *values):
    out = np.zeros(SHAPE, dtype)
    out.flat[: len(values)] = values
    return out


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_the_full_scale_of_integers_is_one(tmp_path, dtype, full):
    png(tmp_path / "clouds-a/0.png", a_map(dtype, full, full // 5, 1))
    png(tmp_path / "clouds-a/1.png", a_map(dtype, 1))  # of one scale with the others, not a mask
    png(tmp_path / "clouds-a/2.png", a_map(dtype))
    found = predictions.read(tmp_path, video())
    assert found.maps["s/clouds-a", 0].ravel()[:3].tolist() == pytest.approx([1, 0.2, 1 / full])
    assert found.maps["s/clouds-a", 1].max() == pytest.approx(1 / full)
    assert found.maps["s/clouds-a", 0].dtype == np.float32
    assert found.form == f"probabilities, {full} is 1" and not found.missing and not found.extra


def test_where_no_file_holds_more_than_one_all_are_masks(tmp_path):
    for i in range(3):
        png(tmp_path / f"clouds-a/{i}.png", a_map(np.uint8, i == 1))
    found = predictions.read(tmp_path, video())
    assert found.maps["s/clouds-a", 1].max() == 1 and found.maps["s/clouds-a", 0].max() == 0
    assert found.form == "masks of 0 and 1"


def test_arrays(tmp_path):
    (tmp_path / "clouds-a").mkdir()
    np.save(tmp_path / "clouds-a/0.npy", a_map(np.float64, 0.25)[None])
    np.save(tmp_path / "clouds-a/1.npy", a_map(bool, True))
    np.save(tmp_path / "clouds-a/2.npy", a_map(np.int64, 1))
    found = predictions.read(tmp_path, video())
    assert [found.maps["s/clouds-a", i].ravel()[0] for i in range(3)] == [0.25, 1, 1]
    assert found.maps.shapes == {("s/clouds-a", i): SHAPE for i in range(3)}


def test_grey_saved_as_colour_is_grey(tmp_path):
    png(tmp_path / "misc_9.png", np.repeat(a_map(np.uint8, 51)[..., None], 3, 2))
    assert predictions.read(tmp_path, stills("s/misc_9")).maps["s/misc_9", 0].ravel()[0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (a_map(np.float32, -3.5, 2), r"misc_9.npy: values lie in \[-3.5, 2\]: apply the sigmoid to logits"),
        (a_map(np.float32, 255), r"misc_9.npy: values lie in \[0, 255\]: divide"),
        (a_map(np.float32, np.nan), "misc_9.npy: holds NaN or infinity"),
        (a_map(np.int64, 255), "holds int64 values up to 255: save uint8, uint16 or floats"),
        (np.zeros((2, *SHAPE), np.float32), r"misc_9.npy: float32 \[2, 6, 8\]: save one map"),
        (np.array(["a"]), "misc_9.npy: .*save one map"),
        (np.array({"a": 1}, object), "misc_9.npy: not readable as NPY"),
    ],
    ids=["logits", "counts", "nan", "int64", "three", "text", "pickle"],
)
def test_what_is_no_map_is_one_line(tmp_path, array, message):
    np.save(tmp_path / "misc_9.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        predictions.read(tmp_path, stills("s/misc_9"))


def test_a_picture_is_no_map(tmp_path):
    png(tmp_path / "misc_9.png", np.stack([a_map(np.uint8, 5), a_map(np.uint8, 6), a_map(np.uint8, 7)], 2))
    with pytest.raises(InputError, match="misc_9.png: 3 channels that differ"):
        predictions.read(tmp_path, stills("s/misc_9"))
    (tmp_path / "misc_9.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match="misc_9.png: damaged"):
        predictions.read(tmp_path, stills("s/misc_9"))


def test_missing_maps_are_told(tmp_path):
    png(tmp_path / "clouds-a/1.png", a_map(np.uint8, 255))
    png(tmp_path / "clouds-a/.hidden.png", a_map(np.uint8, 255))
    png(tmp_path / "clouds-a/7.png", a_map(np.uint8, 255))
    found = predictions.read(tmp_path, video())
    assert found.missing == [("s/clouds-a", 0), ("s/clouds-a", 2)] and found.extra == ["clouds-a/7.png"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no predictions; give PNG or NPY maps, MOT text files"),
        (["a.png", "b.txt"], r"holds maps \(a.png\) and text files \(b.txt\)"),
        (["a.jpg"], "holds no predictions"),
    ],
)
def test_a_folder_of_something_else(tmp_path, files, message):
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(InputError, match=message):
        predictions.read(tmp_path, stills("s/a"))


def test_a_place_that_is_none(tmp_path):
    (tmp_path / "x.csv").touch()
    for place in tmp_path / "x.csv", tmp_path / "none":
        with pytest.raises(InputError, match="--predictions .*(no folder|no such file)"):
            predictions.read(place, stills("s/a"))


# -- boxes -------------------------------------------------------------------------------------------------------


def results(path, tree):
    path.write_text(json.dumps(tree))
    return path


def entry(image, score=0.5, box=(1, 2, 3, 4)):
    return {"image_id": image, "category_id": 1, "bbox": list(box), "score": score}


def test_coco_results_by_file_name(tmp_path):
    place = results(
        tmp_path / "r.json",
        [entry("images/clouds-a/000001.png", 0.9), entry("clouds-a/1.png", 0.2), entry("clouds-a/9")],
    )
    with pytest.raises(InputError, match="are both of frame 1"):
        predictions.read(place, video())
    place = results(
        tmp_path / "r.json", [entry("clouds-a/1", 0.2), entry("clouds-a/1", 0.9, (0, 0, 2, 2)), entry("clouds-a/9")]
    )
    found = predictions.read(place, video())
    boxes_N4, scores_N = found.boxes["s/clouds-a", 1]
    assert boxes_N4.tolist() == [[1, 2, 3, 4], [0, 0, 2, 2]] and scores_N.tolist() == [0.2, 0.9]
    assert len(found.boxes["s/clouds-a", 0][0]) == 0 and found.extra == ["clouds-a/9"] and not found.missing


def test_coco_results_by_id(tmp_path):
    images = [{"id": 7, "file_name": "images/clouds-a/000002.png"}]
    with_images = results(tmp_path / "a.json", {"images": images, "annotations": [entry(7)]})
    alone = results(tmp_path / "b.json", [entry(7)])
    for found in (
        predictions.read(with_images, video()),
        predictions.read(alone, video(), lambda: {7: "images/clouds-a/000002.png"}),
    ):
        assert len(found.boxes["s/clouds-a", 2][0]) == 1
    with pytest.raises(InputError, match="image_id is 7, and nothing says which image .*--images"):
        predictions.read(alone, video())
    with pytest.raises(InputError, match="image_id 7 is none of the 1 images"):
        predictions.read(alone, video(), lambda: {1: "x"})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([{"image_id": "clouds-a/0", "bbox": [1, 2, 3, 4]}], "result 0: has no score"),
        ([entry("clouds-a/0", box=(1, 2, 3))], "result 0: bbox is"),
        ([entry("clouds-a/0", score="high")], "result 0: the score is 'high'"),
        ([entry("clouds-a/0", box=(1, 2, -3, 1))], "a side of -3 px"),
        ([entry("elsewhere/0")], r"no image_id is of a frame of this split \(elsewhere/0\)"),
        ({"images": [], "detections": []}, "no list of results"),
        ({"images": [{"id": 1}], "annotations": [entry(1)]}, "lacks id and file_name"),
        ("text", "no list of results"),
    ],
)
def test_bad_results_are_one_line(tmp_path, tree, message):
    with pytest.raises(InputError, match=message):
        predictions.read(results(tmp_path / "r.json", tree), video())
    (tmp_path / "r.json").write_text("[")
    with pytest.raises(InputError, match="not readable as JSON"):
        predictions.read(tmp_path / "r.json", video())


def test_mot_text(tmp_path):
    (tmp_path / "clouds-a.txt").write_text("1,-1,11,21,3,4,0.75,-1,-1,-1\n3,5,1,1,2,2,.5\n8,-1,1,1,1,1,.1\n")
    (tmp_path / "other.txt").write_text("")
    names = Names([("s/clouds-a", i) for i in range(3)] + [("s/b", 0)], {})
    found = predictions.read(tmp_path, names)
    boxes_N4, scores_N = found.boxes["s/clouds-a", 0]
    assert boxes_N4.tolist() == [[10, 20, 3, 4]] and scores_N.tolist() == [0.75]
    assert len(found.boxes["s/clouds-a", 1][0]) == 0 and len(found.boxes["s/clouds-a", 2][0]) == 1
    assert found.missing == [("s/b", 0)] and found.extra == ["other.txt", "frame 8 of clouds-a.txt"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,-1,1,1,2,2", "line 2: has 6 columns"),
        ("0,-1,1,1,2,2,.5", "line 2: frame 0: MOT counts frames from 1"),
        ("1.5,-1,1,1,2,2,.5", "line 2: the frame is '1.5'"),
        ("1,-1,x,1,2,2,.5", "line 2: a number is 'x'"),
        ("1,-1,1,1,2,-2,.5", "a side of -2 px"),
    ],
)
def test_bad_mot_lines_are_named(tmp_path, line, message):
    (tmp_path / "clouds-a.txt").write_text(f"1,-1,1,1,2,2,.5\n{line}\n")
    with pytest.raises(InputError, match=message):
        predictions.read(tmp_path, video())
