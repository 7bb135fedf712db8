"""Exports: what the format can hold comes back through our importer, and other people's readers take it."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from recordings import frames, tree, write_image, write_video

from irstd.cli import run as cli
from irstd.config import SplitConfig
from irstd.data import rle, sequence, splits
from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.counts import Intensity
from irstd.data.derive import targets_of
from irstd.data.exporters import FORMATS, Item, export
from irstd.data.importers import choose, scan
from irstd.data.ingest import ingest
from irstd.data.sequence import Sequence
from irstd.errors import InputError

HEIGHT, WIDTH = 24, 32


def item(name: str, found: Annotations, split: str | None = None) -> Item:
    """A sequence that exists in memory alone."""
    intensity = Intensity(min=0, max=255, median=9.0, p005=1.0, p995=200.0)
    return Item(
        Sequence(
            folder=Path("nowhere"), set="set", name=name, source=("a.mkv",), source_sha256="0", annotations_sha256="0",
            frames=len(found.frames), fps=25.0, height=HEIGHT, width=WIDTH, bit_depth=8, dtype="uint8", grey_rule="none",
            intensity=intensity, licence=None, group=name, labelled_frames=found.labelled_frames,
            target_frames=found.target_frames,
        ),
        found,
        split,
    )  # fmt: skip


def back(module: ModuleType, items: list[Item]) -> dict[str, tuple[str | None, Annotations | None]]:
    """{sequence: (split, labels)} as our importer reads what the exporter wrote."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        module.labels(root, "set", items)
        counts = {}
        for each in items:
            for index in range(each.sequence.frames):
                if (place := module.place(each, index)) is not None:
                    (root / place).parent.mkdir(parents=True, exist_ok=True)
                    (root / place).touch()
                    counts[each.sequence.name] = counts.get(each.sequence.name, 0) + 1
        listing = scan(root)
        importer, _ = choose(listing)
        assert importer.NAME == module.NAME
        return {
            c.name: (c.split, c.annotate(len(c.files), HEIGHT, WIDTH) if c.annotate else None)
            for c in importer.read(listing).candidates
        }


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.integers(round(low * 10_000), round(high * 10_000)).map(lambda n: n / 10_000)


def box(inside: bool) -> st.SearchStrategy[tuple[float, float, float, float]]:
    """A box that overlaps the frame; `inside`: wholly in it."""

    def size(x: float, y: float) -> st.SearchStrategy[tuple[float, float, float, float]]:
        least = (max(0.0001, 0.001 - x), max(0.0001, 0.001 - y))
        most = (WIDTH - x, HEIGHT - y) if inside else (60, 60)
        return st.tuples(st.just(x), st.just(y), numbers(least[0], most[0]), numbers(least[1], most[1]))

    corner = (
        st.tuples(numbers(0, WIDTH - 1), numbers(0, HEIGHT - 1))
        if inside
        else st.tuples(numbers(-9, 31), numbers(-9, 23))
    )
    return corner.flatmap(lambda xy: size(*xy))


@st.composite
def labelled(draw: Callable, unlabelled: bool, ignore: bool, inside: bool) -> Annotations:
    found = []
    for index in range(draw(st.integers(1, 4))):
        if unlabelled and draw(st.booleans()):
            found.append(FrameTargets(index, False))
            continue
        boxes = draw(st.lists(box(inside), max_size=3))
        names = [draw(st.sampled_from(["drone", "Vogel, groß", "b"])) for _ in boxes]
        regions = draw(st.lists(box(inside), max_size=2)) if ignore else []
        found.append(FrameTargets(index, True, boxes, names, ignore=regions))
    return Annotations(found)


def same(left: Annotations | None, right: Annotations) -> None:
    if left is None:
        assert right.labelled_frames == 0
    else:
        assert left.to_json() == right.to_json()


@settings(max_examples=25, deadline=None)
@given(st.lists(labelled(True, True, False), min_size=1, max_size=3), st.sampled_from([None, "train", "gate"]))
def test_coco_loses_nothing(all_: list[Annotations], split: str | None) -> None:
    items = [item(f"s{i}", found, split) for i, found in enumerate([Annotations([FrameTargets(0, True)]), *all_])]
    found = back(FORMATS["coco"], items)
    assert set(found) == {each.sequence.name for each in items}
    for each in items:
        same(found[each.sequence.name][1], each.annotations)
        if each.annotations.labelled_frames:
            assert found[each.sequence.name][0] == split


def comes_back(format: str, all_: list[Annotations], split: str | None) -> None:
    items = [item(f"s{i}", found, split) for i, found in enumerate(all_)]
    found = back(FORMATS[format], items)
    for each in items:
        same(found[each.sequence.name][1], each.annotations)
        assert found[each.sequence.name][0] == split


