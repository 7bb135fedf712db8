"""CPTV recordings: what the test encodes itself comes back exactly, and damage is one clear line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from recordings import shared

from irstd.config import ShardConfig
from irstd.data import shards
from irstd.data.cptv import CptvHeader, is_cptv, read_frames, read_header
from irstd.data.ingest import ingest
from irstd.data.loader import ClipLoader
from irstd.data.video import frames_at
from irstd.errors import InputError


def field(code: str, value: int | bytes, size: int = 4) -> bytes:
    data = value if isinstance(value, bytes) else value.to_bytes(size, "little")
    return bytes([len(data)]) + code.encode() + data


def section(letter: bytes, *fields: bytes) -> bytes:
    return letter + bytes([len(fields)]) + b"".join(fields)


def header(width: int, height: int, version: int = 2, *more: bytes, compression: int = 1) -> bytes:
    fields = (field("X", width), field("Y", height), field("C", compression, 1), field("D", b"bench"), *more)
    return b"CPTV" + bytes([version]) + section(b"H", *fields)


def twos_complement(values: list[int], bits: int) -> bytes:
    """The values side by side, `bits` each, highest bit first, zeros up to a whole byte."""
    text = "".join(format(value % (1 << bits), f"0{bits}b") for value in values)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def encoded(frame_HW: np.ndarray, before_HW: np.ndarray, bits: int, *more: bytes) -> bytes:
    """A frame's section, written pixel by pixel as the format's description reads."""
    row = []
    for y, line in enumerate(frame_HW.astype(int) - before_HW.astype(int)):
        row += list(line if y % 2 == 0 else line[::-1])
    steps = [int(b - a) for a, b in zip(row, row[1:], strict=False)]
    assert all(-(1 << (bits - 1)) <= step < 1 << (bits - 1) for step in steps)
    data = int(row[0]).to_bytes(4, "little", signed=True) + twos_complement(steps, bits)
    return section(b"F", field("w", bits, 1), field("f", len(data)), field("t", 60000), *more) + data


def recording(frames_THW: np.ndarray, bits: int, version: int = 2, *more: bytes) -> bytes:
    out = header(frames_THW.shape[2], frames_THW.shape[1], version, *more)
    before_HW = np.zeros_like(frames_THW[0])
    for frame_HW in frames_THW:
        out += encoded(frame_HW, before_HW, bits)
        before_HW = frame_HW
    return out


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content))
    return path


def scene(seed: int, low: int, high: int, shape: tuple[int, int, int] = (4, 5, 7)) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint16)


@pytest.mark.parametrize(("bits", "low", "high"), [(8, 2900, 2960), (9, 2900, 3020), (13, 0, 2000), (19, 0, 65536)])
@pytest.mark.parametrize("version", [1, 2])
def test_frames_come_back(tmp_path, bits, low, high, version):
    frames_THW = scene(bits, low, high)
    path = write(tmp_path / "a.cptv", recording(frames_THW, bits, version))
    found = list(read_frames(path))
    assert all(frame_HW.dtype == np.uint16 for frame_HW in found)
    assert np.array_equal(np.stack(found), frames_THW)
    assert read_header(path) == CptvHeader(version, 5, 7, None)


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 1, 6), (3, 6, 1), (1, 2, 3)])
def test_small_shapes(tmp_path, shape):
    frames_THW = scene(1, 0, 65536, shape)
    found = np.stack(list(read_frames(write(tmp_path / "a.cptv", recording(frames_THW, 19)))))
    assert np.array_equal(found, frames_THW)


def test_a_known_frame(tmp_path):
    """Bytes written out by hand: 3000, 3001 / 2999, 3003 with 4 bits a difference, the second line from the right."""
    data = (3000).to_bytes(4, "little") + bytes([0b0001_0010, 0b1100_0000])
    content = header(2, 2) + section(b"F", field("w", 4, 1), field("f", len(data))) + data
    (frame_HW,) = read_frames(write(tmp_path / "a.cptv", content))
    assert frame_HW.tolist() == [[3000, 3001], [2999, 3003]]


def test_unknown_fields_are_skipped_and_fps_is_read(tmp_path):
    frames_THW = scene(2, 2900, 2960)
    content = recording(frames_THW, 8, 2, field("Z", 9, 1), field("?", b"whatever"))
    path = write(tmp_path / "a.cptv", content)
    assert read_header(path).fps == 9.0
    assert np.array_equal(np.stack(list(read_frames(path))), frames_THW)


def test_a_background_is_no_frame_but_the_next_one_builds_on_it(tmp_path):
    background_HW, frame_HW = scene(3, 2900, 2960, (2, 5, 7))
    zeros_HW = np.zeros_like(frame_HW)
    content = header(7, 5) + encoded(background_HW, zeros_HW, 8, field("g", 1, 1))
    path = write(tmp_path / "a.cptv", content + encoded(frame_HW, background_HW, 8))
    (found_HW,) = read_frames(path)
    assert np.array_equal(found_HW, frame_HW)
    with pytest.raises(InputError, match="holds no frame"):
        list(read_frames(write(tmp_path / "b.cptv", content)))


@pytest.mark.parametrize("keep", [0.03, 0.2, 0.5, 0.9, 0.999])
def test_a_cut_file_is_not_a_shorter_recording(tmp_path, keep):
    path = write(tmp_path / "a.cptv", recording(scene(4, 2900, 3020, (30, 16, 16)), 9))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match=r"^day1/a\.cptv: .*(damaged|gzip)"):
        list(read_frames(path, "day1/a.cptv"))


def test_a_cut_stream_inside_whole_gzip(tmp_path):
    content = recording(scene(4, 2900, 3020), 9)
    for length in (3, 20, len(content) - 1, len(content) - 30):
        with pytest.raises(InputError, match="damaged"):
            list(read_frames(write(tmp_path / "a.cptv", content[:length])))


def test_one_flipped_byte_is_an_error_or_changes_nothing(tmp_path):
    frames_THW = scene(5, 2900, 3020, (6, 16, 16))
    path = write(tmp_path / "a.cptv", recording(frames_THW, 9))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(content), 60):
        broken = bytearray(content)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            found = np.stack(list(read_frames(path)))
        except InputError as error:
            assert "\n" not in str(error)
        else:  # the gzip header's time and system are not checked by anyone
            assert np.array_equal(found, frames_THW)


def bad(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


FRAME = section(b"F", field("w", 8, 1), field("f", 4 + 3)) + (2900).to_bytes(4, "little") + bytes(3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"no gzip at all", "gzip"),
        (bad(b"CPTW\2" + b"x" * 40), "no CPTV"),
        (bad(header(2, 2, 3) + FRAME), "version 3"),
        (bad(header(2, 2, 2, compression=0) + FRAME), "compression 0"),
        (bad(b"CPTV\2" + section(b"H", field("X", 2), field("C", 1, 1)) + FRAME), "'Y' is missing"),
        (bad(header(100000, 2) + FRAME), "at most 16384"),
        (bad(header(0, 2) + FRAME), "0x2 pixels"),
        (bad(header(2, 2)), "no frame"),
        (bad(header(2, 2) + b"Q" + FRAME), "frame 0: a section b'Q'"),
        (bad(header(2, 2) + FRAME.replace(field("w", 8, 1), field("w", 30, 1))), "30 bits"),
        (bad(header(2, 2) + FRAME.replace(field("f", 7), field("f", 1 << 30))), "bytes of 8 bits"),
        (bad(header(2, 2) + FRAME + FRAME.replace((2900).to_bytes(4, "little"), b"\0\0\1\0")), "outside 16 bits"),
        (bad(header(2, 2) + FRAME.replace((2900).to_bytes(4, "little"), b"\xff" * 4)), "outside 16 bits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_files_are_one_line(tmp_path, content, message):
    path = tmp_path / "a.cptv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(read_frames(path))
    assert str(caught.value).startswith("a.cptv: ") and "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        list(read_frames(tmp_path / "none.cptv"))


def test_names():
    assert is_cptv(Path("a/B.CPTV")) and not is_cptv(Path("a/.b.cptv")) and not is_cptv(Path("a/b.mkv"))


def test_real_recordings():
    """Both versions of the format; the same scene was written in each. The sums are those of another reader."""
    folder = shared("raw")
    first, second = (np.stack(list(read_frames(folder / f"{name}.cptv"))) for name in ("v1", "v2"))
    assert first.shape == (100, 120, 160) and np.array_equal(first, second)
    assert (first.min(), first.max()) == (2648, 3184)
    assert first[99, 119, -3:].tolist() == [2694, 2694, 2701] and int(first.sum(dtype=np.int64)) == 5168381733
    assert [read_header(folder / f"{name}.cptv").version for name in ("v1", "v2")] == [1, 2]


def test_counts_reach_the_loader_as_they_are(tmp_path):
    """Recording, ingest, shards, batch: equal to the bit; labels and rate come along."""
    source = tmp_path / "source"
    source.mkdir()
    scenes = {name: scene(seed, 2900, 3020, (6, 20, 24)) for seed, name in enumerate("abc")}
    for name, frames_THW in scenes.items():
        write(source / f"{name}.cptv", recording(frames_THW, 9, 2))
        (source / f"{name}.csv").write_text("frame,x,y,w,h\n2,3,4,2,2\n")
    ingest(source, "thermal", tmp_path / "data", tmp_path / "staging")
    shards.build(tmp_path / "data", tmp_path / "shards", ShardConfig(frames=3, chunk=4))
    seen = 0
    for split in ("train", "val", "test"):
        for batch in ClipLoader(tmp_path / "shards", split, frames=1, batch_size=1):
            name, index = batch["key"][0]
            expected = scenes[name.removeprefix("thermal/")][index]
            assert batch["frames"].dtype == np.uint16 and np.array_equal(batch["frames"][0, 0], expected)
            assert len(batch["boxes"][0]) == (index == 2)
            seen += 1
    assert seen == 18
    assert [frame_HW.tolist() for frame_HW in frames_at(source / "b.cptv", [0, 5])] == scenes["b"][[0, 5]].tolist()
