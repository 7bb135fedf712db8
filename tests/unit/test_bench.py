"""The benchmarks run, compare pixels before they time anything, and state ratios. Nothing here depends on speed."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from irstd.bench import baselines, infer, loader, memory, readers, shard, train
from irstd.bench.baselines import Scenes
from irstd.bench.timing import Timing, figure, interleaved, machine, pinned, timed
from irstd.bench.windows import Key, Window, exported, thinned, write_frame
from irstd.commands import bench
from irstd.config import GradientConfig, ShardConfig
from irstd.data import shard_plan
from irstd.data.gradient import GradientSpec, gradient_magnitude
from irstd.data.ingest import ingest
from irstd.data.shards import build
from irstd.errors import InputError, WorkError
from irstd.workspace import Workspace

# The reader of webdataset leaves its tars to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
TINY = Scenes(sequences=2, frames=9, height=48, width=56)
NARROW = {
    "narrow": {"model.name": "ggl-net", "model.width": 4},
    "clips": {"model.name": "bp-fpn", "model.width": 0.125},
}
RATIO = re.compile(r"^RATIO (.+): ([\d.]+) \[([\d.]+), ([\d.]+)\] over (\d+) rounds(?:; goal .*)?$", re.MULTILINE)


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
                f"{what}, {pair}"
                for what in ("whole frames", "crops 32x32")
                for pair in (
                    "counts: shards / careful",
                    "counts: shards / field",
                    "counts: shards / webdataset",
                    "counts: shards / copy",
                    "counts: shards / raw copy",
                    "tensor: shards / careful",
                    "tensor and masks: shards / careful",
                )
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
            lambda w: bench.train(w, None, 0.05, scenes=TINY, crop=32, networks=NARROW),
            [f"samples/s from shards / batch ready, {name}" for name in NARROW],
            id="train",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda w: bench.infer(w, 0.05, exported=False, scenes=TINY, width=4),
            ["detector / bare network"],
            id="infer",
        ),
        pytest.param(lambda w: bench.detect(w, 0.05, scenes=TINY, width=4), ["irstd detect / bare model"], id="detect"),
        pytest.param(
            lambda w: bench.doctor(w, 0.05, scenes=TINY),
            ["doctor / decoding alone, FFV1", "doctor / decoding alone, PNG"],
            id="doctor",
        ),
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


def test_loader_measures_shards_that_are_there_and_states_goals(
    workspace: Workspace, shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "GOAL_FRAMES", "48x56 uint8")
    monkeypatch.setattr(loader, "GOAL_CROP", 32)
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*")}
    bench.loader(workspace, shards, 0.05, crop=32)
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*")} == before
    text = capsys.readouterr().out
    assert len(RATIO.findall(text)) == 14
    found = re.findall(r"^RATIO (.+): ([\d.]+) \[.*; goal ([\d.]+): (held|missed)$", text, re.MULTILINE)
    assert {what: float(goal) for what, _, goal, _ in found} == {
        "whole frames, counts: shards / field": 30,
        "whole frames, counts: shards / copy": 0.5,
        "crops 32x32, counts: shards / careful": 50,
        "crops 32x32, counts: shards / field": 100,
        "crops 32x32, counts: shards / webdataset": 8,
        "crops 32x32, counts: shards / copy": 0.5,
        "crops 32x32, tensor: shards / careful": 20,
        "crops 32x32, tensor and masks: shards / careful": 20,
    }
    for _, ratio, goal, verdict in found:
        assert float(ratio) == float(goal) or verdict == ("held" if float(ratio) > float(goal) else "missed")
    with pytest.raises(InputError, match="no shards here"):
        bench.loader(workspace, shards / "nowhere", 0.05)


def test_loader_measures_shards_without_masks_and_maps_and_of_mixed_sizes(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(40, 50), (24, 70), (52, 30), (40, 50)]):
        values_HW = rng.integers(3000, 3400, size, np.uint16)
        cv2.imwrite(str(source / f"{number}.png"), values_HW)
        (source / f"{number}.csv").write_text("frame,x,y,w,h\n0,10,8,3,3\n")
    ingest(source, "stills", tmp_path / "data", tmp_path / "staging", bit_depth=12, shares=baselines.EVERYTHING)
    config = ShardConfig(split=baselines.EVERYTHING, gradient=GradientConfig(operator="none"))
    build(tmp_path / "data", tmp_path / "shards", config)
    bench.loader(workspace, tmp_path / "shards", 0.05, crop=32)
    text = capsys.readouterr().out
    assert len(RATIO.findall(text)) == 12 and "goal" not in text  # which are for other sizes
    assert "24x70 to 52x30 uint16; no masks in these shards" in text


@dataclass
class Sides:
    """The loader, the windows of its first epoch, and where their files and their tar are."""

    ours: loader.ClipLoader
    windows: dict[Key, Window]
    files: Path
    tar: readers.Tar


@pytest.fixture(params=[None, 32], ids=["whole", "crops"])
def sides(shards: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Sides:
    ours = loader.ClipLoader(shards, "train", batch_size=4, crop=request.param)
    windows = exported(ours, shards, tmp_path / "files")
    ours.set_epoch(0)
    tar = readers.Tar(tmp_path / "frames.tar", tmp_path / "files", list(windows.values()), 4)
    return Sides(ours, windows, tmp_path / "files", tar)


def test_all_sides_give_equal_pixels(sides: Sides) -> None:
    assert len(sides.windows) == 16  # of 18 key frames, as a train epoch drops the last, incomplete batch
    assert (len({(window.top, window.left) for window in sides.windows.values()}) > 1) == bool(sides.ours.crop)
    for product in loader.PRODUCTS:
        assert loader.check(sides.ours, sides.windows, product) == 3 * 4
    loader.check_tar(sides.tar)
    chosen = [window for windows, _ in sides.tar for window in windows]
    assert len(chosen) == 16 and {id(w) for w in chosen} == {id(w) for w in sides.windows.values()}
    (_, frame), window = next(iter(sides.windows.items()))
    assert window.stems[-1].name == f"{frame:06d}"
    assert readers.field([window])["frames"].shape == (1, 5, 3, 512, 512)


@pytest.mark.parametrize(
    ("kind", "product"), [("png", 0), ("png", 1), ("png", 2), ("bmp", 0), ("mask.png", 2)], ids=str
)
def test_one_differing_pixel_of_a_file_voids_the_loader_ratio(sides: Sides, kind: str, product: int) -> None:
    for path in sides.files.rglob(f"*[0-9].{kind}"):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        image[16:32, 16:32] ^= 1  # somewhere in every crop
        cv2.imwrite(str(path), image)
    with pytest.raises(WorkError, match="differ"):
        loader.check(sides.ours, sides.windows, loader.PRODUCTS[product])


def test_one_differing_frame_of_the_tar_voids_the_loader_ratio(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides.tar, "keys", {key: names[::-1] for key, names in sides.tar.keys.items()})
    with pytest.raises(WorkError, match="webdataset differs in the frames of bench/"):
        loader.check_tar(sides.tar)


@pytest.mark.parametrize(
    ("product", "name"),
    [
        (product, name)
        for product in loader.PRODUCTS
        for name in ("frames", "gradient", "masks")
        if name != "masks" or name in product.arrays
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_loader_that_gives_other_pixels_voids_the_ratio(sides: Sides, product: loader.Product, name: str) -> None:
    def wrong(batch: dict) -> dict:
        changed = batch[name].copy()
        changed[..., 3, 4] += 1
        return product.make(batch | {name: changed})

    with pytest.raises(WorkError, match="careful differs in the (frames|x|gradient|masks) of bench/"):
        loader.check(sides.ours, sides.windows, replace(product, make=wrong))


def test_crops_that_are_not_of_the_frame_are_refused(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = loader.ClipLoader(shards, "train", batch_size=4, crop=32)
    batch = next(iter(ours))
    batch["frames"][2, 1, 5, 6] ^= 1
    monkeypatch.setattr(loader.ClipLoader, "__iter__", lambda self: iter([batch]))
    with pytest.raises(WorkError, match="differ from the shards' own"):
        exported(ours, shards, tmp_path / "files")


def test_a_wrong_gradient_map_voids_the_loader_ratio(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    right = readers.gradient_magnitude
    monkeypatch.setattr(readers, "gradient_magnitude", lambda *a: right(*a) * np.float32(1 + 2**-8))
    with pytest.raises(WorkError, match="careful differs in the gradient"):
        loader.check(sides.ours, sides.windows, loader.PRODUCTS[0])


def test_large_shards_are_thinned_evenly(shards: Path, tmp_path: Path) -> None:
    assert thinned(shards, tmp_path / "none", 18) == shards
    few = thinned(shards, tmp_path / "part", 10)
    ours = loader.ClipLoader(few, "train", batch_size=5)
    windows = exported(ours, few, tmp_path / "files")
    assert len(windows) == 10 and {name for name, _ in windows} == {"bench/scene-0", "bench/scene-1"}
    assert loader.check(ours, windows, loader.PRODUCTS[0]) == 10


def test_memory_is_of_two_processes_and_two_sizes(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_plan, "TARGET_BYTES", 2**14)  # several tars
    bench.loader(workspace, None, 0.05, memory=True, scenes=Scenes(sequences=4, frames=8, height=48, width=56), crop=32)
    text = capsys.readouterr().out
    frames = re.findall(r"^0\.\d+ +(\d+) +([\d.]+) +([\d.]+)$", text, re.MULTILINE)
    few, many = (int(count) for count, *_ in frames)
    assert 0 < few < many == 32
    assert all(1 < float(start) < 1000 and 1 < float(end) < 1000 for _, start, end in frames)
    assert re.search(
        r"^MEMORY .* more of shards \(-?\d+ bytes a key frame\); goal 1 MB a GB: (held|missed)$", text, re.MULTILINE
    )
    assert list(workspace.home.iterdir()) == []


def test_private_memory_is_seen_to_grow() -> None:
    # Pages of its own: an array may be given memory that another has let go.
    with mmap.mmap(-1, 2**25, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as kept:
        before = memory.private()
        kept.write(b"\1" * 2**25)
        assert 0.9 < (memory.private() - before) / 2**25 < 2.5


def test_deep_counts_stay_exact_in_the_careful_files(tmp_path: Path) -> None:
    counts_HW = np.arange(3000, 3000 + 20 * 30, dtype=np.uint16).reshape(20, 30)
    write_frame(tmp_path / "000000", counts_HW)
    stems = (tmp_path / "000000",) * 2
    window = Window(stems, (counts_HW,) * 2, None, 4, 0, 8, 9, offset=0.0, scale=0.5, spec=GradientSpec())
    batch = readers.careful([window])
    assert batch["frames"].dtype == np.uint16
    np.testing.assert_array_equal(batch["frames"][0, 1], counts_HW[4:12, :9])
    whole_HW = gradient_magnitude(counts_HW, scale=0.5)
    np.testing.assert_array_equal(batch["gradient"][0], whole_HW[4:12, :9])
    assert cv2.imread(f"{stems[0]}.bmp", cv2.IMREAD_UNCHANGED).dtype == np.uint8


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
        train.measure(tmp_path, 0.05, shards, crop=32, networks=NARROW)


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
