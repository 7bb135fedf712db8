"""To the bit: counts of 8, 14 and 16 bits from every lossless container to the tensor that a network sees.

The rows here are the lossless part of the table in docs/FORMATS.md, "Recordings"; a test compares the two.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import frames, golden_video, write_image, write_raw, write_video
from test_cptv import recording as cptv_recording
from test_cptv import write as write_cptv

from irstd.config import ShardConfig, SplitConfig
from irstd.data import sequence, shards
from irstd.data.doctor.pixels import codec_of
from irstd.data.ingest import ingest
from irstd.data.loader import ClipLoader
from irstd.data.video import open_recording
from irstd.errors import InputError
from irstd.models.batch import normalised, to_device

EVERYTHING = SplitConfig(by="block", train=1, val=0, gate=0, test=0)
DOCS = Path(__file__).resolve().parents[2] / "docs" / "FORMATS.md"
# A size that no decoder aligns to, so that a wrong stride shows, and more than ten frames, so that a wrong order does.
COUNT, HEIGHT, WIDTH = 12, 22, 38

# (folder, bits) -> the recording "a" in the folder, and its counts
Write = Callable[[Path, int], tuple[Path, np.ndarray]]


def pixels(bits: int) -> np.ndarray:
    return frames(COUNT, HEIGHT, WIDTH, bits, seed=bits)


def video(suffix: str, code: str, channels: int = 1) -> Write:
    def write(folder: Path, bits: int) -> tuple[Path, np.ndarray]:
        images = pixels(bits)
        shown = images if channels == 1 else np.repeat(images[..., None], channels, axis=3)
        return write_video(folder / f"a{suffix}", shown, code=code), images

    return write


def folder_of(suffix: str) -> Write:
    def write(folder: Path, bits: int) -> tuple[Path, np.ndarray]:
        images = pixels(bits)
        for i, image in enumerate(images):
            write_image(folder / "a" / f"{i + 1}{suffix}", image)
        return folder / "a", images

    return write


def stack(folder: Path, bits: int) -> tuple[Path, np.ndarray]:
    images = pixels(bits)
    assert cv2.imwritemulti(str(folder / "a.tif"), list(images))
    return folder / "a.tif", images


def cptv(folder: Path, bits: int) -> tuple[Path, np.ndarray]:
    images = pixels(bits).astype(np.uint16)
    return write_cptv(folder / "a.cptv", cptv_recording(images, 19)), images


def raw(**layout: object) -> Write:
    return lambda folder, bits: (write_raw(folder / "a.raw", images := pixels(bits), **layout), images)


def golden(name: str) -> Write:
    def write(folder: Path, bits: int) -> tuple[Path, np.ndarray]:
        path, known = golden_video(name, folder)
        assert known["bits"] == bits
        images = (np.arange(3 * 12 * 16) * 977) % (1 << bits)
        images = images.astype(np.uint8 if bits == 8 else np.uint16).reshape(3, 12, 16)
        return path.rename(folder / f"a{path.suffix}"), images

    return write


ALL, EIGHT = (8, 14, 16), (8,)
# {row of the table: [(variant, bit depths, how it is written)]}
LOSSLESS: dict[str, list[tuple[str, tuple[int, ...], Write]]] = {
    "FFV1": [(suffix, ALL, video(suffix, "FFV1")) for suffix in (".mkv", ".avi", ".mov", ".mp4")],
    "JPEG-LS": [(suffix, ALL, video(suffix, "MJLS")) for suffix in (".mkv", ".avi", ".mov")],
    "FFVHUFF": [
        (f"{suffix} {bits}", (bits,), golden(f"ffvhuff-{bits}{suffix}"))
        for suffix in (".mkv", ".avi")
        for bits in (8, 16)
    ],
    "HuffYUV, RGB of equal channels": [
        (suffix, EIGHT, video(suffix, "HFYU", 3)) for suffix in (".mkv", ".avi", ".mov")
    ],
    "PNG": [(suffix, EIGHT, video(suffix, "MPNG")) for suffix in (".mkv", ".avi", ".mov", ".mp4")],
    "none, grey": [(suffix, EIGHT, video(suffix, "Y800")) for suffix in (".mkv", ".avi", ".mov")],
    "none, packed YUV 4:2:2": [(n, EIGHT, golden(n)) for n in ("yuyv422.avi", "uyvy422.avi", "uyvy422.mov")],
    "TIFF stack": [("", ALL, stack)],
    "folder of PNG": [("", ALL, folder_of(".png"))],
    "folder of TIFF": [("", ALL, folder_of(".tiff"))],
    "folder of BMP": [("", EIGHT, folder_of(".bmp"))],
    "CPTV": [("", ALL, cptv)],
    "raw": [
        ("little", ALL, raw()),
        ("big", ALL, raw(byte_order="big", header=37)),
        ("telemetry", ALL, raw(byte_order="little", header=512, frame_header=2 * WIDTH, frame_footer=3)),
    ],
}
ROWS = [
    pytest.param(write, bits, id=f"{row} {variant} {bits}".replace("  ", " "))
    for row, variants in LOSSLESS.items()
    for variant, depths, write in variants
    for bits in depths
]


@pytest.mark.parametrize(("write", "bits"), ROWS)
def test_counts_are_equal_to_the_bit_from_recording_to_tensor(tmp_path: Path, write: Write, bits: int) -> None:
    source, data, staging = tmp_path / "source", tmp_path / "data", tmp_path / "staging"
    source.mkdir()
    path, images = write(source, bits)
    (source / "a.csv").write_text("frame,x,y,w,h\n1,3,4,2,2\n")  # only labelled frames are given in training
    declared = bits if bits != images.dtype.itemsize * 8 else None
    ingest(source, "s", data, staging, bit_depth=declared, shares=EVERYTHING)
    found = sequence.load(data / "s" / "a")
    assert (found.bit_depth, found.frames, found.dtype) == (bits, len(images), str(images.dtype))
    assert (found.intensity["min"], found.intensity["max"]) == (images.min(), images.max())
    assert codec_of(found) is None
    np.testing.assert_array_equal(np.stack(list(found.read())), images)
    sought = list(range(0, len(images), 2))
    np.testing.assert_array_equal(np.stack(open_recording(path, bits).at(sought)), images[::2])

    shards.build(data, tmp_path / "shards", ShardConfig(frames=3, chunk=5, split=EVERYTHING))
    seen = set()
    for batch in ClipLoader(tmp_path / "shards", "train", frames=3, batch_size=1):
        index = batch["key"][0][1]
        clip_THW = images[[max(0, index - 2), max(0, index - 1), index]]
        assert batch["frames"].dtype == images.dtype
        np.testing.assert_array_equal(batch["frames"][0], clip_THW)
        x_THW = normalised(to_device(batch, "cpu"))[0].double().numpy()
        back_THW = x_THW / float(batch["scale"][0]) + float(batch["offset"][0])
        np.testing.assert_array_equal(np.rint(back_THW), clip_THW)
        seen.add(index)
    assert seen == set(range(len(images)))

    frame = int(np.argmax(images.max(axis=(1, 2)) >= 1 << (bits - 1)))
    says = rf"frame {frame} has a count of \d+, {bits - 1} bits end at {(1 << (bits - 1)) - 1}"
    with pytest.raises(InputError, match=says):
        ingest(source, "narrow", data, staging, bit_depth=bits - 1)


LOSSY = {
    "H.264": ["h264.mkv", "h264.mp4", "h264.avi", "h264.mov", "h264-lossless.mp4"],
    "H.265": ["h265.mkv", "h265.mp4", "h265.mov", "h265-lossless.mkv"],
    "MJPEG": [".mkv", ".avi", ".mov", ".mp4"],
    "MPEG-4": [".mkv", ".avi", ".mov", ".mp4"],
    "folder of JPEG": [],
}


@pytest.mark.parametrize("name", LOSSY["H.264"] + LOSSY["H.265"])
def test_coded_luma_is_what_the_standard_says(tmp_path: Path, name: str) -> None:
    """H.264 and H.265 define decoding to the bit: another decoder's luma, with frames out of order in the file."""
    path, known = golden_video(name, tmp_path)
    recording = open_recording(path)
    found = [hashlib.sha256(frame.tobytes()).hexdigest() for frame in recording.frames()]
    assert found == known["luma_sha256"] and (recording.grey_rule, recording.fps) == ("luma", 25.0)


