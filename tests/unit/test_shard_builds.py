"""Building shards: the same bytes whoever builds them and whatever was there before, and never a half-written set."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import frames, tree, write_video

from irstd.config import GradientConfig, ShardConfig, SplitConfig
from irstd.data import sequence, shard_build, shard_plan, shards
from irstd.data.ingest import ingest
from irstd.data.loader import ClipLoader
from irstd.data.manifest import SPLITS, Manifest, read_all
from irstd.data.windows import Windows
from irstd.errors import InputError
from tests.conftest import CONFIG

LATER = "b"  # the sequence that the tests add and take away; of the train split


@pytest.fixture(autouse=True)
def small_tars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tars a split, and no waiting for the disk."""
    monkeypatch.setattr(shard_plan, "TARGET_BYTES", 20_000)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def without(sample_data: Path, tmp_path: Path) -> Path:
    """A copy of the data without `LATER`; its split is given already."""
    shutil.copytree(sample_data, tmp_path / "without")
    shutil.rmtree(tmp_path / "without" / "sample" / LATER)
    return tmp_path / "without"


def verified(out: Path) -> str:
    """Read every frame of the set `sample` as the loader does; returns the digest."""
    manifest = Manifest.read(out / "sample")
    for split in SPLITS:
        windows = Windows([manifest], split)
        for number, sample in enumerate(windows.samples):
            windows.targets(number)
            for row in range(len(sample.crc32)):
                windows.verify(number, row)
    return manifest.digest


def _reversed(run, jobs):
    return [run(job) for job in [*jobs][::-1]][::-1]


def _threads(run, jobs):
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(run, jobs))


def _processes(run, jobs):
    # The planning is done: a fresh process needs nothing but the job.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(run, jobs))


@pytest.mark.parametrize("executor", [map, _reversed, _threads, _processes])
def test_the_bytes_do_not_depend_on_who_builds(executor, sample_data, tmp_path):
    steps: list[tuple[str, int, int]] = []
    shards.build(sample_data, tmp_path / "plain", CONFIG)
    shards.build(sample_data, tmp_path / "out", CONFIG, map=executor, progress=lambda *step: steps.append(step))
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
    count = len([*(tmp_path / "out" / "sample").glob("*.tar")])
    assert count > 5 and steps == [("sample", done, count) for done in range(count + 1)]


def test_a_second_build_writes_no_tar(sample_data, tmp_path):
    first = shards.build(sample_data, tmp_path, CONFIG)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "sample").glob("*.tar")}
    assert shards.build(sample_data, tmp_path, CONFIG) == first
    assert {path.name: path.stat().st_ino for path in (tmp_path / "sample").glob("*.tar")} == before


def test_growing_gives_the_bytes_of_a_fresh_build(sample_data, without, tmp_path):
    shards.build(without, tmp_path / "out", CONFIG)
    content = Manifest.read(tmp_path / "out" / "sample").content
    before = {_keys(s): (tmp_path / "out" / "sample" / s["file"]).stat() for s in content["shards"]}
    shards.build(sample_data, tmp_path / "out", CONFIG)
    shards.build(sample_data, tmp_path / "fresh", CONFIG)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")
    moved = kept = 0
    for shard in Manifest.read(tmp_path / "out" / "sample").content["shards"]:
        now = (tmp_path / "out" / "sample" / shard["file"]).stat()
        if old := before.pop(_keys(shard), None):
            assert (now.st_ino, now.st_mtime_ns) == (old.st_ino, old.st_mtime_ns)
            kept += 1
        moved += not old
    assert kept > 4 and 1 <= moved <= 2  # the new sequence, and the tar whose border it moved
    shards.build(without, tmp_path / "out", CONFIG)
    shards.build(without, tmp_path / "less", CONFIG)
    assert tree(tmp_path / "out") == tree(tmp_path / "less")


def _keys(shard: dict) -> tuple[str, ...]:
    return tuple(sample["key"] for sample in shard["samples"])


