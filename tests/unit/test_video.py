"""Reading recordings: exact counts, named grey rules, one line for what cannot be read."""

from __future__ import annotations

import base64
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import frames, shared, write_image, write_video

from irstd.data.containers import declared_bytes
from irstd.data.counts import CountHistogram, intensity_of
from irstd.data.video import is_recording, open_recording
from irstd.errors import InputError

# A frame of 16x16 pixels, 16-bit PNG in an avi, which FFmpeg decodes to big-endian grey. OpenCV cannot write such files.
BIG_ENDIAN = (
    "c-jl{baT5R#=zhh=BeQ08609E#K4e|Qk0WemYHF}z`)?(#LuuIkpT<@I2jliAxtPO0E7%+j1E9%Jpf7+mlWjyG1#oK%#>o^06%wR"
    "b&L$CW~Kn~e;|O#gKPlmPtyRhHK2A0fYnMcfX!mYwA(Ax&szehhy}_wFi1&e7zLwX6pVsVFbYP&C>RB!U=)mkQ7{Td!H5E71w{oe"
    "NPN(^17ci(5s8fu$2HCY8f#zyD$GyG%>kl}A0s$iL1FQOc{F{Ef>AIM0cgy(07&QNmt}&+TtQ>GodJICyj)UTKqjxJhf5HwC<T|L"
    "SsXS0fD~teM`SSrY%JJc^~g0KL(J2~F{ENna?XrX4dNRfOqUBa*dxNgP<@0kSSK;&Hb}dttDnm{r-Y`=lnO(Tc_2GMG-%uxWH$gN"
    "E=N%"
)


def read(path: Path, bit_depth: int | None = None) -> np.ndarray:
    return np.stack(list(open_recording(path, bit_depth).frames()))


@pytest.mark.parametrize(("bits", "declared", "dtype"), [(8, None, "uint8"), (14, 14, "uint16"), (16, None, "uint16")])
def test_ffv1_is_exact(tmp_path: Path, bits: int, declared: int | None, dtype: str) -> None:
    # A width that no decoder aligns to: rows are then not where a wrong stride expects them.
    images = frames(5, 22, 38, bits)
    recording = open_recording(write_video(tmp_path / "a.mkv", images, fps=12.5), declared)
    assert (recording.dtype, recording.bit_depth, recording.fps) == (dtype, bits, 12.5)
    found = list(recording.frames())
    assert all(frame.flags.c_contiguous and frame.dtype == dtype for frame in found)
    np.testing.assert_array_equal(np.stack(found), images)
    assert recording.grey_rule == "none"
    np.testing.assert_array_equal(np.stack(list(recording.frames())), images)  # a second pass


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """FFmpeg would take it for no name at all, and the process would end."""
    name = os.fsdecode(b"\xfcber.mkv")
    write_video(tmp_path / "a.mkv", frames(2)).rename(tmp_path / name)
    with pytest.raises(InputError, match=r"'\\udcfcber\.mkv': this name is no text in UTF-8 of one line: rename it"):
        open_recording(tmp_path / name)


def test_a_pixel_format_that_would_lose_counts_is_refused(tmp_path: Path) -> None:
    """Unconverted, OpenCV gives one byte of two for it; converted, eight bits. Either would pass for a recording."""
    (tmp_path / "a.avi").write_bytes(zlib.decompress(base64.b85decode(BIG_ENDIAN)))
    with pytest.raises(
        InputError, match=r"^a\.avi: its pixel format .* cannot be read without changing the counts: .*FFV1"
    ):
        open_recording(tmp_path / "a.avi")


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_yuv_video_gives_its_luma_plane(tmp_path: Path, suffix: str) -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 3 + 20, (6, 48, 1))
    recording = open_recording(write_video(tmp_path / f"a{suffix}", np.repeat(ramp[..., None], 3, axis=3)))
    found = np.stack(list(recording.frames()))
    assert found.shape == (6, 48, 64) and found.dtype == np.uint8
    assert recording.grey_rule == "luma"
    # Full range in MJPEG, 16 to 235 in MPEG-4: the counts are the container's own, so a ramp stays a ramp.
    expected = ramp.astype(float) if suffix == ".avi" else 16 + ramp.astype(float) * 219 / 255
    assert np.abs(found - expected).mean() < 3