@settings(max_examples=25, deadline=None)
@given(st.lists(labelled(False, True, False), min_size=1, max_size=3), st.sampled_from([None, "train", "test"]))
def test_mot_loses_nothing(all_: list[Annotations], split: str | None) -> None:
    comes_back("mot", all_, split)


@settings(max_examples=25, deadline=None)
@given(st.lists(labelled(False, False, True), min_size=1, max_size=3), st.sampled_from([None, "train", "val"]))
def test_yolo_loses_nothing(all_: list[Annotations], split: str | None) -> None:
    comes_back("yolo", all_, split)


def test_masks_in_coco() -> None:
    """Boxes and points of a set with masks are those of the masks: all come back."""
    random = np.random.default_rng(3)
    found = []
    for index in range(6):
        mask = cv2.dilate((random.random((HEIGHT, WIDTH)) > 0.985).astype(np.uint8), np.ones((2, 3), np.uint8))
        boxes, points = targets_of(mask)
        found.append(FrameTargets(index, True, boxes, points=points, mask=rle.encode(mask)))
    annotations = Annotations([*found, FrameTargets(6, True, mask=[HEIGHT * WIDTH])], masks=True)
    assert sum(len(frame.boxes) for frame in found) > 20
    same(back(FORMATS["coco"], [item("s", annotations)])["s"][1], annotations)
    points = sum(len(frame.points) for frame in found)
    for name in ("mot", "yolo"):
        with tempfile.TemporaryDirectory() as folder:
            said = FORMATS[name].labels(Path(folder), "set", [item("s", annotations)])
        assert said[0] == f"masks of 1 sequences and {points} points are left out: {name.upper()} holds boxes"


# -- whole sets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five labelled sequences and one without labels, in splits; one of 14 bits; stills among them."""
    source = tmp_path / "source"
    for name in "abcd":
        write_video(source / f"{name}.mkv", frames(bits=14 if name == "a" else 8, seed=ord(name)))
        rows = "0,1.5,2,3,4.25,drone,0\n0,9,9,2,2,bird,0\n3,0,0,5,5,drone,0\n"
        (source / f"{name}.csv").write_text(f"frame,x,y,w,h,class,ignore\n{rows}")
    write_image(source / "still.png", frames(1)[0])
    (source / "still.csv").write_text("frame,x,y,w,h,class\n0,-1,2,3,4,bird\n")
    (source / "a.yaml").write_text("bit_depth: 14\nlicence: CC0-1.0\ngroup: night\n")
    write_video(source / "z.mkv", frames())
    ingest(source, "set", tmp_path / "data", tmp_path / "staging", shares=SplitConfig())
    return tmp_path / "data"


@pytest.mark.parametrize("format", ["coco", "mot", "yolo"])
def test_an_export_ingested_again_is_the_set(tmp_path: Path, data: Path, format: str) -> None:
    report = export(data, "set", tmp_path / "out", format)
    assert report.sequences == 6 and report.images == 5 * 6 + 1
    ingest(tmp_path / "out", "again", data, tmp_path / "staging")
    before, after = (sequence.sequences(data, name) for name in ("set", "again"))
    given_before, given_after = (splits.read(data / name) for name in ("set", "again"))
    assert [each.name for each in after] == [each.name for each in before]
    for old, new in zip(before, after, strict=True):
        assert new.frames == old.frames and new.fps == old.fps
        assert (new.bit_depth, new.licence, new.labelled) == (old.bit_depth, old.licence, old.labelled)
        for left, right in zip(old.read(), new.read(), strict=True):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype
        if format == "yolo" and old.name == "still":  # YOLO's boxes end at the image
            assert new.annotations().frames[0].boxes.tolist() == [[0, 2, 2, 4]]
            assert report.messages == ["1 boxes are clipped to the image"]
        else:
            assert new.annotations_sha256 == old.annotations_sha256
        if old.labelled:
            assert splits.split_of(new, given_after) == splits.split_of(old, given_before)
    assert {each.group for each in after if each.name == "a"} == {"night"}