def test_new_labels_rewrite_their_tar_alone(sample_source, sample_data, tmp_path):
    shutil.copytree(sample_data, tmp_path / "data")
    shutil.copytree(sample_source, tmp_path / "source")
    shards.build(tmp_path / "data", tmp_path / "out", CONFIG)
    before = tree(tmp_path / "out" / "sample")
    path = tmp_path / "source" / "e.annotations.json"
    labels = json.loads(path.read_text())
    labels["frames"][0]["boxes"][0][0] -= 1
    path.write_text(json.dumps(labels))
    ingest(tmp_path / "source", "sample", tmp_path / "data", tmp_path / "staging", update=True)
    shards.build(tmp_path / "data", tmp_path / "out", CONFIG)
    after = tree(tmp_path / "out" / "sample")
    assert before.keys() == after.keys()
    changed = {name for name in after if after[name] != before[name]}
    # The sequence is the only one of its split, and its first frame is in the halo of its second sample.
    assert changed == {"manifest.json"} | {name for name in after if name.startswith("val-")}


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code catches it."""


class Steps:
    """Counts the steps by which a build changes what lies on the disk, and kills it before the chosen one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stop: int | None = None
        self.taken: list[str] = []
        system = [(os, name) for name in ("replace", "rename", "link")] + [(Path, name) for name in ("unlink", "mkdir")]
        for module, name in [*system, (shard_build, "write_tar"), (shutil, "rmtree")]:
            monkeypatch.setattr(module, name, self._counted(name, getattr(module, name)))

    def _counted(self, name: str, function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            if len(self.taken) == self.stop:
                raise Killed
            self.taken.append(name)
            return function(*arguments, **options)

        return call

    def build(self, data: Path, out: Path, config: ShardConfig = CONFIG, stop: int | None = None) -> bool:
        """Whether the build came to its end."""
        self.stop, self.taken = stop, []
        try:
            shards.build(data, out, config)
        except Killed:
            return False
        finally:
            self.stop = None
        return True


def inodes(out: Path, wanted: set[bytes]) -> dict[bytes, int]:
    """Inodes by content of the tars in `out`, finished ones of a killed build too, that are among `wanted`."""
    found = {path.read_bytes(): path.stat().st_ino for path in out.rglob("*.tar")}
    return {content: inode for content, inode in found.items() if content in wanted}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    monkeypatch.setattr(shard_plan, "TARGET_BYTES", 100_000)
    return Steps(monkeypatch)


@pytest.mark.slow
def test_a_build_goes_on_wherever_it_was_killed(sample_data, without, tmp_path, steps):
    for name, data in ("less", without), ("more", sample_data):
        shards.build(data, tmp_path / name, CONFIG)
    old, new = verified(tmp_path / "less"), verified(tmp_path / "more")
    wanted = {path.read_bytes() for path in (tmp_path / "more").rglob("*.tar")}
    stop = unreadable = 0
    while True:
        out = tmp_path / str(stop)
        shutil.copytree(tmp_path / "less", out)
        if steps.build(sample_data, out, stop=stop):
            break
        if not (out / "sample").exists():
            # No file system exchanges two folders everywhere: between two renamings there is none. The next build
            # begins with putting it back.
            unreadable += 1
            steps.build(sample_data, out, stop=3)
            assert verified(out) == old
        assert verified(out) in (old, new)
        finished = inodes(out, wanted)
        assert steps.build(sample_data, out)
        assert tree(out) == tree(tmp_path / "more"), f"killed before step {stop}"
        assert finished.items() <= inodes(out, wanted).items(), f"killed before step {stop}: a tar was written twice"
        stop += 1
    assert stop > 20 and unreadable == 1


@pytest.mark.slow
@pytest.mark.parametrize("when", ["tars written", "set complete"])
def test_what_killed_builds_left_is_never_taken_for_something_else(sample_data, without, tmp_path, steps, when):
    """Two builds of different shards are killed, the second before each of its steps; a third makes either of them."""
    other = CONFIG.model_copy(update={"gradient": GradientConfig(operator="sobel")})  # tars of the same sizes
    wanted = {"more": CONFIG, "other": other}
    shards.build(without, tmp_path / "less", CONFIG)
    for name, config in wanted.items():
        shards.build(sample_data, tmp_path / name, config)
    shutil.copytree(tmp_path / "less", tmp_path / "counted")
    steps.build(sample_data, tmp_path / "counted")
    last = {name: len(steps.taken) - steps.taken[::-1].index(name) for name in ("write_tar", "rename")}
    # After the last tar its note and the tar itself are renamed; the last renaming puts the set in its place.
    first = last["write_tar"] + 2 if when == "tars written" else last["rename"] - 2
    shutil.copytree(tmp_path / "less", tmp_path / "killed")
    assert not steps.build(sample_data, tmp_path / "killed", stop=first)
    stop, done = 0, False
    while not done:
        name = [*wanted][stop % 2]
        out = tmp_path / f"{name}-{stop}"
        shutil.copytree(tmp_path / "killed", out)
        done = steps.build(sample_data, out, other, stop=stop)
        shards.build(sample_data, out, wanted[name])
        assert tree(out) == tree(tmp_path / name), f"killed before step {stop}, then {name}"
        stop += 1
    assert stop > 20


def test_a_killed_process_leaves_the_old_shards_and_its_finished_tars(sample_data, without, tmp_path):
    out = tmp_path / "out"
    shards.build(without, out, CONFIG)
    old = verified(out)
    script = """if True:
        import os, signal, sys
        from pathlib import Path
        from irstd.config import ShardConfig
        from irstd.data import shard_plan, shards
        shard_plan.TARGET_BYTES = 20_000
        def kill_after_the_third(run, jobs):
            for count, job in enumerate(jobs, 1):
                yield run(job)
                if count == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
        # Other chunks: every tar is another.
        shards.build(Path(sys.argv[1]), Path(sys.argv[2]), ShardConfig(frames=5, chunk=3), map=kill_after_the_third)
    """
    done = subprocess.run([sys.executable, "-c", script, sample_data, out], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert verified(out) == old and read_all(out)[0].digest == old
    assert len(ClipLoader(out, "train", batch_size=2)) > 0

    ran: list[str] = []

    def watched(run, jobs):
        for job in jobs:
            ran.append(job.shown.name)
            yield run(job)

    config = CONFIG.model_copy(update={"chunk": 3})
    shards.build(sample_data, out, config, map=watched)
    shards.build(sample_data, tmp_path / "fresh", config)
    assert tree(out) == tree(tmp_path / "fresh")
    assert len(ran) == len([*(out / "sample").glob("*.tar")]) - 3


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_arrival_gives_the_bytes_of_one_build(sample_data, tmp_path, seed):
    """The splits are given; which of the sequences were there before, and when, leaves no trace in the shards."""
    rng = random.Random(seed)
    names = sorted(path.name for path in (sample_data / "sample").iterdir() if path.is_dir())
    data, held = tmp_path / "data", set()
    (data / "sample").mkdir(parents=True)
    shutil.copy(sample_data / "sample" / "splits.json", data / "sample")
    for step in range(4):
        wanted = {*names} if step == 3 else {*rng.sample(names, rng.randint(1, len(names)))}
        for name in held - wanted:
            shutil.rmtree(data / "sample" / name)
        for name in rng.sample(sorted(wanted - held), len(wanted - held)):
            shutil.copytree(sample_data / "sample" / name, data / "sample" / name)
        held = wanted
        shards.build(data, tmp_path / "grown", CONFIG, map=rng.choice([map, _reversed, _threads]))
        shards.build(data, tmp_path / f"fresh{step}", CONFIG)
        assert tree(tmp_path / "grown") == tree(tmp_path / f"fresh{step}")


def test_a_build_without_news_touches_nothing(sample_data, tmp_path):
    def stats() -> dict[str, tuple[int, int]]:
        files = [tmp_path, *tmp_path.rglob("*")]
        return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files if file.name != ".lock"}

    shards.build(sample_data, tmp_path, CONFIG)
    before = stats()
    shards.build(sample_data, tmp_path, CONFIG)
    assert stats() == before


@pytest.mark.parametrize("harm", ["flipped", "longer", "gone"])
def test_a_harmed_tar_alone_is_written_again(sample_data, tmp_path, harm):
    shards.build(sample_data, tmp_path, CONFIG)
    before = tree(tmp_path)
    harmed, *others = sorted((tmp_path / "sample").glob("*.tar"))
    inodes = [path.stat().st_ino for path in others]
    content = bytearray(harmed.read_bytes())
    content[len(content) // 2] ^= 1
    harmed.write_bytes(content + bytes(512) if harm == "longer" else content)
    if harm == "gone":
        harmed.unlink()
    shards.build(sample_data, tmp_path, CONFIG)
    assert tree(tmp_path) == before and [path.stat().st_ino for path in others] == inodes


def test_a_long_recording_is_decoded_once(tmp_path, monkeypatch):
    """Its tars follow each other in one process: the second goes on where the first stopped."""
    images = frames(40, 40, 48)
    write_video(tmp_path / "source" / "long.mkv", images)
    (tmp_path / "source" / "long.csv").write_text("frame,x,y,w,h\n")
    everything = SplitConfig(by="block", train=1, val=0, gate=0, test=0)
    ingest(tmp_path / "source", "one", tmp_path / "data", tmp_path / "staging", shares=everything)
    decoded: list[int] = []
    read = sequence.Sequence.read
    monkeypatch.setattr(sequence.Sequence, "read", lambda self: (decoded.append(1) or f for f in read(self)))
    shards.build(tmp_path / "data", tmp_path / "shards", ShardConfig(frames=5, chunk=4, split=everything))
    assert len([*(tmp_path / "shards" / "one").glob("*.tar")]) > 3 and len(decoded) == 40
    for sample in Windows([Manifest.read(tmp_path / "shards" / "one")], "train").samples:
        assert sample.halo == min(4, sample.first)
    verified_frames = [*_stored(tmp_path / "shards" / "one")]
    assert [index for index, _ in verified_frames] == [*range(40)]
    for index, frame_HW in verified_frames:
        np.testing.assert_array_equal(frame_HW, images[index])


def _stored(folder: Path) -> Iterator[tuple[int, np.ndarray]]:
    """(index, frame) of every key frame in the tars of a set."""
    for shard in Manifest.read(folder).content["shards"]:
        for sample in shard["samples"]:
            offset, _, dtype, shape = sample["members"]["frames.npy"]
            frames_nHW = np.memmap(folder / shard["file"], dtype, "r", offset, tuple(shape))
            for row in range(sample["halo"], len(frames_nHW)):
                yield sample["first_frame"] + row - sample["halo"], frames_nHW[row]


def test_a_set_that_is_gone_leaves_the_shards(sample_source, sample_data, tmp_path):
    shutil.copytree(sample_data, tmp_path / "data")
    ingest(sample_source, "other", tmp_path / "data", tmp_path / "staging")
    out = tmp_path / "out"
    found = shards.build(tmp_path / "data", out, CONFIG)
    assert [*found] == ["other", "sample"] == [m.set for m in read_all(out)]
    assert found["other"] != found["sample"]  # the keys name their set
    kept = tree(out / "sample")
    shutil.rmtree(tmp_path / "data" / "other")
    (out / ".other.building").mkdir()  # of a build that was killed
    (out / ".mine").mkdir()
    shards.build(tmp_path / "data", out, CONFIG)
    assert sorted(path.name for path in out.iterdir()) == [".lock", ".mine", "manifest.json", "sample"]
    assert [m.set for m in read_all(out)] == ["sample"] and tree(out / "sample") == kept


def test_a_folder_that_is_not_ours_is_refused(sample_data, tmp_path):
    for name, files in {
        "files": ["notes.txt"],
        "folders": ["holiday/photo.jpg"],
        "index of another": ["manifest.json", "holiday/photo.jpg"],
        "looks hidden": [".thesis.old/text.tex"],
    }.items():
        out = tmp_path / name
        for file in files:
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            (out / file).write_text('{"name": "a web page", "sets": 1}')
        before = tree(out)
        with pytest.raises(InputError, match="holds .* and no index of shards; name an empty or a new folder"):
            shards.build(sample_data, out, CONFIG)
        assert tree(out) == before
    with pytest.raises(InputError, match="is no folder"):
        shards.build(sample_data, tmp_path / "files" / "notes.txt", CONFIG)


def test_what_else_lies_beside_shards_stays(sample_data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".sample.building").mkdir()  # of a first build that was killed
    (out / ".lock").touch()
    shards.build(sample_data, out, CONFIG)
    index = (out / "manifest.json").read_bytes()
    for file in ("holiday/photo.jpg", ".thesis.old/text.tex", "page/manifest.json"):
        (out / file).parent.mkdir()
        (out / file).write_text('{"set": "page", "digest": "-", "counts": {}}')
    shutil.copytree(out / "sample", out / "copy")  # somebody's, who may know why
    before = tree(out)
    (out / "manifest.json").write_text((out / "manifest.json").read_text() + " ")
    shards.build(sample_data, out, CONFIG)
    assert tree(out) == before | {"manifest.json": tree(out)["manifest.json"]}
    assert json.loads((out / "manifest.json").read_bytes()) == json.loads(index) and [*json.loads(index)["sets"]] == [
        "sample"
    ]
    before = tree(out)
    shutil.copytree(sample_data / "sample", tmp_path / "data" / "holiday")
    with pytest.raises(InputError, match="holiday: is there and holds no shards"):
        shards.build(tmp_path / "data", out, CONFIG)
    assert tree(out) == before


def test_a_first_build_killed_before_its_index_goes_on(sample_data, tmp_path):
    digest = shards.build(sample_data, tmp_path / "out", CONFIG)
    before = tree(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    assert shards.build(sample_data, tmp_path / "out", CONFIG) == digest and tree(tmp_path / "out") == before


def test_a_set_that_is_gone_leaves_whatever_a_killed_build_of_it_left(sample_data, tmp_path):
    out, data = tmp_path / "out", tmp_path / "data"
    shutil.copytree(sample_data, data)
    shutil.copytree(data / "sample", data / "other")
    for path in (data / "other").glob("*/sequence.json"):
        path.write_text(path.read_text().replace('"set": "sample"', '"set": "other"'))
    shards.build(data, out, CONFIG)
    # Killed after the set took its place, before the one before was removed.
    shutil.copytree(out / "other", out / ".other.old")
    shutil.rmtree(data / "other")
    shards.build(data, out, CONFIG)
    shards.build(sample_data, tmp_path / "fresh", CONFIG)
    assert tree(out) == tree(tmp_path / "fresh")