def test_colour_becomes_grey_by_a_named_rule(tmp_path: Path) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
    recording = open_recording(write_video(tmp_path / "colour.mkv", colour))
    found = np.stack(list(recording.frames()))
    assert recording.grey_rule == "bt601"
    np.testing.assert_array_equal(found, np.stack([cv2.cvtColor(each, cv2.COLOR_BGR2GRAY) for each in colour]))
    blue, green, red = np.moveaxis(colour.astype(float), -1, 0)
    assert np.abs(found - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 1

    grey = frames(3, 16, 20)
    recording = open_recording(write_video(tmp_path / "equal.mkv", np.repeat(grey[..., None], 3, axis=3)))
    np.testing.assert_array_equal(np.stack(list(recording.frames())), grey)
    assert recording.grey_rule == "equal-channels"


@pytest.mark.parametrize("bits", [8, 16])
def test_equal_channels_and_bt601_agree(bits: int) -> None:
    """So a recording in which both kinds of frame occur is still one quantity."""
    values = np.arange(1 << bits, dtype=np.uint8 if bits == 8 else np.uint16)[None]
    np.testing.assert_array_equal(cv2.cvtColor(np.dstack([values] * 3), cv2.COLOR_BGR2GRAY), values)


@pytest.mark.parametrize(
    ("name", "bits", "channels", "rule"),
    [
        ("a.png", 8, 1, "none"),
        ("a.png", 16, 1, "none"),
        ("a.tif", 16, 1, "none"),
        ("a.bmp", 8, 1, "none"),
        ("a.png", 8, 3, "bt601"),
        ("a.png", 8, 4, "bt601"),
        ("a.png", 16, 4, "bt601"),
    ],
)
def test_still_images(tmp_path: Path, name: str, bits: int, channels: int, rule: str) -> None:
    image = frames(channels, 19, 31, bits)
    image = image[0] if channels == 1 else np.moveaxis(image, 0, -1)
    recording = open_recording(write_image(tmp_path / name, np.ascontiguousarray(image)))
    (found,) = recording.frames()
    expected = image if channels == 1 else cv2.cvtColor(np.ascontiguousarray(image[:, :, :3]), cv2.COLOR_BGR2GRAY)
    np.testing.assert_array_equal(found, expected)
    assert (recording.grey_rule, recording.bit_depth, recording.fps) == (rule, bits, None)


def test_palette_png_is_read_by_its_colours(tmp_path: Path) -> None:
    """Indices are not counts: entry 0 is white here, entry 1 black."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes([0, 1, 0]) for _ in range(2))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", b"\xff\xff\xff\0\0\0")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    recording = open_recording(tmp_path / "a.png")
    np.testing.assert_array_equal(next(recording.frames()), [[255, 0, 255]] * 2)
    assert recording.grey_rule == "equal-channels"


def test_tiff_pages_are_frames(tmp_path: Path) -> None:
    images = frames(20, 12, 14, 16)
    assert cv2.imwritemulti(str(tmp_path / "a.tiff"), list(images))
    np.testing.assert_array_equal(read(tmp_path / "a.tiff"), images)


def test_folder_of_frames_in_natural_order(tmp_path: Path) -> None:
    images = frames(12, 10, 11)
    for i, image in enumerate(images):
        write_image(tmp_path / "seq" / f"{i + 1}.bmp", image)
    (tmp_path / "seq" / "notes.txt").write_text("not a frame")
    assert is_recording(tmp_path / "seq") and not is_recording(tmp_path)
    np.testing.assert_array_equal(read(tmp_path / "seq"), images)


def test_intensity_is_exact() -> None:
    for bits in (8, 14, 16):
        images = frames(4, 21, 33, bits)
        found = intensity_of(iter(images))
        assert (found["min"], found["max"]) == (images.min(), images.max())
        expected = np.percentile(images, [50, 0.5, 99.5])
        np.testing.assert_allclose([found["median"], found["p005"], found["p995"]], expected, atol=1e-4)
    # A size that does not divide by four, and one frame of one count.
    assert intensity_of([np.full((3, 3), 7, np.uint8)]) == {"min": 7, "max": 7, "median": 7, "p005": 7, "p995": 7}


@pytest.mark.parametrize("shape", [(24, 32), (21, 33), (3, 3)])
def test_intensity_is_exact_where_frames_repeat(shape: tuple[int, int]) -> None:
    """From none to all of the pixels change from one frame to the next."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, dtype=np.uint8)]
    for share in (0, 0.01, 0.1, 0.2, 0.3, 1, 0, 0.05, 0.05):
        changed = np.roll(np.arange(np.prod(shape)) < share * np.prod(shape), rng.integers(1000)).reshape(shape)
        images.append(np.where(changed, rng.integers(0, 256, shape, dtype=np.uint8), images[-1]))
    histogram = CountHistogram()
    for image in images:
        histogram.add(image)
    np.testing.assert_array_equal(histogram.counts, np.bincount(np.stack(images).ravel(), minlength=256))


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mp4"])
def test_a_cut_video_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    images = frames(40, 48, 64)
    path = write_video(tmp_path / f"a{suffix}", np.repeat(images[..., None], 3, axis=3))
    need = declared_bytes(path)
    assert need is not None and need <= path.stat().st_size  # a whole file is not accused
    with pytest.raises(InputError, match=rf"^a\{suffix}: .*(truncated|damaged).*: ?.*copy it again"):
        list(open_recording(cut(path, share)).frames())


def test_an_mp4_whose_stream_ends_early_is_refused(tmp_path: Path) -> None:
    """The index first, as for the web, and the data cut and padded to its length: only decoding can tell."""
    path = write_video(tmp_path / "a.mp4", np.repeat(frames(60, 48, 64)[..., None], 3, axis=3))
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    size = int.from_bytes(data[at - 8 : at - 4], "big")
    data[at + size // 2 : at - 8 + size] = bytes(size - 8 - size // 2)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"^a\.mp4: truncated: \d+ of 60 frames decode: copy it again"):
        list(open_recording(path).frames())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_cut_image_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = cut(write_image(tmp_path / f"a{suffix}", frames(1, 60, 80)[0]), share)
    with pytest.raises(InputError, match=rf"^a\{suffix}: .*copy it again"):
        read(path)


def bomb(suffix: str) -> bytes:
    """A header that asks for 20000 x 20000 pixels and nothing behind it."""
    if suffix == ".png":
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 20000, 20000, 8, 0, 0, 0, 0, 0)
    if suffix == ".bmp":
        return b"BM" + bytes(12) + struct.pack("<Iii", 40, 20000, -20000) + bytes(28)
    if suffix == ".jpg":
        return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 20000, 20000, 1) + b"\1\x11\0\xff\xda\0\2\xff\xd9"
    entries = struct.pack("<HHII", 256, 4, 1, 20000) + struct.pack("<HHII", 257, 4, 1, 20000)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".tif"])