def test_coco_is_read_by_pycocotools(tmp_path: Path, data: Path) -> None:
    export(data, "set", tmp_path / "out", "coco")
    files = sorted((tmp_path / "out/annotations").glob("*.json"))
    assert {file.stem for file in files} <= {f"instances_{split}" for split in splits.SPLITS} and len(files) >= 3
    total = 0
    for file in files:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(file))
            perfect = [
                {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
                for a in truth.dataset["annotations"]
            ]
            scores = COCOeval(truth, truth.loadRes(perfect), "bbox")
            scores.evaluate()
            scores.accumulate()
            scores.summarize()
        assert scores.stats[0] == pytest.approx(1)
        total += len(perfect)
        for image in truth.loadImgs(truth.getImgIds()):
            there = cv2.imread(str(tmp_path / "out" / image["file_name"]), cv2.IMREAD_UNCHANGED)
            assert there.shape == (image["height"], image["width"])
    assert total == 4 * 3 + 1


def test_coco_segmentations_are_read_by_pycocotools(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:5, 4:9] = 1
    boxes, points = targets_of(mask)
    annotations = Annotations([FrameTargets(0, True, boxes, points=points, mask=rle.encode(mask))], masks=True)
    FORMATS["coco"].labels(tmp_path, "set", [item("s", annotations)])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "annotations/instances.json"))
    (entry,) = truth.dataset["annotations"]
    assert entry["bbox"] == [4, 3, 5, 2] and entry["area"] == 10 and entry["iscrowd"] == 0
    assert truth.annToRLE(entry)["size"] == [HEIGHT, WIDTH]


def test_mot_as_the_benchmark_wants_it(tmp_path: Path, data: Path) -> None:
    """TrackEval: a sequence map with a header, gt of nine columns, frames and ids from 1, ids once a frame."""
    export(data, "set", tmp_path / "out", "mot")
    maps = list((tmp_path / "out/seqmaps").iterdir())
    assert {path.stem for path in maps} <= {f"set-{split}" for split in splits.SPLITS}
    found = []
    for path in maps:
        header, *names = path.read_text().splitlines()
        assert header == "name"
        for name in names:
            folder = tmp_path / "out" / path.stem / name
            rows = np.loadtxt(folder / "gt/gt.txt", delimiter=",", ndmin=2)
            assert rows.shape[1] == 9 and rows[:, :2].min() == 1
            assert len({tuple(row[:2]) for row in rows.tolist()}) == len(rows)
            assert set(rows[:, 6]) <= {0, 1} and rows[:, 7].min() >= 1
            assert (folder / "img1" / "000001.png").is_file() and "seqLength=" in (folder / "seqinfo.ini").read_text()
            found.append((name, (folder / "gt/gt.txt").read_text().splitlines()[0]))
    # 1.5, 2 from 0 are 2.5, 3 from 1; the classes are sorted: bird 1, drone 2.
    assert dict(found)["a"] == "1,1,2.5,3,3,4.25,1,2,1" and len(found) == 5


def test_what_a_format_cannot_hold_is_refused_or_said(tmp_path: Path) -> None:
    half = Annotations([FrameTargets(0, True, [[1, 2, 3, 4]]), FrameTargets(1, False)])
    with pytest.raises(
        InputError, match="1 of 2 frames are unlabelled, which MOT cannot tell from empty: export to coco"
    ):
        FORMATS["mot"].labels(tmp_path / "m", "set", [item("s", half)])
    points = Annotations([FrameTargets(0, True, points=[[1, 2]])])
    for name, module in FORMATS.items():
        with pytest.raises(
            InputError, match=rf"set/s: frame 0 has targets without boxes .*{name.upper()} does not hold"
        ):
            module.labels(tmp_path / "p", "set", [item("s", points)])
    ignored = Annotations([*half.frames, FrameTargets(2, True, ignore=[[0, 0, 9, 9]]), FrameTargets(3, True)])
    each = item("s", ignored)
    said = FORMATS["yolo"].labels(tmp_path / "y", "set", [each])
    assert said == ["2 frames are left out, unlabelled or with ignore boxes: YOLO holds neither"]
    assert [FORMATS["yolo"].place(each, index) is None for index in range(4)] == [False, True, True, False]


def test_nothing_half_written(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"--format coca: unknown \(did you mean 'coco'\?\); known: coco, mot, yolo"):
        export(data, "set", out, "coca")
    with pytest.raises(InputError, match="no set 'sett'"):
        export(data, "sett", out, "coco")
    (data / "set/a/a.mkv").write_bytes(b"")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="the file is empty"):
        export(data, "set", out, "coco")
    assert tree(tmp_path) == before and not out.exists()
    out.mkdir()
    (out / "kept").touch()
    with pytest.raises(InputError, match="is there already: give a new folder with --out"):
        export(data, "set", out, "coco")


def test_the_command(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "data.dvc").write_text("outs: []\n")
    monkeypatch.chdir(tmp_path)
    assert cli(["export", "set", "--format", "yolo", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "6 sequences, 31 images as yolo" in said and "1 of 6" not in said  # no line for each sequence
    assert cli(["export", "set", "--format", "yolo", "--out", str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
