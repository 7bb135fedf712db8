"""One golden case an importer, worked out by hand: boxes (x, y, w, h) are edges from 0, points name pixel centres."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from recordings import frames, shared, write_image, write_video
from test_importers import by_name, found_in, labels

from irstd.data import rle
from irstd.data.annotations import Annotations
from irstd.data.importers import Candidate, Found
from irstd.errors import InputError

IMAGE = frames(1)[0]  # 24 high, 32 wide


def images(root: Path, *names: str) -> None:
    for name in names:
        write_image(root / name, IMAGE)


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def one(found: Found) -> Candidate:
    assert len(found.candidates) == 1, [candidate.name for candidate in found.candidates]
    return found.candidates[0]


def got(candidate: Candidate) -> Annotations:
    return labels(candidate, len(candidate.files))


def state(annotations: Annotations) -> str:
    """t: with targets, e: labelled and empty, u: unlabelled; one letter a frame."""
    return "".join("t" if f.has_target else "e" if f.labelled else "u" for f in annotations.frames)


# -- lists of the moving-target sets ----------------------------------------------------------------------------------


def test_nnlab(tmp_path: Path) -> None:
    images(tmp_path, *(f"images/test/data20/{i}.bmp" for i in range(12)))
    lines = [f"/home/public/DAUB/images/test/data20/{i}.bmp {i},3,{i + 8},9,0" for i in range(10)]
    lines[2] += " 1,1,3.5,2,0"
    lines[3] = "/home/public/DAUB/images/test/data20/3.bmp"
    text(tmp_path / "list.txt", "\r\n".join(lines))
    reason, found = found_in(tmp_path)
    assert reason == "format nnlab: 1 lists of frames with boxes, such as list.txt" and found.published is None
    candidate = one(found)
    assert candidate.name == "data20" and [file.name for file in candidate.files][9:11] == ["9.bmp", "10.bmp"]
    targets = got(candidate)
    # x2 and y2 are exclusive: 2,3,10,9 covers 8 columns and 6 rows.
    assert targets.frames[2].boxes.tolist() == [[2, 3, 8, 6], [1, 1, 2.5, 1]]
    assert targets.frames[9].boxes.tolist() == [[9, 3, 8, 6]] and targets.frames[9].classes == ["target"]
    # A line without a box is empty, a frame without a line unlabelled.
    assert state(targets) == "tttettttttuu"


def test_nnlab_published_lists(tmp_path: Path) -> None:
    images(
        tmp_path, *(f"images/{part}/{i}.bmp" for part in ("train/data5", "test/data6", "test/data7") for i in (0, 1))
    )
    line = "/home/public/DAUB/images/{}/0.bmp 1,2,3,4,0\n"
    text(tmp_path / "coco_train_DAUB.txt", line.format("train/data5"))
    text(tmp_path / "coco_val_DAUB.txt", line.format("test/data6"))
    _, found = found_in(tmp_path)
    assert found.published == "coco_DAUB"
    assert {c.name: c.split for c in found.candidates} == {"data5": "train", "data6": "test", "data7": "unlisted"}
    assert by_name(found)["data7"].annotate is None
    assert found.messages == ["the images of the list 'val' lie in a folder 'test': taken as the split test"]
    text(tmp_path / "coco_train_IRDST.txt", line.format("train/data5"))
    with pytest.raises(InputError, match=r"2 published lists are here: coco_DAUB, coco_IRDST: choose one with --list"):
        found_in(tmp_path)
    assert found_in(tmp_path, list_name="coco_IRDST")[1].published == "coco_IRDST"


def test_paths_of_other_machines(tmp_path: Path) -> None:
    images(tmp_path, "day 1.a/séq/0.png", "day 1.a/other/0.png", "day 2/séq/0.png")
    listed = text(tmp_path / "l.txt", "D:\\data\\day 1.a\\séq\\0.png 1,2,3,4,0\n")
    assert [c.name for c in found_in(tmp_path)[1].candidates if c.annotate] == ["day 1.a/séq"]
    listed.write_text("/x/séq/0.png 1,2,3,4,0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"^l\.txt: line 1: '/x/séq/0\.png' may be any of day 1\.a/séq/0\.png, day 2"):
        found_in(tmp_path)
    # The source may be the folder of one sequence itself.
    images(tmp_path / "alone", "5.png", "6.png")
    text(tmp_path / "alone/l.txt", "/home/DAUB/data5/6.png 1,2,3,4,0\n")
    assert state(got(one(found_in(tmp_path / "alone")[1]))) == "ut"


def test_no_clip_crosses_a_gap_or_a_change_of_split(tmp_path: Path) -> None:
    images(tmp_path, *(f"s/{i}.png" for i in (0, 1, 2, 5, 6, 7, 8)))
    row = "/a/s/{}.png 1,2,3,4,0\n".format
    text(tmp_path / "train.txt", "".join(map(row, (0, 1, 2, 5, 6))))
    text(tmp_path / "val.txt", "".join(map(row, (7, 8))))
    _, found = found_in(tmp_path)
    assert {c.name: (len(c.files), c.split) for c in found.candidates} == {
        "s/0": (3, "train"),
        "s/5": (2, "train"),
        "s/7": (2, "val"),
    }
    assert found.messages == ["s: frame numbers jump (2.png to 5.png): cut there, since no clip may cross a gap"]
    (tmp_path / "val.txt").unlink()
    (tmp_path / "train.txt").rename(tmp_path / "list.txt")
    assert {c.group for c in found_in(tmp_path)[1].candidates} == {"s"}  # no split may come between them


def test_names_that_do_not_count_frames_cut_nothing(tmp_path: Path) -> None:
    names = [f"day 2024-05-01 12-00-{i:02d}.{i * i:03d}.png" for i in range(8)]
    images(tmp_path, *(f"s/{name}" for name in names))
    text(tmp_path / "l.txt", f"/a/s/{names[3]} 1,2,3,4,0\n")
    assert state(got(one(found_in(tmp_path)[1]))) == "uuutuuuu"


def test_nnlab_real_list() -> None:
    _, found = found_in(shared("atr"))
    targets = labels(one(found), 100, 256, 256)
    assert one(found).name == "data20" and one(found).files[9].name == "10.bmp" and state(targets) == "t" * 100
    assert targets.frames[0].boxes.tolist() == [[118, 97, 8, 8]]  # 118,97,126,105
    assert targets.frames[9].boxes.tolist() == [[116, 97, 8, 8]]  # line 10: 116,97,124,105


# -- COCO -------------------------------------------------------------------------------------------------------------


def coco(root: Path, annotations: list[dict] | None = None, **more: object) -> Path:
    """A file of three images (of four that are there), and its annotations."""
    images(root, *(f"images/train/data5/{i}.bmp" for i in range(4)))
    tree = {
        "images": [
            {"id": i + 7, "file_name": f"images/train/data5/{i}.bmp", "width": 32, "height": 24} for i in range(3)
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "bbox": [2.5, 3, 4, 5],
                "area": 0,
                "iscrowd": 0,
                "category_id": 4,
                "segmentation": [[]],
            }
        ]
        if annotations is None
        else annotations,
        "categories": [{"id": 4, "name": "drone"}],
    } | more
    return text(root / "annotations" / "instances.json", json.dumps({k: v for k, v in tree.items() if v is not None}))


def test_coco(tmp_path: Path) -> None:
    coco(
        tmp_path,
        [
            {"id": 1, "image_id": 7, "bbox": [2.5, 3, 4, 5], "area": 0, "iscrowd": 0, "category_id": 4},
            {"id": 2, "image_id": 7, "bbox": [0, 0, 32, 5], "iscrowd": 1, "category_id": 4},
            {"id": 3, "image_id": 8, "bbox": [9, 9, 0, 3], "category_id": 4},
        ],
    )
    reason, found = found_in(tmp_path)
    assert reason == "format coco: 1 COCO files, such as annotations/instances.json"
    targets = got(one(found))
    assert targets.frames[0].boxes.tolist() == [[2.5, 3, 4, 5]] and targets.frames[0].classes == ["drone"]
    assert targets.frames[0].ignore.tolist() == [[0, 0, 32, 5]]
    # A box without width marks a target of unknown size: nothing is claimed there.
    assert targets.frames[1].ignore.tolist() == [[8.5, 9, 1, 3]]
    assert found.messages == ["1 boxes without extent: taken as ignore boxes of 1 px (not scored, no background)"]
    # Listed and without annotation: empty; not listed: unlabelled.
    assert state(targets) == "teeu"


def test_coco_splits_and_names_without_folders(tmp_path: Path) -> None:
    images(tmp_path, "train2017/a.png", "train2017/b.png", "val2017/a.png")
    one_image = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}
    for part in ("train", "val"):
        text(tmp_path / f"annotations/instances_{part}2017.json", json.dumps(one_image))
    _, found = found_in(tmp_path)
    assert found.published == "instances"
    assert {c.name: (c.split, c.annotate is None) for c in found.candidates} == {
        "train2017/a": ("train", False),
        "train2017/b": ("unlisted", True),
        "val2017/a": ("val", False),
    }
    assert any("2 images lie in train2017: each is a sequence of one frame" in each for each in found.messages)


def test_coco_images_of_several_sizes_are_no_sequence(tmp_path: Path) -> None:
    images(tmp_path, "mixed/1.png", "mixed/3.png")
    write_image(tmp_path / "mixed/2.png", IMAGE[:20])
    sizes = {1: 24, 2: 20, 3: 24}
    listed = [{"id": i, "file_name": f"mixed/{i}.png", "width": 32, "height": h} for i, h in sizes.items()]
    text(tmp_path / "a.json", json.dumps({"images": listed, "annotations": [], "categories": []}))
    assert [c.name for c in found_in(tmp_path)[1].candidates] == ["mixed/1", "mixed/2", "mixed/3"]


def test_coco_without_annotations_is_unlabelled(tmp_path: Path) -> None:
    coco(tmp_path, annotations=[], categories=None)
    path = tmp_path / "annotations/instances.json"
    tree = json.loads(path.read_text())
    del tree["annotations"]
    path.write_text(json.dumps(tree))
    _, found = found_in(tmp_path)
    assert found.messages[0] == "annotations/instances.json: has no annotations: its images are unlabelled"


def test_coco_masks(tmp_path: Path) -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[4:6, 10:14] = 1
    packed = coco_mask.encode(np.asfortranarray(mask))
    square = [[1.0, 2.0, 5.0, 2.0, 5.0, 4.0]]  # a triangle: more than its box
    base = {"image_id": 7, "category_id": 4, "iscrowd": 0}
    boxed = [
        base
        | {"id": 1, "bbox": [10, 4, 4, 2], "segmentation": {"size": [24, 32], "counts": packed["counts"].decode()}},
        base | {"id": 2, "bbox": [10, 4, 4, 2], "segmentation": {"size": [24, 32], "counts": rle.encode(mask)}},
        base | {"id": 3, "bbox": [1, 2, 4, 2], "segmentation": square},
    ]
    coco(tmp_path, boxed)
    targets = got(one(found_in(tmp_path)[1]))
    assert targets.masks and targets.frames[0].points[:2].tolist() == [[11.5, 4.5], [11.5, 4.5]]
    found = rle.decode(targets.frames[0].mask, 24, 32)
    assert found[4:6, 10:14].all() and found[2, 2:4].all() and found.sum() > 8
    assert targets.frames[1].mask == [24 * 32] and targets.frames[3].mask is None
    # The box written as a polygon says nothing of the shape.
    coco(tmp_path, [base | {"id": 1, "bbox": [10, 4, 4, 2], "segmentation": [[10, 4, 14, 4, 14, 6, 10, 6]]}])
    assert not got(one(found_in(tmp_path)[1])).masks


# -- YOLO -------------------------------------------------------------------------------------------------------------


def test_yolo(tmp_path: Path) -> None:
    images(tmp_path, *(f"images/train/seq/{i}.png" for i in range(3)), "images/val/still.png")
    text(tmp_path / "labels/train/seq/0.txt", "1 0.25 0.5 0.125 0.25\n0 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5\n")
    text(tmp_path / "labels/train/seq/1.txt", "")
    text(tmp_path / "labels/val/still.txt", "0 .5 .5 .0625 .0833333333\n")
    text(tmp_path / "data.yaml", "train: images/train\nnames: {0: bird, 1: drone}\n")
    reason, found = found_in(tmp_path)
    assert reason == "format yolo: 3 label files `class cx cy w h`, such as labels/train/seq/0.txt"
    candidates = by_name(found)
    assert {name: c.split for name, c in candidates.items()} == {"seq": "train", "still": "val"}
    targets = got(candidates["seq"])
    # 32x24: the centre is at (8, 12), the size 4x6. Of a polygon the box is taken.
    np.testing.assert_allclose(targets.frames[0].boxes, [[6, 9, 4, 6], [3.2, 2.4, 6.4, 9.6]], atol=1e-4)
    assert targets.frames[0].classes == ["drone", "bird"]
    assert state(targets) == "tee"  # an empty file and no file are both empty
    assert found.messages == ["1 images without a label file: taken as empty, as YOLO has it"]
    np.testing.assert_allclose(got(candidates["still"]).frames[0].boxes, [[15, 11, 2, 2]], atol=1e-4)
    text(tmp_path / "images/train/seq.yaml", "labelled: listed\n")
    assert state(got(by_name(found_in(tmp_path)[1])["seq"])) == "teu"


# -- Pascal VOC -------------------------------------------------------------------------------------------------------

XML = """<annotation><filename>{name}.png</filename><size><width>32</width><height>24</height></size>{objects}</annotation>"""
OBJECT = (
    "<object><name>drone</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def test_voc(tmp_path: Path) -> None:
    images(tmp_path, *(f"JPEGImages/{name}.png" for name in "abc"), "SegmentationClass/a.png")
    text(
        tmp_path / "Annotations/a.xml",
        XML.format(name="a", objects=OBJECT.format(0, 1, 1, 32, 24) + OBJECT.format(1, 3, 4, 3, 5)),
    )
    text(tmp_path / "Annotations/b.xml", XML.format(name="b", objects=""))
    reason, found = found_in(tmp_path)
    assert reason == "format voc: 2 XML files, such as Annotations/a.xml" and found.published is None
    candidates = by_name(found)
    # Pixels from 1, both ends inside: 1..32 is the whole width; 3..3 is the third pixel.
    targets = got(candidates["a"])
    assert targets.frames[0].boxes.tolist() == [[0, 0, 32, 24]] and targets.frames[0].classes == ["drone"]
    assert targets.frames[0].ignore.tolist() == [[2, 3, 1, 2]]
    assert state(got(candidates["b"])) == "e" and candidates["c"].annotate is None
    text(tmp_path / "ImageSets/Main/train.txt", "a\n")
    text(tmp_path / "ImageSets/Main/val.txt", "b\n")
    _, found = found_in(tmp_path)
    assert {c.name: c.split for c in found.candidates} == {"a": "train", "b": "val", "c": "unlisted"}


# -- MOT --------------------------------------------------------------------------------------------------------------


def test_mot(tmp_path: Path) -> None:
    images(tmp_path, *(f"SET-train/A/img1/{i:06d}.png" for i in (1, 2, 3)), "SET-test/B/img1/000001.png")
    rows = "1,1,3,5,4.5,6,1,1,1\n1,2,1,1,2,2,0,1,1\n3,1,10,10,2,2\n"
    text(tmp_path / "SET-train/A/gt/gt.txt", rows)
    info = "[Sequence]\nname=A\nimDir=img1\nframeRate=30\nseqLength=3\nimWidth=32\nimHeight=24\nimExt=.png\n"
    text(tmp_path / "SET-train/A/seqinfo.ini", info)
    text(tmp_path / "SET-test/B/seqinfo.ini", info)
    reason, found = found_in(tmp_path)
    assert reason == "format mot: 2 sequences, 1 with gt/gt.txt"
    a, b = by_name(found)["A"], by_name(found)["B"]
    assert (a.split, b.split, a.fps, b.annotate) == ("train", "test", 30, None)
    targets = got(a)
    # The first pixel and the first frame are called 1.
    assert targets.frames[0].boxes.tolist() == [[2, 4, 4.5, 6]] and targets.frames[0].ignore.tolist() == [[0, 0, 2, 2]]
    assert targets.frames[2].boxes.tolist() == [[9, 9, 2, 2]] and targets.frames[2].classes == ["target"]
    assert state(targets) == "tet"


# -- points -----------------------------------------------------------------------------------------------------------


def test_points(tmp_path: Path) -> None:
    images(tmp_path, *(f"s/{i}.png" for i in (9, 10, 11)), "t/1.png")
    text(tmp_path / "s/points.csv", "frame,file,x,y\n0,9.png,0,0\n1,10.png,31,23\n1,10.png,4.5,5\n")
    reason, found = found_in(tmp_path)
    assert reason == "format points: 1 folders of frames with a points.csv"
    targets = got(by_name(found)["s"])
    # (0, 0) is the centre of the first pixel, (31, 23) that of the last.
    assert [frame.points.tolist() for frame in targets.frames] == [[[0, 0]], [[31, 23], [4.5, 5]], []]
    assert state(targets) == "tte" and by_name(found)["t"].annotate is None
    write_video(tmp_path / "video" / "a.mkv", frames())
    text(tmp_path / "video" / "a.csv", "frame,x,y\n2,7,8\n")
    assert labels(one(found_in(tmp_path / "video")[1])).frames[2].points.tolist() == [[7, 8]]


def test_points_real() -> None:
    _, found = found_in(shared("istd_hahamyt"))
    assert {c.name: len(c.files) for c in found.candidates} == {"seq3_101": 99, "seq4_000": 70, "seq4_070": 63}
    targets = labels(by_name(found)["seq3_101"], 99, 512, 640)
    assert targets.frames[0].points.tolist() == [[263, 437]] and targets.target_frames == 99


def test_csv_ignore_column(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", frames())
    text(tmp_path / "a.csv", "frame,x,y,w,h,ignore\n1,2,3,4,5,0\n1,0,0,9,9,1\n2,0,0,9,9,1\n")
    targets = labels(one(found_in(tmp_path)[1]))
    assert targets.frames[1].boxes.tolist() == [[2, 3, 4, 5]] and targets.frames[1].ignore.tolist() == [[0, 0, 9, 9]]
    assert state(targets) == "eteeee" and len(targets.frames[2].ignore) == 1


# -- masks a sequence -------------------------------------------------------------------------------------------------


def masks(root: Path, *names: str) -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[2:4, 5:8] = 255
    for name in names:
        write_image(root / name, mask)


def test_mirsdt(tmp_path: Path) -> None:
    numbers = [f"{i:05d}" for i in (1, 2, 3)]
    for name in ("Sequence1", "Sequence47"):
        images(tmp_path, *(f"{name}/images/{i}.png" for i in numbers))
        masks(tmp_path, *(f"{name}/masks/{i}.png" for i in numbers[:2]))
        images(tmp_path, f"{name}/masks_centroid/00001.png")
    text(tmp_path / "train.txt", "Sequence1/Mix/00001.mat\nSequence1/Mix/00002.mat\n")
    text(tmp_path / "test.txt", "Sequence47/Mix/00001.mat\n")
    reason, found = found_in(tmp_path)
    assert reason == "format mirsdt: 2 folders with images/ and masks/, such as Sequence1"
    assert {c.name: c.split for c in found.candidates} == {"Sequence1": "train", "Sequence47": "test"}
    targets = got(by_name(found)["Sequence1"])
    assert targets.masks and state(targets) == "ttu"
    assert targets.frames[0].boxes.tolist() == [[5, 2, 3, 2]] and targets.frames[0].points.tolist() == [[6, 2.5]]


def test_irstd_uav(tmp_path: Path) -> None:
    names = [f"1/{i:08d}.png" for i in range(48, 53)]
    images(tmp_path, *(f"images/{name}" for name in names), "matches/1/00000048/match_1.png")
    masks(tmp_path, *(f"labels/{name}" for name in names))
    text(tmp_path / "train.txt", f"/Dataset/IRSTD-UAV/images/{names[0]} 4,2,9,5,0\n")
    text(tmp_path / "val.txt", f"/Dataset/IRSTD-UAV/images/{names[3]} 5,2,8,4,0\n")
    coco_image = {"id": 1, "file_name": f"images/{names[0]}"}
    text(tmp_path / "train_coco.json", json.dumps({"images": [coco_image], "annotations": [], "categories": []}))
    reason, found = found_in(tmp_path)
    assert reason == "format irstd-uav: 5 masks labels/SEQUENCE/NAME beside images/SEQUENCE/NAME"
    # A recording starts anew at every fiftieth frame.
    assert {c.name: (len(c.files), c.split) for c in found.candidates} == {
        "1/00000048": (2, "train"),
        "1/00000050": (3, "val"),
    }
    targets = got(by_name(found)["1/00000048"])
    assert targets.masks and targets.frames[0].boxes.tolist() == [[4, 2, 5, 3]]  # the list's
    assert targets.frames[1].boxes.tolist() == [[5, 2, 3, 2]]  # not listed: the mask's


def test_irstd_1k_and_nudt_sirst_layouts(tmp_path: Path) -> None:
    images(tmp_path / "k", "IRSTD1k_Img/XDU1.png", "IRSTD1k_Img/XDU10.png")
    masks(tmp_path / "k", "IRSTD1k_Label/XDU1.png", "IRSTD1k_Label/XDU10.png")
    text(tmp_path / "k/trainval.txt", "XDU1\n")
    text(tmp_path / "k/test.txt", "XDU10\n")
    reason, found = found_in(tmp_path / "k")
    assert reason == "format sirst: 2 files in IRSTD1k_Img/ and 2 in IRSTD1k_Label/" and found.published == "lists"
    assert {c.name: c.split for c in found.candidates} == {"XDU1": "train", "XDU10": "test"}
    assert got(found.candidates[0]).frames[0].boxes.tolist() == [[5, 2, 3, 2]]
    images(tmp_path / "n", "images/000001.png", "images/000002.png")
    masks(tmp_path / "n", "masks/000001.png", "masks/000002.png")
    text(tmp_path / "n/50_50/train.txt", "000001\n")
    text(tmp_path / "n/50_50/test.txt", "000002\n")
    _, found = found_in(tmp_path / "n")
    assert found.published == "50_50" and {c.name: c.split for c in found.candidates} == {
        "000001": "train",
        "000002": "test",
    }


# -- recognition ------------------------------------------------------------------------------------------------------


def test_two_formats_at_once_are_the_users_to_choose(tmp_path: Path) -> None:
    coco(tmp_path)
    text(tmp_path / "train_X.txt", "/x/images/train/data5/0.bmp 1,2,3,4,0\n")
    with pytest.raises(
        InputError,
        match=r"may be of 2 formats \(nnlab: 1 lists .*; coco: 1 COCO files.*\): choose one with --format NAME$",
    ):
        found_in(tmp_path)
    assert got(one(found_in(tmp_path, "coco")[1])).frames[0].boxes.tolist() == [[2.5, 3, 4, 5]]
    assert got(one(found_in(tmp_path, "nnlab")[1])).frames[0].boxes.tolist() == [[1, 2, 2, 2]]


def test_numbers_beside_images_are_no_yolo_where_they_are_pixels(tmp_path: Path) -> None:
    """As DMIST has them beside its lists; in labels/ they are a mistake to be told of."""
    images(tmp_path, "s/0.png")
    text(tmp_path / "s/0.txt", "97 118 105 126 0")
    assert found_in(tmp_path)[0].startswith("format simple")
    text(tmp_path / "s/0.txt", "0 .5 .5 .25 .25")
    assert found_in(tmp_path)[0].startswith("format yolo")
