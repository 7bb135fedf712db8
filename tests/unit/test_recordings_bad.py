"""Damaged recordings: each is one clear line; among good ones it is quarantined and the others are taken, alone it is refused.

Whichever it is, nothing is lost or left half-written, and once it is mended the same command takes it. Faults of labels are in
`test_importers_bad.py`; faults of what was said of a recording refuse the source as a whole.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import frames, golden_video, tree, write_image, write_raw, write_video
from test_cptv import recording as cptv_recording

from irstd.data import sequence
from irstd.data.ingest import IngestReport, ingest
from irstd.errors import InputError

# Makes the recording "e" in a folder.
Build = Callable[[Path], object]
GREY = frames(8, 48, 64)
COPY = r"copy (it|the file) again"


def video(suffix: str, code: str) -> Build:
    return lambda at: write_video(at / f"e{suffix}", np.repeat(GREY[..., None], 3, 3), code=code)


def cptv(at: Path) -> Path:
    (at / "e.cptv").write_bytes(gzip.compress(cptv_recording(GREY.astype(np.uint16), 19)))
    return at / "e.cptv"


def stack(at: Path) -> Path:
    assert cv2.imwritemulti(str(at / "e.tif"), list(GREY))
    return at / "e.tif"


def folder(at: Path, suffix: str = ".png") -> Path:
    for i, image in enumerate(GREY):
        write_image(at / "e" / f"{i}{suffix}", image)
    return at / "e"


def raw(at: Path) -> Path:
    return write_raw(at / "e.raw", GREY)


def cut(build: Build, share: float = 0.6, name: str | None = None) -> Build:
    def made(at: Path) -> None:
        path = build(at) if name is None else (build(at), at / name)[1]
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return made


def holding(name: str, content: bytes | str) -> Build:
    def made(at: Path) -> None:
        (at / name).parent.mkdir(exist_ok=True)
        (at / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return made


def renamed(build: Build, name: str) -> Build:
    return lambda at: build(at).rename(at / name)


def sides(width: int, height: int) -> bytes:
    """The head of a PNG file."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def odd(image: np.ndarray, build: Callable[..., Path] = folder, name: str = "e/5.png") -> Build:
    return lambda at: (build(at), write_image(at / name, image))


def pages(*images: np.ndarray) -> Build:
    return lambda at: cv2.imwritemulti(str(at / "e.tif"), list(images))


def layout(text: str, name: str = "e.raw") -> Build:
    def made(at: Path) -> None:
        raw(at).with_suffix(".yaml").unlink()
        (at / "e.raw").rename(at / name)
        if text:
            (at / "e.yaml").write_text(text)

    return made


def sized(size: int, **keys: int) -> Build:
    text = "raw: {width: 64, height: 48, dtype: uint8" + "".join(f", {k}: {v}" for k, v in keys.items()) + "}\n"
    return lambda at: (holding("e.raw", bytes(size))(at), holding("e.yaml", text)(at))