def test_a_huge_image_is_refused_by_its_header(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(bomb(suffix))
    with pytest.raises(InputError, match=r"20000x20000 pixels, at most 16384"):
        open_recording(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi", "a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("content", [b"", b"this is no recording, whatever its name says\n"])
def test_what_is_no_recording_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^{name}: .*copy it again from its source") as caught:
        open_recording(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_depth_is_checked_against_the_counts(tmp_path: Path) -> None:
    images = np.minimum(frames(4, bits=16), 9000)
    images[2, 3, 4] = 20000
    path = write_video(tmp_path / "a.mkv", images)
    with pytest.raises(InputError, match=r"^a\.mkv: frame 2 has a count of 20000, 14 bits end at 16383: .*--bit-depth"):
        read(path, 14)
    assert read(path, 15).max() == 20000
    with pytest.raises(InputError, match=r"bit depth 17 does not fit its uint16 pixels: declare 1 to 16"):
        open_recording(path, 17)
    with pytest.raises(InputError, match=r"bit depth 14 does not fit its uint8 pixels"):
        open_recording(write_image(tmp_path / "b.png", frames(1)[0]), 14)


def test_a_change_of_size_or_dtype_is_refused(tmp_path: Path) -> None:
    for i, image in enumerate([frames(1)[0], frames(1)[0], frames(1, 24, 33)[0]]):
        write_image(tmp_path / "size" / f"{i}.png", image)
    with pytest.raises(
        InputError, match=r"^size: frame 2 is 33x24 uint8, those before are 32x24 uint8: .*cut it there"
    ):
        read(tmp_path / "size")
    for i, bits in enumerate([8, 16]):
        write_image(tmp_path / "dtype" / f"{i}.png", frames(1, bits=bits)[0])
    with pytest.raises(InputError, match=r"^dtype: frame 1 is 32x24 uint16"):
        read(tmp_path / "dtype")
    write_image(tmp_path / "float.tif", np.zeros((4, 5), np.float32))
    with pytest.raises(InputError, match=r"^float\.tif: pixels are float32: give unsigned counts of 8 or 16 bits"):
        open_recording(tmp_path / "float.tif")


def test_nothing_is_printed(tmp_path: Path) -> None:
    """Neither OpenCV, FFmpeg nor libjpeg reach the terminal, for good files or bad ones."""
    write_video(tmp_path / "good.mkv", frames(3))
    write_video(tmp_path / "good.avi", np.repeat(frames(3)[..., None], 3, axis=3))
    cut(write_video(tmp_path / "cut.mp4", np.repeat(frames(9)[..., None], 3, axis=3)), 0.5)
    cut(write_image(tmp_path / "cut.jpg", frames(1)[0]), 0.9)
    (tmp_path / "junk.mkv").write_bytes(b"junk" * 100)
    code = (
        "import sys, pathlib\n"
        "from irstd.data.video import open_recording\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: list(open_recording(path).frames())\n"
        "    except ValueError: pass\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""


def test_real_recordings() -> None:
    raw = shared("raw")
    (thermal,) = open_recording(raw / "example_radiometric.tiff").frames()
    assert (thermal.shape, thermal.dtype, thermal.min(), thermal.max()) == ((512, 640), np.uint16, 6743, 7077)
    helicopter = open_recording(raw / "helicopter.avi")
    assert sum(1 for _ in helicopter.frames()) == 183
    assert helicopter.notes == ["the container declares 186 frames, 183 decode"]
    folder = open_recording(shared("atr") / "data20")
    assert sum(1 for _ in folder.frames()) == 100 and folder.grey_rule == "equal-channels"


def test_real_mp4_and_a_cut_copy_of_it(tmp_path: Path) -> None:
    source = shared("halmstad") / "Video_IR" / "IR_DRONE_067.mp4"
    recording = open_recording(source)
    assert sum(1 for _ in recording.frames()) == 306
    assert (recording.grey_rule, recording.fps, recording.height, recording.width) == ("luma", 30.0, 256, 320)
    (tmp_path / "a.mp4").write_bytes(source.read_bytes()[:-20000])
    with pytest.raises(InputError, match=r"^a\.mp4: truncated: \d+ of \d+ bytes are there: copy it again"):
        open_recording(tmp_path / "a.mp4")
