"""Frozen and flat frames are found where they are, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from recordings import frames, write_video

from irstd.data import sequence
from irstd.data.ingest import ingest
from irstd.data.marks import FrameMarks, described


def marks(images) -> dict[str, list[list[int]]]:
    found = FrameMarks()
    for image in images:
        found.add(image)
    return found.found()


@pytest.mark.parametrize("bits", [8, 16])
def test_runs(bits: int) -> None:
    images = frames(12, bits=bits)
    assert marks(images) == {}
    images[3:6] = images[2]
    images[8] = 7
    images[9:11] = 9
    assert marks(images) == {"frozen": [[3, 5], [10, 10]], "flat": [[8, 10]]}
    assert marks(images[:1]) == marks([]) == {}


def test_one_pixel_is_enough_to_differ() -> None:
    """A camera that looks at a still scene is not frozen, wherever the one count lies that moved."""
    for row, column in ((0, 0), (12, 16), (12, 0), (23, 31)):
        images = np.repeat(frames(1, bits=16), 2, axis=0)
        images[1, row, column] ^= 1
        assert marks(images) == {}
        flat = np.full((1, 24, 32), 300, np.uint16)
        flat[0, row, column] += 1
        assert marks(flat) == {}


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_small_frames(shape: tuple[int, int]) -> None:
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    flat = {"flat": [[0, 1]]} if image.size == 1 else {}
    assert marks([image, image.copy()]) == {"frozen": [[1, 1]]} | flat
    assert marks([image, image[::-1, ::-1] + 1]) == flat


def test_described() -> None:
    assert described({"frozen": [[120, 133]]}) == "frames 120-133 repeat the one before (frozen)"
    assert described({"frozen": [[5, 5]], "flat": [[0, 0]]}) == (
        "all pixels of frame 0 are equal (flat); frame 5 repeats the one before (frozen)"
    )
    runs = [[1, 1], [3, 4], [6, 6], [8, 9], [11, 11]]
    assert described({"flat": runs}) == "all pixels of frames 1, 3-4, 6 and 3 more are equal (flat)"


def test_ingest_finds_says_and_keeps_them(tmp_path: Path) -> None:
    images = frames(30, bits=14)
    images[12:20] = images[11]
    images[0] = 7
    write_video(tmp_path / "source" / "a.mkv", images)
    write_video(tmp_path / "source" / "b.mkv", frames(3))
    report = ingest(tmp_path / "source", "s", tmp_path / "data", tmp_path / "staging")
    said = "a: all pixels of frame 0 are equal (flat); frames 12-19 repeat the one before (frozen)"
    assert said in report.messages and not any(message.startswith("b:") for message in report.messages)
    a, b = sequence.sequences(tmp_path / "data", "s")
    assert json.loads((a.folder / "sequence.json").read_text())["marks"] == {"frozen": [[12, 19]], "flat": [[0, 0]]}
    assert (
        a.marks == {"frozen": [[12, 19]], "flat": [[0, 0]]} and a.to_json() == (a.folder / "sequence.json").read_text()
    )
    assert "marks" not in json.loads((b.folder / "sequence.json").read_text()) and b.marks == {}
    assert said in ingest(tmp_path / "source", "s", tmp_path / "data", tmp_path / "staging").messages