BAD: dict[str, tuple[Build, str]] = {
    # cut short
    "cut FFV1 mkv": (cut(video(".mkv", "FFV1")), rf"^e\.mkv: truncated: \d+ of \d+ bytes are there: {COPY}"),
    "cut FFV1 avi": (cut(video(".avi", "FFV1")), rf"^e\.avi: truncated: \d+ of \d+ bytes are there: {COPY}"),
    "cut FFV1 mov": (cut(video(".mov", "FFV1")), rf"^e\.mov: truncated: .*{COPY}"),
    "cut MJPEG mp4": (cut(video(".mp4", "MJPG"), 0.99), rf"^e\.mp4: .*(truncated|damaged).*{COPY}"),
    "cut to a few bytes": (cut(video(".mkv", "FFV1"), 0.002), rf"^e\.mkv: .*{COPY}"),
    "cut cptv": (cut(cptv), rf"^e\.cptv: damaged or truncated; {COPY}"),
    "cut tiff stack": (cut(stack), rf"^e\.tif: .*{COPY}"),
    "cut raw": (
        cut(raw),
        r"^e\.raw: 14745 bytes are no whole number of frames of 3072 bytes .* but 4 and 2457 bytes over",
    ),
    "cut png in a folder": (cut(folder, 0.5, "e/3.png"), rf"^e/3\.png: damaged, truncated or not an image: {COPY}"),
    "cut bmp in a folder": (
        cut(lambda at: folder(at, ".bmp"), 0.5, "e/7.bmp"),
        rf"^e/7\.bmp: damaged, truncated or not an image: {COPY}",
    ),
    "cut jpg in a folder": (
        cut(lambda at: folder(at, ".jpg"), 0.5, "e/0.jpg"),
        rf"^e/0\.jpg: damaged, truncated or not an image: {COPY}",
    ),
    # empty
    **{
        f"zero bytes: {name}": (holding(name, b""), rf"^{re.escape(name)}: the file is empty \(0 bytes\): {COPY}")
        for name in ("e.mkv", "e.mp4", "e.avi", "e.mov", "e.cptv", "e.tif", "e.png", "e/0.png")
    },
    "zero bytes: raw": (sized(0), rf"^e\.raw: the file is empty \(0 bytes\): {COPY}"),
    # another content than the name says
    "text called mp4": (holding("e.mp4", "no video\n" * 50), rf"^e\.mp4: cannot be opened as a video: .*{COPY}"),
    "text called png": (holding("e.png", "no image\n"), rf"^e\.png: damaged, truncated or not an image: {COPY}"),
    "text called cptv": (holding("e.cptv", "no recording\n"), rf"^e\.cptv: not readable as gzip, .*{COPY}"),
    "video called cptv": (renamed(video(".mkv", "FFV1"), "e.cptv"), rf"^e\.cptv: not readable as gzip, .*{COPY}"),
    "video called tif": (renamed(video(".mkv", "FFV1"), "e.tif"), rf"^e\.tif: .* not an image: {COPY}"),
    "cptv called mkv": (renamed(cptv, "e.mkv"), rf"^e\.mkv: cannot be opened as a video: .*{COPY}"),
    "raw called avi": (renamed(raw, "e.avi"), rf"^e\.avi: cannot be opened as a video: .*{COPY}"),
    # of another size or depth in the middle
    "another size in a folder": (
        odd(frames(1, 24, 33)[0]),
        r"^e: frame 5 is 33x24 uint8, those before are 64x48 uint8: a recording has one size; cut it there",
    ),
    "another depth in a folder": (
        odd(frames(1, 48, 64, 16)[0]),
        r"^e: frame 5 is 64x48 uint16, those before are 64x48 uint8",
    ),
    "another size in a stack": (
        pages(GREY[0], GREY[1], np.ascontiguousarray(GREY[2][:24])),
        r"^e\.tif: frame 2 is 64x24 uint8, those before are 64x48 uint8: a recording has one size",
    ),
    "another depth in a stack": (pages(GREY[0], GREY[1].astype(np.uint16)), r"^e\.tif: frame 1 is 64x48 uint16"),
    "another size in a video": (
        lambda at: golden_video("mjpeg-size-changes.avi", at)[0].rename(at / "e.avi"),
        r"^e\.avi: frame 4 is 64x48, those before are 48x32: a recording has one size; cut it there",
    ),
    # what no sensor gives
    "a png of 40000 pixels": (
        holding("e.png", sides(40000, 40000)),
        r"^e\.png: 40000x40000 pixels, at most 16384 a side",
    ),
    "a png 40000 wide in a folder": (
        lambda at: (folder(at), holding("e/5.png", sides(40000, 1))(at)),
        r"^e/5\.png: 40000x1 pixels, at most 16384 a side are read: cut the image into smaller ones",
    ),
    "a png without pixels": (holding("e.png", sides(0, 48)), rf"^e\.png: damaged, truncated or not an image: {COPY}"),
    "float pixels": (
        pages(np.full((4, 5), np.nan, np.float32)),
        r"^e\.tif: pixels are float32: give unsigned counts of 8 or 16 bits",
    ),
    "grey of ten bits": (
        lambda at: golden_video("ffv1-10.mkv", at)[0].rename(at / "e.mkv"),
        r"^e\.mkv: its pixel format .* cannot be read without changing the counts: convert it without loss",
    ),
    # headerless
    "raw without a sidecar": (
        layout(""),
        r"^e\.raw: headerless, and no sidecar says its layout: write e\.yaml beside it",
    ),
    "raw without a layout": (layout("fps: 9\n"), r"^e\.raw: headerless, and no sidecar says its layout"),
    "raw of another width": (
        layout("raw: {width: 65, height: 48, dtype: uint8}\n"),
        r"^e\.raw: 24576 bytes are no whole number of frames of 3120 bytes \(65x48 uint8\), but 7 and 2736 bytes over: correct",
    ),
    "raw below one frame": (sized(100), r"^e\.raw: 100 bytes are no whole number of frames of 3072 bytes"),
    "raw below its header": (
        sized(100, header=512),
        r"^e\.raw: 0 bytes after its header are no whole number of frames",
    ),
    "raw and a footer": (
        sized(2 * 3072, frame_footer=8),
        r"no whole number of frames of 3080 bytes .* but 1 and 3064 bytes",
    ),
}


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., IngestReport]:
    def call(source: Path, **options: object) -> IngestReport:
        try:
            return ingest(source, "s", tmp_path / "data", tmp_path / "staging", **options)
        finally:
            assert not any((tmp_path / "staging").glob("*"))

    return call


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_recording_costs_nothing_else(tmp_path: Path, take: Callable[..., IngestReport], name: str) -> None:
    build, says = BAD[name]
    source, data = tmp_path / "source", tmp_path / "data"
    write_video(source / "a.mkv", frames(2))
    take(source)
    before = tree(data)

    build(source)  # alone: nothing else is new
    with pytest.raises(InputError, match=says) as caught:
        take(source)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 and caught.value.status == 2
    assert tree(data) == before

    write_video(source / "f.mkv", frames(2, seed=1))  # among others
    report = take(source)
    assert report.added == ["f"] and report.unchanged == ["a"] and list(report.quarantined) == ["e"]
    assert report.quarantined["e"] == str(caught.value)
    assert sorted(each.name for each in (data / "s").iterdir()) == ["a", "f", "splits.json"]
    assert before.items() - tree(data).items() <= {("s/splits.json", before["s/splits.json"])}

    for path in sorted(source.rglob("e*"), reverse=True):
        path.unlink() if path.is_file() else [each.unlink() for each in path.iterdir()] and path.rmdir()
    write_video(source / "e.mkv", frames(2, seed=2))  # mended
    report = take(source)
    assert report.added == ["e"] and report.unchanged == ["a", "f"] and not report.quarantined
    assert [each.name for each in sequence.sequences(data, "s")] == ["a", "e", "f"]


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("mkv called avi", renamed(video(".mkv", "FFV1"), "e.avi")),
        ("avi called mp4", renamed(video(".avi", "FFV1"), "e.mp4")),
        ("png called bmp", lambda at: write_image(at / "x.png", GREY[0]).rename(at / "e.bmp")),
        ("png called jpg in a folder", lambda at: (folder(at), (at / "e/3.png").rename(at / "e/3.jpg"))),
    ],
)
def test_a_wrong_suffix_does_no_harm_where_the_content_says_it_all(
    tmp_path: Path, take: Callable[..., IngestReport], name: str, build: Build
) -> None:
    (tmp_path / "source").mkdir()
    build(tmp_path / "source")
    assert take(tmp_path / "source").added == ["e"]
    found = np.stack(list(sequence.load(tmp_path / "data" / "s" / "e").read()))
    np.testing.assert_array_equal(found, GREY[: len(found)])


