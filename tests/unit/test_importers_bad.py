"""Faults of annotations: each gives one clear line and leaves data/ as it was; the next good ingest works.

What people's tools take is taken here too, with a count: those cases are in the second table.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import tree, write_image
from test_importers_formats import IMAGE, OBJECT, XML, coco, images, masks, text

from irstd.data import sequence
from irstd.data.ingest import ingest
from irstd.errors import InputError

Build = Callable[[Path], Any]
NNLAB = "/home/DAUB/images/{}.bmp {}\n".format
INFO = "[Sequence]\nimDir=img1\nframeRate=30\nimWidth={}\nimHeight=24\n"
LAUGHS = '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def nnlab(content: str | bytes, name: str = "list.txt") -> Build:
    def build(root: Path) -> None:
        images(root, *(f"s/{i}.bmp" for i in range(4)))
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return build


def table(content: str | bytes) -> Build:
    def build(root: Path) -> None:
        images(root, *(f"s/{i}.png" for i in range(4)))
        (root / "s.csv").write_bytes(content.encode() if isinstance(content, str) else content)

    return build


def points(content: str) -> Build:
    return lambda root: (images(root, "s/8.png", "s/9.png", "s/10.png"), text(root / "s/points.csv", content))


def annotated(**changes: Any) -> Build:
    """A COCO file whose only annotation is changed; None takes a key out."""
    base = {"id": 1, "image_id": 7, "bbox": [2, 3, 4, 5], "iscrowd": 0, "category_id": 4} | changes
    return lambda root: coco(root, [{key: value for key, value in base.items() if value is not None}])


def coco_raw(content: str | bytes) -> Build:
    def build(root: Path) -> None:
        coco(root).write_bytes(content.encode() if isinstance(content, str) else content)

    return build


def listed(*names: str, **more: Any) -> Build:
    return lambda root: coco(root, [], images=[{"id": i, "file_name": name} | more for i, name in enumerate(names)])


def yolo(content: str, extra: dict[str, str] | None = None) -> Build:
    def build(root: Path) -> None:
        images(root, "images/s/0.png", "images/s/1.png")
        text(root / "labels/s/0.txt", "0 .5 .5 .1 .1\n")
        text(root / "labels/s/1.txt", content)
        for name, value in (extra or {}).items():
            text(root / name, value)

    return build


def voc(content: str, extra: dict[str, str] | None = None) -> Build:
    def build(root: Path) -> None:
        images(root, "JPEGImages/a.png", "JPEGImages/b.png")
        text(root / "Annotations/a.xml", content)
        text(root / "Annotations/b.xml", XML.format(name="b", objects=""))
        for name, value in (extra or {}).items():
            text(root / name, value)

    return build


def boxed(*corners: object) -> str:
    return XML.format(name="a", objects=OBJECT.format(0, *corners))


def mot(content: str, info: str = INFO.format(32)) -> Build:
    def build(root: Path) -> None:
        images(root, *(f"s/img1/{i:06d}.png" for i in (1, 2, 3)))
        text(root / "s/gt/gt.txt", content)
        text(root / "s/seqinfo.ini", info)

    return build


def sirst(mask: np.ndarray | None, lists: dict[str, str] | None = None) -> Build:
    def build(root: Path) -> None:
        images(root, "images/a.png", "images/b.png")
        masks(root, "masks/a.png")
        if mask is not None:
            write_image(root / "masks/a.png", mask)
        for name, value in (lists or {}).items():
            text(root / name, value)

    return build


def mirsdt(lists: dict[str, str], mask: np.ndarray | None = None) -> Build:
    def build(root: Path) -> None:
        images(root, "Sequence1/images/00001.png", "Sequence2/images/00001.png")
        masks(root, "Sequence1/masks/00001.png", "Sequence2/masks/00001.png")
        if mask is not None:
            write_image(root / "Sequence1/masks/00001.png", mask)
        for name, value in lists.items():
            text(root / name, value)

    return build


def leaving(build: Build, name: str) -> Build:
    """The file `name` is a link to one outside of the source."""

    def made(root: Path) -> None:
        build(root)
        outside = root.parent / "outside"
        (root / name).rename(outside)
        os.symlink(outside, root / name)

    return made


def slugs(*names: str) -> Build:
    def build(root: Path) -> None:
        images(root, *(f"{name}/0.bmp" for name in names))
        text(root / "list.txt", "".join(f"/x/{name}/0.bmp 1,2,3,4,0\n" for name in names))

    return build


RAMP = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (24, 1))
RED = np.zeros((24, 32, 3), np.uint8)
RED[4:6, 4:6, 2] = 255
GOOD = NNLAB("s/0", "1,2,3,4,0")

# {what is wrong: (how the source is made, what is said)}
BAD: dict[str, tuple[Build, str]] = {
    # lists
    "nnlab nan": (
        nnlab(GOOD + NNLAB("s/1", "1,nan,3,4,0")),
        r"^list\.txt: line 2: box '1,nan,3,4,0': 'nan' is 'nan', not finite",
    ),
    "nnlab infinite": (nnlab(NNLAB("s/1", "1,2,inf,4,0")), r"^list\.txt: line 1: .*not finite"),
    "nnlab text": (nnlab(GOOD + NNLAB("s/1", "1,b,3,4,0")), r"line 2: .*'b': give a number"),
    "nnlab negative size": (
        nnlab(NNLAB("s/1", "5,2,3,4,0")),
        r"line 1: box \(5, 2, -2, 2\) has a negative size: correct",
    ),
    "nnlab three numbers": (
        nnlab(GOOD + NNLAB("s/1", "1,2,3")),
        r"line 2: box '1,2,3' has 3 numbers: write x1,y1,x2,y2,class",
    ),
    "nnlab class": (nnlab(NNLAB("s/1", "1,2,3,4,0.5")), r"line 1: the class is '0\.5': give a whole number"),
    "nnlab outside": (
        nnlab(GOOD + NNLAB("s/1", "32,2,35,4,0")),
        r"^list\.txt: line 2: frame 1: box .* wholly outside the frame of 32x24",
    ),
    "nnlab twice": (
        nnlab(GOOD + GOOD),
        r"^list\.txt: line 2: s/0\.bmp has an entry before \(list\.txt: line 1\): join them",
    ),
    "nnlab missing": (
        nnlab(GOOD + NNLAB("s/9", "1,2,3,4,0")),
        r"^list\.txt: line 2: names '/home/.*9\.bmp', and no image \.\.\./s/9\.bmp is in the source",
    ),
    "nnlab other folder": (
        nnlab(NNLAB("t/0", "1,2,3,4,0")),
        r"no image \.\.\./t/0\.bmp is in the source: complete the set",
    ),
    "nnlab dots": (nnlab(NNLAB("../s/0", "1,2,3,4,0")), r"line 1: .* has '\.\.' in it: write the path from"),
    "nnlab prose": (
        nnlab(GOOD + "see the readme\n"),
        r"^list\.txt: line 2: 'see the readme' does not begin with an image",
    ),
    "nnlab latin-1": (
        nnlab((GOOD + "/d/s\xe9q/1.bmp 1,2,3,4,0\n").encode("latin-1")),
        r"^list\.txt: line 2: byte 0xe9 is not UTF-8 \(Latin-1\?\): save",
    ),
    "nnlab utf-16 without mark": (nnlab(GOOD.encode("utf-16-le")), r"not of the format 'nnlab'"),
    "nnlab empty": (nnlab(""), r"not of the format 'nnlab'"),
    "nnlab link": (leaving(nnlab(GOOD), "list.txt"), r"^list\.txt: is a link that leaves"),
    "nnlab two splits": (
        lambda r: (nnlab(GOOD, "train.txt")(r), nnlab(GOOD, "test.txt")(r)),
        r"s/0\.bmp is in 't\w+' too \(t\w+\.txt: line 1\): an image has one split",
    ),
    "nnlab frame numbers twice": (
        lambda r: (nnlab(GOOD)(r), images(r, "s/00.bmp")),
        r"^s/00?\.bmp and 00?\.bmp: both are frame 0: remove one",
    ),
    # tables
    "csv nan": (table("frame,x,y,w,h\r\n1,nan,2,3,4\r\n"), r"^s\.csv: line 2: frame 1: box .*not finite"),
    "csv infinite": (table("frame,x,y,w,h\n1,1,2,inf,4\n"), r"^s\.csv: line 2: frame 1: box .*not finite"),
    "csv negative": (table("frame,x,y,w,h\n\n1,1,2,-3,4\n"), r"^s\.csv: line 3: frame 1: .*no area"),
    "csv outside": (table("frame,x,y,w,h\n1,1,-9,3,4\n"), r"^s\.csv: line 2: frame 1: .*wholly outside"),
    "csv latin-1": (table(b"frame,x,y,w,h,class\n1,1,2,3,4,m\xf6we\n"), r"^s\.csv: line 2: byte 0xf6 is not UTF-8"),
    "csv latin-1, old line ends": (table(b"frame,x,y,w,h,class\r1,1,2,3,4,m\xf6we\r"), r"^s\.csv: line 2: byte 0xf6"),
    "csv zero bytes": (table(b"frame,x\0,y,w,h\n"), r"^s\.csv: holds zero bytes"),
    "csv empty": (table(""), r"^s\.csv: no column 'frame' in its first line"),
    "csv beyond": (table("frame,x,y,w,h\n4,1,2,3,4\n"), r"^s\.csv: has targets for frame 4, but the recording has 4"),
    "csv ignore": (
        table("frame,x,y,w,h,ignore\n1,1,2,3,4,maybe\n"),
        r"^s\.csv: line 2: ignore is 'maybe': give 0 or 1",
    ),
    "csv column twice": (table("frame,x,y,w,h,x\n1,1,2,3,4,5\n"), r"^s\.csv: the column 'x' is there twice"),
    "points outside": (
        points("frame,x,y\n0,31.6,3\n"),
        r"^s/points\.csv: line 2: frame 0: point \(31\.6, 3\) lies outside",
    ),
    "points file": (
        points("frame,file,x,y\n0,8.png,1,1\n1,10.png,1,1\n"),
        r"line 3: frame 1 is 9\.png, the row says 10\.png: count",
    ),
    "points one number": (points("frame,x,y\n0,1,\n"), r"line 2: x,y are '1,': give two numbers"),
    # COCO
    "coco no json": (
        coco_raw('{"images": [], "annotations": [}'),
        r"^annotations/instances\.json: not readable as JSON .*line 1",
    ),
    "coco cut": (coco_raw('{"images": [{"id": 1'), r"^annotations/instances\.json: not readable as JSON"),
    "coco latin-1": (coco_raw(b'{"images": [{"id": 1, "file_name": "\xe9"}]}'), r"line 1: byte 0xe9 is not UTF-8"),
    "coco empty file": (coco_raw(""), r"not of the format 'coco'"),
    "coco unknown image": (
        annotated(image_id=99),
        r"1 annotations are of images that 'images' does not list \(image_id 99\): complete",
    ),
    "coco no image": (
        annotated(image_id=None),
        r"annotations are of images that 'images' does not list \(image_id None\)",
    ),
    "coco nan": (
        annotated(bbox=[float("nan"), 1, 2, 3]),
        r"annotations\[0\] \(id 1\): a number of bbox is nan, not finite",
    ),
    "coco infinite": (
        annotated(bbox=[1, 1, float("inf"), 3]),
        r"annotations\[0\] \(id 1\): a number of bbox is inf, not finite",
    ),
    "coco negative": (annotated(bbox=[1, 1, -2, 3]), r"annotations\[0\] \(id 1\): box .* has a negative size"),
    "coco three numbers": (annotated(bbox=[1, 1, 2]), r"\(id 1\): bbox is \[1, 1, 2\]: give \[x, y, width, height\]"),
    "coco no bbox": (annotated(bbox=None), r"\(id 1\): bbox is None: give"),
    "coco outside": (annotated(bbox=[40, 1, 2, 3]), r"images\[0\]: frame 0: box .* wholly outside"),
    "coco crowd outside": (annotated(bbox=[40, 1, 2, 3], iscrowd=1), r"images\[0\]: frame 0: ignore .* wholly outside"),
    "coco no categories": (lambda r: coco(r, categories=None), r"'categories' is missing, or no list of objects"),
    "coco unknown category": (annotated(category_id=5), r"\(id 1\): category_id 5 is not in 'categories': add it"),
    "coco other folder": (
        listed("images/train/data6/0.bmp"),
        r"images\[0\]: names 'images/train/data6/0\.bmp', and no image \.\.\./data6/0\.bmp is in the source",
    ),
    "coco missing file": (
        listed("images/train/data5/9.bmp"),
        r"images\[0\]: names '.*9\.bmp', and no image .* in the source",
    ),
    "coco dots": (listed("../0.bmp"), r"images\[0\]: '\.\./0\.bmp' has '\.\.' in it"),
    "coco listed twice": (
        listed("images/train/data5/0.bmp", "data5/0.bmp"),
        r"images\[1\]: .*0\.bmp has an entry before \(.*images\[0\]\)",
    ),
    "coco ids twice": (
        lambda r: coco(r, [], images=[{"id": 1, "file_name": f"data5/{i}.bmp"} for i in (0, 1)]),
        r"images\[1\]: id 1 is another image's too",
    ),
    "coco another size": (
        listed("data5/0.bmp", width=640, height=512),
        r"images\[0\]: is for 640x512 pixels, the image has 32x24",
    ),
    "coco polygon": (
        annotated(segmentation=[[1, 2, 3, 4, 5]]),
        r"images\[0\]: a polygon is no list of three or more points",
    ),
    "coco run lengths": (
        annotated(segmentation={"size": [24, 32], "counts": [5, 5]}),
        r"the run lengths of a segmentation do not fill the image",
    ),
    "coco packed run lengths": (
        annotated(segmentation={"size": [24, 32], "counts": "zzz"}),
        r"do not fill the image: encode it again",
    ),
    "coco mask of another size": (
        annotated(segmentation={"size": [9, 9], "counts": [81]}),
        r"a segmentation is \[9, 9\] \(height, width\)",
    ),
    "coco link": (leaving(lambda r: coco(r), "annotations/instances.json"), r"instances\.json: is a link that leaves"),
    # YOLO
    "yolo nan": (yolo("0 nan .5 .1 .1\n"), r"^labels/s/1\.txt: line 1: a coordinate is 'nan', not finite"),
    "yolo infinite": (yolo("0 .5 .5 inf .1\n"), r"^labels/s/1\.txt: line 1: a coordinate is 'inf', not finite"),
    "yolo nan in the first file": (
        lambda r: (
            yolo("")(r),
            text(r / "labels/s/0.txt", "0 nan .5 .1 .1\n"),
            text(r / "labels/s/1.txt", "0 .5 .5 .1 .1"),
        ),
        r"^labels/s/0\.txt: line 1: a coordinate is 'nan', not finite",
    ),
    "yolo pixels": (yolo("\n0 16 12 4 4\n"), r"line 2: 16 12 4 4 are no fractions of the image: divide"),
    "yolo negative": (yolo("0 .5 .5 -.1 .1\n"), r"line 1: box .* has a negative size"),
    "yolo six": (yolo("0 .5 .5 .1 .1 .9\n"), r"line 1: has 6 numbers: write class cx cy w h"),
    "yolo class": (yolo("3 .5 .5 .1 .1\n", {"classes.txt": "a\nb\n"}), r"line 1: class 3 has no name: .* 2 are named"),
    "yolo names": (yolo("", {"data.yaml": "names: [a"}), r"^data\.yaml: not readable as YAML"),
    # VOC
    "voc billion laughs": (
        voc(LAUGHS + "]><annotation>&i;</annotation>"),
        r"^Annotations/a\.xml: line 1: has a DTD or an entity",
    ),
    "voc external": (
        voc('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'),
        r"has a DTD or an entity, .*: remove it",
    ),
    "voc cut": (voc("<annotation>\n<object>"), r"^Annotations/a\.xml: not readable as XML \(no element found: line 2"),
    "voc empty": (voc(""), r"^Annotations/a\.xml: not readable as XML"),
    "voc entity": (voc("<annotation>&nbsp;</annotation>"), r"not readable as XML \(undefined entity"),
    "voc nan": (voc(boxed("nan", 2, 3, 4)), r"object 1: xmin is 'nan', not finite"),
    "voc infinite": (voc(boxed(1, 2, "inf", 4)), r"object 1: xmax is 'inf', not finite"),
    "voc reversed": (voc(boxed(9, 2, 3, 4)), r"object 1: xmax, ymax lie before xmin, ymin"),
    "voc no box": (voc(XML.format(name="a", objects="<object/>")), r"object 1: has no bndbox"),
    "voc another size": (
        voc(XML.format(name="a", objects="").replace("32", "64")),
        r"a\.xml: is for 64x24 pixels, the image has 32x24",
    ),
    "voc no image": (
        lambda r: (voc(boxed(1, 1, 2, 2))(r), text(r / "Annotations/c.xml", boxed(1, 1, 2, 2))),
        r"^Annotations/c\.xml: names .* no image",
    ),
    "voc list": (voc(boxed(1, 1, 2, 2), {"ImageSets/Main/train.txt": "a\nz\n"}), r"names 'z', which has no XML file"),
    # MOT
    "mot frame 0": (mot("0,1,1,1,2,2,1,1,1\n"), r"^s/gt/gt\.txt: line 1: frame 0, and the sequence has frames 1 to 3"),
    "mot beyond": (mot("1,1,1,1,2,2\n4,1,1,1,2,2\n"), r"line 2: frame 4, and the sequence has frames 1 to 3"),
    "mot gap": (
        lambda r: (mot("3,1,1,1,2,2\n")(r), (r / "s/img1/000002.png").unlink()),
        r"^s/img1/000001\.png: the next frame is 3, and gt\.txt counts every one: complete the frames",
    ),
    "voc other folder": (
        lambda r: (voc("<annotation/>")(r), text(r / "Annotations/seq9/a.xml", XML.format(name="a", objects=""))),
        r"^Annotations/seq9/a\.xml: names .* no image \.\.\./seq9/a\.xml is in the source",
    ),
    "mot twice": (mot("1,1,1,1,2,2\n1,1,3,3,2,2\n"), r"line 2: frame 1 has id 1 in line 1 too"),
    "mot nan": (mot("1,1,nan,1,2,2\n"), r"line 1: a coordinate is 'nan', not finite"),
    "mot infinite": (mot("1,1,1,1,inf,2\n"), r"line 1: a coordinate is 'inf', not finite"),
    "mot negative": (mot("1,1,1,1,-2,2\n"), r"line 1: box .* has a negative size"),
    "mot outside": (mot("1,1,40,1,2,2\n2,1,1,1,2,2\n"), r"line 1: frame 0: box .* wholly outside"),
    "mot columns": (mot("1 1 1 1 2 2\n"), r"line 1: has 1 columns: write frame,id,left"),
    "mot info": (mot("", "imDir=img1\n"), r"^s/seqinfo\.ini: not readable"),
    "mot another size": (mot("1,1,1,1,2,2\n", INFO.format(64)), r"line 1: is for 64x24 pixels, the image has 32x24"),
    # masks
    "mask of another size": (
        sirst(np.zeros((25, 31), np.uint8)),
        r"^masks/a\.png: the mask is 31x25 pixels, its image images/a\.png 32x24",
    ),
    "mask in colour": (sirst(RED), r"^masks/a\.png: the mask has colour: give one channel"),
    "mask is a picture": (sirst(RAMP), r"^masks/a\.png: 744 of 768 pixels are neither 0 nor 255: this is a picture"),
    "mask of ones": (
        sirst(np.eye(24, 32, dtype=np.uint8)),
        r"^masks/a\.png: values up to 1 \(uint8\): give a mask of 0 and 255",
    ),
    "mask of 16 bits": (
        sirst(np.eye(24, 32, dtype=np.uint16) * 65535),
        r"^masks/a\.png: values up to 65535 \(uint16\)",
    ),
    "mask missing": (
        sirst(None, {"img_idx/train.txt": "b\n"}),
        r"^images/b\.png: the list img_idx names it, and it has no mask",
    ),
    "list latin-1": (
        lambda r: (sirst(None)(r), (r / "train.txt").write_bytes(b"\xe4\n")),
        r"^train\.txt: line 1: byte 0xe4 is not UTF-8",
    ),
    "mirsdt list": (
        mirsdt({"train.txt": "Sequence9/Mix/00001.mat\n"}),
        r"^train\.txt: line 1: names 'Sequence9/Mix/00001\.mat', and no such frame",
    ),
    "mirsdt two splits": (
        mirsdt({f"{p}.txt": "Sequence1/Mix/00001.mat\n" for p in ("train", "test")}),
        r"is in 't\w+' too: a frame has one split",
    ),
    "mirsdt mask": (mirsdt({}, np.zeros((9, 9), np.uint8)), r"^Sequence1/masks/00001\.png: the mask is 9x9 pixels"),
    # names
    "names of one slug": (slugs("Seq 1", "seq.1"), r"both would be called 'seq-1': rename one of them"),
    "names without letters": (
        slugs("赤外線"),
        r"'赤外線': no letter or digit of a-z, 0-9 to make a name from: rename it",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_labels_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    build, says = BAD[name]
    # A file in which no format can be seen is a matter of who says --format.
    format = name.split()[0] if says.startswith("not of the format") else "auto"
    data, source = tmp_path / "data", tmp_path / "source"
    nnlab(GOOD)(tmp_path / "good")
    ingest(tmp_path / "good", "set", data, tmp_path / "staging")
    before = tree(data)
    source.mkdir()
    build(source)
    with pytest.raises(InputError, match=says) as caught:
        ingest(source, "other", data, tmp_path / "staging", format=format)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 and caught.value.status == 2
    assert tree(data) == before and not any((tmp_path / "staging").iterdir())
    nnlab(GOOD)(tmp_path / "more")
    assert ingest(tmp_path / "more", "other", data, tmp_path / "staging").added == ["s"]


BOX = NNLAB("s/1", "1,2,3,4,0")
ODD_MASK = np.zeros((24, 32, 4), np.uint8)
ODD_MASK[4:6, 4:6] = 255
ODD_MASK[4, 7, :3] = 90

# {what is odd: (how the source is made, what is said or None, targets as {frame: boxes})}
TAKEN: dict[str, tuple[Build, str | None, dict[int, list[list[float]]]]] = {
    "crlf": (nnlab(BOX.replace("\n", "\r\n")), None, {1: [[1, 2, 2, 2]]}),
    "cr alone": (nnlab((GOOD + BOX).replace("\n", "\r")), None, {0: [[1, 2, 2, 2]], 1: [[1, 2, 2, 2]]}),
    "byte order mark": (nnlab(codecs.BOM_UTF8 + BOX.encode()), None, {1: [[1, 2, 2, 2]]}),
    "utf-16": (nnlab(BOX.encode("utf-16")), None, {1: [[1, 2, 2, 2]]}),
    "csv utf-16": (table("frame,x,y,w,h\n1,1,2,2,2\n".encode("utf-16")), None, {1: [[1, 2, 2, 2]]}),
    "csv byte order mark": (
        table(codecs.BOM_UTF8 + b"frame,x,y,w,h\r\n1,1,2,2,2\r\n"),
        None,
        {1: [[1, 2, 2, 2]]},
    ),
    "coco no extent": (
        annotated(bbox=[2, 3, 0, 5]),
        "1 boxes without extent: taken as ignore boxes",
        {},
    ),
    "coco crowd": (annotated(iscrowd=1), None, {}),
    "csv cr alone": (table("frame,x,y,w,h\r1,1,2,2,2\r"), None, {1: [[1, 2, 2, 2]]}),
    "coco byte order mark": (
        lambda r: (p := coco(r)).write_bytes(codecs.BOM_UTF8 + p.read_bytes()),
        None,
        {0: [[2.5, 3, 4, 5]]},
    ),
    "a little outside": (
        nnlab(NNLAB("s/1", "-0.3,2,3,24.2,0")),
        "s: 1 boxes reach beyond the frame by up to 0.3 px: kept as they came",
        {1: [[-0.3, 2, 3.3, 22.2]]},
    ),
    "no extent": (
        nnlab(BOX + NNLAB("s/2", "5,5,5,9,0")),
        "1 boxes without extent: taken as ignore boxes",
        {1: [[1, 2, 2, 2]]},
    ),
    "rgba mask, grey pixels": (
        lambda r: (images(r, "images/a.png"), write_image(r / "masks/a.png", ODD_MASK)),
        "a: 1 mask pixels are neither 0 nor 255: target is what is above 127",
        {0: [[4, 4, 2, 2]]},
    ),
    "voc from 0": (voc(boxed(0, 1, 4, 4)), "a: 1 boxes reach beyond the frame by up to 1 px", {0: [[-1, 0, 5, 4]]}),
    "rgba images": (
        lambda r: (nnlab(BOX)(r), [write_image(r / f"s/{i}.bmp", np.dstack([IMAGE] * 4)) for i in range(4)]),
        None,
        {1: [[1, 2, 2, 2]]},
    ),
    "dots, spaces, letters": (slugs("Tag 1.b/séquence"), None, {0: [[1, 2, 2, 2]]}),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_tools_take_is_taken_and_said(tmp_path: Path, name: str) -> None:
    build, says, boxes = TAKEN[name]
    (tmp_path / "source").mkdir()
    build(tmp_path / "source")
    report = ingest(tmp_path / "source", "set", tmp_path / "data", tmp_path / "staging")
    found = sequence.sequences(tmp_path / "data", "set")[0]
    frames = found.annotations().frames
    assert {f.index: f.boxes.tolist() for f in frames if len(f.boxes)} == {
        index: [pytest.approx(box) for box in rows] for index, rows in boxes.items()
    }
    assert says is None or any(message.startswith(says) for message in report.messages), report.messages
    if says is None:
        assert not any("beyond" in message or "ignore" in message for message in report.messages)


def test_json_that_nests_without_end(tmp_path: Path) -> None:
    path = coco(tmp_path)
    path.write_text('{"images": [], "annotations": ' + "[" * 100_000)
    with pytest.raises(InputError, match="not readable as JSON"):
        ingest(tmp_path, "set", tmp_path / "data", tmp_path / "staging")
