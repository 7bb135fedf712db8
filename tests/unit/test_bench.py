"""The benchmarks run, compare pixels before they time anything, and state ratios. Nothing here depends on speed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from irstd.bench import baselines, infer, loader, shard, train
from irstd.bench.baselines import Scenes
from irstd.bench.timing import Timing, figure, interleaved, machine, pinned, timed
from irstd.commands import bench
from irstd.errors import InputError, WorkError
from irstd.workspace import Workspace

TINY = Scenes(sequences=2, frames=9, height=48, width=56)
RATIO = re.compile(r"^RATIO (.+): ([\d.]+) \[([\d.]+), ([\d.]+)\] over (\d+) rounds$", re.MULTILINE)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / ".irstd")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return baselines.write_shards(TINY, tmp_path_factory.mktemp("scenes"))


@pytest.mark.parametrize(
    ("run", "ratios"),
    [
        pytest.param(
            lambda w: bench.loader(w, None, 0.05, scenes=TINY, crop=32),
            [
                "whole frames: shards / careful",
                "whole frames: shards / field",
                "crops 32x32: shards / careful",
                "crops 32x32: shards / field",
            ],
            id="loader",
        ),
        pytest.param(
            lambda w: bench.shard(w, 0.05, scenes=TINY),
            [
                "writer / decode + gradient + hash + write",
                "writer / the same + checksums",
                "two writers / one writer",
            ],
            id="shard",
        ),
        pytest.param(
            lambda w: bench.train(w, None, 0.05, scenes=TINY, crop=32, width=4),
            ["samples/s from shards / batch ready"],
            id="train",
        ),
        pytest.param(lambda w: bench.infer(w, 0.05, scenes=TINY, width=4), ["detector / bare network"], id="infer"),
    ],
)
def test_prints_what_was_run_and_its_ratios(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], run: Callable[[Workspace], None], ratios: list[str]
) -> None:
    run(workspace)
    text = capsys.readouterr().out
    found = RATIO.findall(text)
    assert [what for what, *_ in found] == ratios
    for _, middle, least, greatest, rounds in found:
        assert 0 < float(least) <= float(middle) <= float(greatest) and int(rounds) >= 3
    assert "checked: " in text and "/s" in text and f"{TINY.height}x{TINY.width}" in text
    assert "machine: " in text
    assert list(workspace.home.iterdir()) == []  # nothing is left behind


def test_loader_measures_shards_that_are_there(
    workspace: Workspace, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*")}
    bench.loader(workspace, shards, 0.05, crop=32)
    assert len(RATIO.findall(capsys.readouterr().out)) == 4
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*")} == before
    with pytest.raises(InputError, match="no shards here"):
        bench.loader(workspace, shards / "nowhere", 0.05)


def test_both_loaders_give_equal_pixels(shards: Path, tmp_path: Path) -> None:
    for crop in (None, 32):
        ours = loader.ClipLoader(shards, "train", batch_size=4, crop=crop)
        windows = loader._windows(ours, tmp_path / "files")
        assert len(windows) == TINY.sequences * TINY.frames
        corners = {(window.top, window.left) for window in windows.values()}
        assert (len(corners) > 1) == (crop is not None)
        assert loader._check(ours, windows) == 3 * 4
        key, window = next(iter(windows.items()))
        assert (window.stems[-1].name, key[1]) == (f"{key[1]:06d}", int(window.stems[-1].name))
        assert baselines.field_batch([window]).shape == (1, 5, 3, 512, 512)


def test_large_shards_are_thinned_evenly(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = loader.ClipLoader(shards, "train", batch_size=4)
    monkeypatch.setattr(loader, "LIMIT", 10)
    loader._thin(ours)
    windows = loader._windows(ours, tmp_path / "files")
    assert len(windows) == 10 and {name for name, _ in windows} == {"bench/scene-0", "bench/scene-1"}
    assert loader._check(ours, windows) == 8  # the batches of an epoch of ten


def test_deep_counts_stay_exact_in_the_careful_files(tmp_path: Path) -> None:
    counts_HW = np.arange(3000, 3000 + 20 * 30, dtype=np.uint16).reshape(20, 30)
    baselines.write_files(tmp_path / "000000", counts_HW)
    stems = (tmp_path / "000000",) * 2
    window = baselines.Window(stems, 4, 0, 8, 9, scale=0.5, spec=baselines.GradientSpec())
    frames_BTHW, gradient_BHW = baselines.careful_batch([window])
    assert frames_BTHW.dtype == np.uint16
    np.testing.assert_array_equal(frames_BTHW[0, 1], counts_HW[4:12, :9])
    whole_HW = baselines.gradient_magnitude(counts_HW, scale=0.5)
    np.testing.assert_array_equal(gradient_BHW[0], whole_HW[4:12, :9])
    assert cv2.imread(f"{stems[0]}.bmp", cv2.IMREAD_UNCHANGED).dtype == np.uint8


@pytest.mark.parametrize("ending", ["png", "bmp"])
def test_one_differing_pixel_of_a_file_voids_the_loader_ratio(shards: Path, tmp_path: Path, ending: str) -> None:
    ours = loader.ClipLoader(shards, "train", batch_size=4)
    windows = loader._windows(ours, tmp_path / "files")
    for path in (tmp_path / "files").rglob(f"*.{ending}"):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        image[7, 9] ^= 1
        cv2.imwrite(str(path), image)
    with pytest.raises(WorkError, match="differ"):
        loader._check(ours, windows)


def test_a_wrong_gradient_map_voids_the_loader_ratio(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = loader.ClipLoader(shards, "train", batch_size=4)
    windows = loader._windows(ours, tmp_path / "files")
    right = baselines.gradient_magnitude
    monkeypatch.setattr(baselines, "gradient_magnitude", lambda *a: right(*a) * np.float32(1 + 2**-8))
    with pytest.raises(WorkError, match="differ"):
        loader._check(ours, windows)


def test_a_writer_that_changes_pixels_voids_the_shard_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = shard.write_tar

    def wrong(path: Path, *arguments: object) -> dict:
        entry = right(path, *arguments)
        offset = entry["samples"][0]["members"]["frames.npy"][0]
        content = bytearray(path.read_bytes())
        content[offset + 5] ^= 1
        path.write_bytes(content)
        return entry

    monkeypatch.setattr(shard, "write_tar", wrong)
    with pytest.raises(WorkError, match="differs from the video"):
        shard.measure(tmp_path, 0.05, TINY)


def test_a_detector_on_other_pixels_voids_the_infer_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(infer.Detector):
        def __call__(self, frames_THW: np.ndarray, bit_depth: int | None = None) -> list:
            return super().__call__(255 - frames_THW, bit_depth)

    monkeypatch.setattr(infer, "Detector", Wrong)
    with pytest.raises(WorkError, match="differ in their pixels"):
        infer.measure(tmp_path, 0.05, TINY, width=4)


def test_a_loader_that_is_not_deterministic_voids_the_train_ratio(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, seeds = train.loader_for, iter(range(9))

    def wrong(*arguments: object, **more: object) -> loader.ClipLoader:
        found = right(*arguments, **more)
        found.seed = next(seeds)
        return found

    monkeypatch.setattr(train, "loader_for", wrong)
    with pytest.raises(WorkError, match="two different first batches"):
        train.measure(tmp_path, 0.05, shards, crop=32, width=4)


def test_waiting_is_a_part_of_the_step() -> None:
    feed = train.Feed(iter([{}, {}, {}]), "cpu", steps=3)
    assert len(list(feed)) == 3
    assert 0 <= feed.waited <= feed.total


def test_sides_take_turns_and_ratios_are_of_one_round() -> None:
    turns = []

    def side(name: str, times: list[float]) -> Callable[[], tuple[int, float]]:
        upcoming = iter(times)

        def work() -> tuple[int, float]:
            turns.append(name)
            return 2, next(upcoming)

        return work

    # The first of each warms up. Six seconds of both at once give three rounds.
    timing = interleaved({"a": side("a", [9, 1, 2, 4]), "b": side("b", [9, 10, 10, 10])}, seconds=6)
    assert "".join(turns) == "ab" * 4
    assert timing.seconds == {"a": [0.5, 1, 2], "b": [5, 5, 5]}
    ratio = timing.ratio("a", "b")
    assert (ratio.median, ratio.least, ratio.greatest, ratio.rounds) == (5, 2.5, 10, 3)
    assert str(ratio) == "5.00 [2.50, 10.0] over 3 rounds"
    assert timing.rate("a") == 1


def test_a_ratio_against_several_parts_adds_their_times() -> None:
    timing = Timing({"whole": [2.0, 4.0], "one": [1.0, 1.0], "two": [3.0, 1.0]})
    ratio = timing.ratio("whole", "one", "two")
    assert (ratio.least, ratio.greatest) == (0.5, 2.0)


def test_short_work_is_repeated_until_its_share_is_spent() -> None:
    calls = []

    def work() -> tuple[int, float]:
        calls.append(1)
        return 1, 0.125

    timing = interleaved({"a": work}, seconds=6)
    assert len(timing.seconds["a"]) == 15
    assert len(calls) == 1 + 15 * 4  # 0.4 s a round


def test_threads_are_pinned_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = torch.get_num_threads(), cv2.getNumThreads()
    with pytest.raises(RuntimeError), pinned():
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
        raise RuntimeError
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


def test_timed_counts_what_was_made() -> None:
    items, seconds = timed(lambda: 3)()
    assert items == 3 and seconds >= 0
    assert [figure(v) for v in (1234.5, 45.67, 1.234, 0.0123)] == ["1234", "45.7", "1.23", "0.012"]
    assert "torch" in machine(2) and machine(2).startswith("2 cores")