def test_a_damaged_update_leaves_what_is_there(tmp_path: Path, take: Callable[..., IngestReport]) -> None:
    source = tmp_path / "source"
    for i, name in enumerate("ab"):
        write_video(source / f"{name}.mkv", frames(2, seed=i))
    take(source)
    before = tree(tmp_path / "data")
    (source / "a.mkv").write_bytes(b"")
    write_video(source / "b.mkv", frames(3))
    report = take(source, update=True)
    assert report.updated == ["b"] and list(report.quarantined) == ["a"]
    after = tree(tmp_path / "data")
    assert {k: v for k, v in before.items() if k.startswith("s/a/")}.items() <= after.items()
    assert sequence.load(tmp_path / "data" / "s" / "b").frames == 3


def test_a_published_set_is_taken_whole_or_not_at_all(tmp_path: Path, take: Callable[..., IngestReport]) -> None:
    source = tmp_path / "source"
    for i in range(6):
        write_image(source / "images" / f"n{i}.png", frames(1, seed=i)[0])
        write_image(source / "masks" / f"n{i}.png", np.full((24, 32), 255 * (i % 2), np.uint8))
    (source / "img_idx").mkdir()
    (source / "img_idx" / "train_X.txt").write_text("n0\nn1\nn2\nn3\n")
    (source / "img_idx" / "test_X.txt").write_text("n4\nn5\n")
    (source / "images" / "n4.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"^images/n4\.png: damaged, truncated or not an image"):
        take(source)
    assert not (tmp_path / "data").exists()
    write_image(source / "images" / "n4.png", frames(1, seed=4)[0])
    assert len(take(source).added) == 6


def test_wrong_labels_and_depths_refuse_the_whole_source(tmp_path: Path, take: Callable[..., IngestReport]) -> None:
    """Boxes that count frames from 1 show only where the last frame has one; the others would be taken shifted."""
    source = tmp_path / "source"
    for i, name in enumerate("abc"):
        write_video(source / f"{name}.mkv", frames(3, bits=14, seed=i))
        (source / f"{name}.csv").write_text(f"frame,x,y,w,h\n{i + 1},3,4,2,2\n")
    with pytest.raises(InputError, match=r"^c\.csv: has targets for frame 3, but the recording has 3 frames"):
        take(source)
    (source / "c.csv").unlink()
    (source / "b.yaml").write_text("bit_depth: 12\n")
    with pytest.raises(InputError, match=r"^b\.mkv: frame \d has a count of \d+, 12 bits end at 4095"):
        take(source)
    assert not (tmp_path / "data").exists()


def test_several_damaged_recordings_are_counted(tmp_path: Path, take: Callable[..., IngestReport]) -> None:
    for name in ("a.mkv", "b.mkv", "c.mkv"):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"^a\.mkv: the file is empty .* and 2 more$"):
        take(tmp_path / "source")


