"""Headerless recordings: the layout a sidecar says is the one that is read, kept, and part of the recording's identity."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from recordings import frames, tree, write_image, write_raw, write_video

from irstd.commands.detect import survey
from irstd.data import sequence
from irstd.data.ingest import ingest
from irstd.data.raw import Layout
from irstd.data.video import frames_at, open_recording
from irstd.errors import InputError


def take(tmp_path: Path, **options: object):
    return ingest(tmp_path / "source", "s", tmp_path / "data", tmp_path / "staging", **options)


def loaded(tmp_path: Path, name: str = "a") -> sequence.Sequence:
    return sequence.load(tmp_path / "data" / "s" / name)


def test_bytes_by_hand(tmp_path: Path) -> None:
    """Two frames of 2x1 pixels, big-endian, behind three bytes of header, each with one byte before and two after it."""
    (tmp_path / "a.raw").write_bytes(b"HDR" + b"t\x01\x02\x03\x04ff" + b"t\xff\xfe\x00\x09ff")
    (tmp_path / "a.yaml").write_text(
        "raw: {width: 2, height: 1, dtype: uint16, byte_order: big, header: 3, frame_header: 1, frame_footer: 2}\nfps: 9\n"
    )
    recording = open_recording(tmp_path / "a.raw")
    found = list(recording.frames())
    assert [frame.tolist() for frame in found] == [[[0x0102, 0x0304]], [[0xFFFE, 0x0009]]]
    assert (recording.fps, recording.bit_depth, recording.dtype, recording.grey_rule) == (9, 16, "uint16", "none")
    found[0][:] = 0  # writable, as all frames are, and of the machine's own byte order
    assert found[0].dtype == np.uint16 and found[0].dtype.isnative


def test_the_layout_goes_with_the_recording(tmp_path: Path) -> None:
    images = frames(5, bits=14)
    path = write_raw(tmp_path / "source" / "a.raw", images, header=16)
    said = yaml.safe_load((tmp_path / "source" / "a.yaml").read_text()) | {
        "bit_depth": 14,
        "fps": 12.5,
        "licence": "MIT",
    }
    (tmp_path / "source" / "a.yaml").write_text(yaml.safe_dump(said))
    (tmp_path / "source" / "a.csv").write_text("frame,x,y,w,h\n1,3,4,2,2\n")
    report = take(tmp_path)
    assert report.added == ["a"] and not any(message.startswith("not read") for message in report.messages)
    a = loaded(tmp_path)
    assert (a.source, a.bit_depth, a.fps, a.licence, a.frames) == (("a.raw", "a.yaml"), 14, 12.5, "MIT", 5)
    assert tree(a.folder)["a.raw"] == tree(tmp_path / "source")["a.raw"]
    assert yaml.safe_load((a.folder / "a.yaml").read_text()) == {
        "raw": {
            "width": 32, "height": 24, "dtype": "uint16", "byte_order": "little",
            "header": 16, "frame_header": 0, "frame_footer": 0,
        }
    }  # fmt: skip
    np.testing.assert_array_equal(np.stack(list(a.read())), images)
    assert a.recompute_sha256() == a.source_sha256
    statistics, count, size = survey(open_recording(path, 14))
    assert count == 5 and size == (24, 32) and statistics == a.intensity

    assert take(tmp_path).unchanged == ["a"]
    (a.folder / "a.yaml").write_text((a.folder / "a.yaml").read_text().replace("header: 16", "header: 0"))
    assert a.recompute_sha256() != a.source_sha256


def test_another_layout_is_another_recording(tmp_path: Path) -> None:
    images = frames(4, bits=14)
    write_raw(tmp_path / "source" / "a.raw", images)
    take(tmp_path)
    before = loaded(tmp_path)
    shape = images.shape
    write_raw(tmp_path / "source" / "a.raw", images.reshape(shape[0], shape[2], shape[1]))
    assert tree(tmp_path / "source")["a.raw"] == tree(before.folder)["a.raw"]
    with pytest.raises(InputError, match=r"^s/a \(recording\): differs from what is there"):
        take(tmp_path)
    assert take(tmp_path, update=True).updated == ["a"]
    after = loaded(tmp_path)
    assert (after.height, after.width) == (32, 24) and after.source_sha256 != before.source_sha256
    # What else a sidecar says is no part of it.
    said = yaml.safe_load((tmp_path / "source" / "a.yaml").read_text()) | {"labelled": "listed"}
    (tmp_path / "source" / "a.yaml").write_text(yaml.safe_dump(said))
    assert take(tmp_path).unchanged == ["a"]


def test_one_sidecar_for_a_folder_and_exceptions(tmp_path: Path) -> None:
    for name, layout in (("a", {}), ("b", {}), ("c", {"byte_order": "big"})):
        write_raw(tmp_path / "source" / "day" / f"{name}.RAW", frames(3, bits=14), **layout)
        if name != "c":
            (tmp_path / "source" / "day" / f"{name}.yaml").rename(tmp_path / "source" / "irstd.yaml")
    write_video(tmp_path / "source" / "day" / "d.mkv", frames(3))  # which needs none
    take(tmp_path)
    for name in "abc":
        np.testing.assert_array_equal(np.stack(list(loaded(tmp_path, f"day-{name}").read())), frames(3, bits=14))
    assert loaded(tmp_path, "day-d").source == ("d.mkv",)


def test_a_bin_file_is_a_recording_where_a_sidecar_says_so(tmp_path: Path) -> None:
    images = frames(3)
    write_raw(tmp_path / "source" / "a.raw", images).rename(tmp_path / "source" / "a.bin")
    (tmp_path / "source" / "model.bin").write_bytes(b"weights")
    for i, image in enumerate(images):
        write_image(tmp_path / "source" / "seq" / f"{i}.png", image)
    (tmp_path / "source" / "seq" / "calibration.bin").write_bytes(b"table")
    report = take(tmp_path)
    assert report.added == ["a", "seq"]
    assert "not read: 2 of 7 files of the source: model.bin, seq/calibration.bin" in report.messages
    np.testing.assert_array_equal(np.stack(list(loaded(tmp_path).read())), images)
    report = ingest(tmp_path / "source" / "a.bin", "one", tmp_path / "data", tmp_path / "staging")
    assert report.added == ["a"]


def test_any_frame_is_read_where_it_lies(tmp_path: Path) -> None:
    """A file of a hundred terabytes that takes no room: reading up to its last frame would never end."""
    path = tmp_path / "a.raw"
    layout = Layout(640, 512, "uint16", frame_header=1280)
    (tmp_path / "a.yaml").write_text(layout.text())
    count = (1 << 42) // layout.stride
    with path.open("wb") as file:
        file.truncate(count * layout.stride)
        file.seek((count - 1) * layout.stride + layout.frame_header)
        file.write(b"\x07\x01")
    first, last = frames_at(path, [0, count - 1, count])
    assert first.max() == 0 and last[0, 0] == 0x0107 and last.shape == (512, 640)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raw: 640x512", r"^a\.yaml: raw is '640x512': give width, height and dtype under it"),
        ("raw: {height: 24, dtype: uint8}", r"^a\.yaml: raw\.width is missing: give it"),
        ("raw: {width: 32, height: 24}", r"^a\.yaml: raw\.dtype is missing: give it"),
        ("raw: {width: 0, height: 24, dtype: uint8}", r"^a\.yaml: raw\.width is 0: give pixels from 1 to 16384"),
        ("raw: {width: -32, height: 24, dtype: uint8}", r"raw\.width is -32: give pixels"),
        ("raw: {width: 40000, height: 24, dtype: uint8}", r"raw\.width is 40000: give pixels from 1 to 16384"),
        ("raw: {width: 32.0, height: 24, dtype: uint8}", r"raw\.width is 32\.0: give pixels"),
        ("raw: {width: .nan, height: 24, dtype: uint8}", r"raw\.width is nan: give pixels"),
        ("raw: {width: true, height: 24, dtype: uint8}", r"raw\.width is True: give pixels"),
        ("raw: {width: 32, height: 24, dtype: float32}", r"raw\.dtype is 'float32': give uint8 or uint16"),
        ("raw: {width: 32, height: 24, dtype: [uint8]}", r"raw\.dtype is \['uint8'\]: give uint8 or uint16"),
        (
            "raw: {width: 32, height: 24, dtype: uint8, byte_order: middle}",
            r"raw\.byte_order is 'middle': give little or",
        ),
        ("raw: {width: 32, height: 24, dtype: uint8, header: -1}", r"raw\.header is -1: give a number of bytes"),
        (
            "raw: {width: 32, heigth: 24, dtype: uint8}",
            r"unknown key raw\.heigth \(did you mean 'height'\?\); known: width,",
        ),
        ("raw: {width: 32, height: 24, dtype: uint8}\nbits: 8", r"unknown key 'bits'.*; known: .*raw"),
        ("raw: {width: 32, height: 24", r"^a\.yaml: not readable as YAML"),
        (
            "raw: {width: 32, height: 24, dtype: uint8}\nbit_depth: 14",
            r"^a\.raw: bit depth 14 does not fit its uint8 pixels",
        ),
    ],
)
def test_a_bad_layout_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    write_raw(tmp_path / "source" / "a.raw", frames(3))
    (tmp_path / "source" / "a.yaml").write_text(text)
    for call in (lambda: take(tmp_path), lambda: open_recording(tmp_path / "source" / "a.raw")):
        with pytest.raises(InputError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value) and not (tmp_path / "data").exists()


def test_a_recording_that_goes_while_it_is_read(tmp_path: Path) -> None:
    recording = open_recording(write_raw(tmp_path / "a.raw", frames(3, 200, 300)))
    shutil.move(tmp_path / "a.raw", tmp_path / "b.raw")
    list(recording.frames())  # the file is open
    with pytest.raises(InputError, match=r"^a\.raw: cannot be read \(No such file or directory\): check"):
        list(recording.frames())
    (tmp_path / "b.raw").rename(tmp_path / "a.raw")
    reading = open_recording(tmp_path / "a.raw").frames()
    next(reading)
    (tmp_path / "a.raw").write_bytes(b"")
    with pytest.raises(InputError, match=r"^a\.raw: frame 1 is cut: the file was shortened while it was read"):
        list(reading)