@pytest.mark.parametrize(("code", "suffix"), [(c, s) for c in ("MJPG", "mp4v") for s in LOSSY["MJPEG"]])
def test_coded_luma_is_near_what_was_written(tmp_path: Path, code: str, suffix: str) -> None:
    y, x = np.mgrid[:48, :64]
    images = np.stack([40 + x + y + 3 * t for t in range(5)]).astype(np.uint8)
    recording = open_recording(write_video(tmp_path / f"a{suffix}", np.repeat(images[..., None], 3, 3), code=code))
    found = np.stack(list(recording.frames()))
    # Full range in MJPEG, 16 to 235 in MPEG-4.
    expected = images.astype(float) if code == "MJPG" else 16 + images.astype(float) * 219 / 255
    assert found.shape == images.shape and np.abs(found - expected).mean() < 2 and recording.grey_rule == "luma"


def test_a_folder_of_jpeg_is_near_what_was_written(tmp_path: Path) -> None:
    y, x = np.mgrid[:48, :64]
    images = np.stack([40 + x + y + 3 * t for t in range(11)]).astype(np.uint8)
    for i, image in enumerate(images):
        write_image(tmp_path / "a" / f"{i}.jpg", image)
    found = np.stack(list(open_recording(tmp_path / "a").frames()))
    assert found.shape == images.shape and np.abs(found.astype(float) - images).mean() < 2