@pytest.mark.parametrize("name", ["My night.. flight", "..hidden..", "séquence 1", "a b.c.d", "-rf", "CON"])
def test_odd_names_become_slugs(tmp_path: Path, take: Callable[..., IngestReport], name: str) -> None:
    source = tmp_path / "source"
    write_video(source / "day.1" / f"x{name}.mkv", frames(2))
    (added,) = take(source).added
    assert re.fullmatch(r"[a-z0-9_-]+", added) and (tmp_path / "data" / "s" / added / f"x{name}.mkv").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "data", "staging"}


def test_frames_of_one_number_are_refused(tmp_path: Path, take: Callable[..., IngestReport]) -> None:
    folder(tmp_path / "source")
    write_image(tmp_path / "source" / "e" / "03.png", GREY[0])
    with pytest.raises(InputError, match=r"^e/0?3\.png and 0?3\.png: both are frame 3: remove one of them"):
        take(tmp_path / "source")


def test_gaps_in_a_folder_of_frames_are_said(tmp_path: Path, take: Callable[..., IngestReport]) -> None:
    folder(tmp_path / "source")
    assert not any("jump" in message for message in take(tmp_path / "source").messages)
    (tmp_path / "source" / "e" / "4.png").unlink()
    messages = take(tmp_path / "source", update=True).messages
    assert (
        "e: frame numbers jump (3.png to 5.png): taken as neighbours; where the recording paused, make two folders"
        in (messages)
    )