def test_the_table_in_the_docs_lists_what_is_tested_and_nothing_else() -> None:
    section = DOCS.read_text().split("## Recordings")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|\n ").split("|")] for line in section.splitlines() if line[:1] == "|"
    ]
    listed = {row[0]: row for row in rows[2:]}
    assert set(listed) == {*LOSSLESS, *LOSSY}
    for name, variants in LOSSLESS.items():
        suffixes = {suffix for variant, _, _ in variants for suffix in re.findall(r"\.(\w+)", variant)}
        assert set(listed[name][1].split(", ")) == suffixes or not suffixes
        assert {int(bits) for bits in listed[name][2].split(", ")} == {b for _, depths, _ in variants for b in depths}
    for name, variants in LOSSY.items():
        assert set(filter(None, listed[name][1].split(", "))) == {variant.rpartition(".")[2] for variant in variants}


@pytest.mark.parametrize("name", ["ffv1-10.mkv", "ffv1-12.mkv"])
def test_what_cannot_be_read_exactly_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"pixel format .* cannot be read without changing the counts: convert it"):
        open_recording(golden_video(name, tmp_path)[0])


def lying(folder: Path, images: np.ndarray, suffix: str, factor: float) -> Path:
    """A video whose header says `factor` times as many frames as it has."""
    path = write_video(folder / f"a{suffix}", images, code="FFV1")
    data = bytearray(path.read_bytes())
    said = int(len(images) * factor)
    if suffix == ".avi":
        for name, at in ((b"avih", 24), (b"strh", 40)):
            place = data.index(name) + at
            assert struct.unpack_from("<I", data, place)[0] == len(images)
            struct.pack_into("<I", data, place, said)
    else:
        place = data.index(b"\x44\x89\x88") + 3  # the duration, in milliseconds
        assert struct.unpack_from(">d", data, place)[0] == len(images) * 40
        struct.pack_into(">d", data, place, said * 40.0)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("factor", [0.5, 2])
@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_frames_are_counted_whatever_the_header_says(tmp_path: Path, suffix: str, factor: float) -> None:
    images = frames(COUNT, HEIGHT, WIDTH, 16)
    (tmp_path / "source").mkdir()
    lying(tmp_path / "source", images, suffix, factor)
    report = ingest(tmp_path / "source", "s", tmp_path / "data", tmp_path / "staging")
    found = sequence.load(tmp_path / "data" / "s" / "a")
    assert found.frames == COUNT and found.notes == (
        f"the container declares {COUNT * factor:.0f} frames, {COUNT} decode",
    )
    assert f"a: {found.notes[0]}" in report.messages
    np.testing.assert_array_equal(np.stack(list(found.read())), images)


@pytest.mark.parametrize(
    "name",
    [
        "h264-size-changes.mkv",
        "h264-size-changes.mp4",
        "h265-size-changes.mkv",
        "mjpeg-size-changes.avi",
        "png-size-changes.mov",
    ],
)
def test_another_size_in_the_middle_of_a_video_is_refused(tmp_path: Path, name: str) -> None:
    """OpenCV hands out frames of one size all the same: cut off, or with what lay in memory beyond."""
    path = golden_video(name, tmp_path)[0]
    says = rf"^{name}: frame 4 is 64x48, those before are 48x32: a recording has one size; cut it there"
    with pytest.raises(InputError, match=says):
        list(open_recording(path).frames())


def test_another_depth_in_the_middle_of_a_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pixel format"):
        list(open_recording(golden_video("h264-depth-changes.mkv", tmp_path)[0]).frames())


def test_a_change_of_the_encoder_alone_is_none(tmp_path: Path) -> None:
    assert len(list(open_recording(golden_video("h264-profile-changes.mkv", tmp_path)[0]).frames())) == 8
