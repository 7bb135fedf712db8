"""Faults while shards are built: full disks, workers that die, two builds at once. One line each, and nothing broken."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from recordings import tree, write_video

from irstd.data import shard_plan, shards
from irstd.data.manifest import Manifest, read_all
from irstd.data.processes import Processes
from irstd.errors import InputError, WorkError
from tests.conftest import CONFIG


@pytest.fixture(autouse=True)
def small_tars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_plan, "TARGET_BYTES", 20_000)


@pytest.fixture
def built(sample_data: Path, tmp_path: Path) -> Path:
    """An undisturbed build."""
    shards.build(sample_data, tmp_path / "undisturbed", CONFIG)
    return tmp_path / "undisturbed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, whose size the test sets."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def limit(disk: Path, **options: int) -> None:
    given = ",".join(f"{name}={value}" for name, value in options.items())
    subprocess.run(["mount", "-o", f"remount,{given}", disk], check=True)


KINDS = {
    "tar": r"/sample/(train|val|gate|test)-\d{6}\.tar",
    "manifest": r"/sample/manifest\.json",
    "index": r"/shards/manifest\.json",
    "folder": r"/shards(/\.sample\.building)?",
}


def kind(line: str, out: Path) -> str:
    """Which file the message names; it is one line that says what to do."""
    found = re.fullmatch(r"(\S+): cannot be written \(No space left on device\); free some space, then .*", line)
    assert found and "\n" not in line and found[1].startswith(str(out)), line
    return next(name for name, pattern in KINDS.items() if re.search(pattern + "$", found[1]))


@pytest.mark.parametrize("what", ["nr_inodes", pytest.param("size", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line_wherever_it_strikes(sample_data, built, small_disk, what):
    """Room for one file more, or for a few blocks, each time, until the build comes to its end."""
    out = small_disk / "shards"
    files = sum(1 for _ in built.rglob("*"))
    blocks = sum(-(-path.stat().st_size // 4096) for path in built.rglob("*") if path.is_file())
    rooms = (
        [2 + n for n in range(2 * files + 8)] if what == "nr_inodes" else [4096 * n for n in range(2, 3 * blocks, 4)]
    )
    struck: set[str] = set()
    finished: set[int] = set()
    for room in rooms:
        limit(small_disk, **{what: room})
        try:
            shards.build(sample_data, out, CONFIG)
            break
        except WorkError as error:
            struck.add(kind(str(error), out))
        # What was finished once is there still, and nothing half-written takes room.
        inodes = {path.stat().st_ino for path in out.rglob("*.tar")}
        assert finished <= inodes
        finished = inodes
        assert not [*out.rglob("*.part")] and not (out / "manifest.json").exists()
    assert tree(out) == tree(built) and {path.stat().st_ino for path in out.rglob("*.tar")} >= finished
    assert struck == ({"folder", "tar", "manifest"} if what == "nr_inodes" else {"tar", "manifest"})


def test_a_disk_too_full_for_the_index(sample_data, built, small_disk):
    out = small_disk / "shards"
    shards.build(sample_data, out, CONFIG)
    (out / "manifest.json").unlink()
    limit(small_disk, nr_inodes=2 + sum(1 for _ in out.rglob("*")))
    with pytest.raises(WorkError) as raised:
        shards.build(sample_data, out, CONFIG)
    assert kind(str(raised.value), out) == "index"
    limit(small_disk, nr_inodes=100)
    shards.build(sample_data, out, CONFIG)
    assert tree(out) == tree(built)


def test_a_full_disk_leaves_the_old_shards(sample_data, built, small_disk):
    out = small_disk / "shards"
    shards.build(sample_data, out, CONFIG)
    old = tree(out)
    used = sum(path.stat().st_blocks * 512 for path in out.rglob("*"))
    other = CONFIG.model_copy(update={"chunk": 3})
    failed = 0
    for room in range(used, 4 * used, 5 * 4096):
        limit(small_disk, size=room)
        try:
            shards.build(sample_data, out, other)
            break
        except WorkError:
            kept = {name: sha for name, sha in tree(out).items() if not name.startswith(".sample")}
            assert kept == old and read_all(out)[0].content["chunk"] == 4
            failed += 1
    assert failed > 3 and read_all(out)[0].content["chunk"] == 3 and not [*out.glob(".sample*")]


def test_files_beyond_a_limit_are_one_line(sample_data, tmp_path):
    """Without the right to mount: the system refuses to let a tar grow."""
    script = """if True:
        import resource, signal, sys
        from pathlib import Path
        from irstd.config import ShardConfig
        from irstd.data import shards
        from irstd.errors import IrstdError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
        try:
            shards.build(Path(sys.argv[1]), Path(sys.argv[2]), ShardConfig(frames=5, chunk=4))
        except IrstdError as error:
            print(error)
            sys.exit(error.status)
    """
    command = [sys.executable, "-c", script, sample_data, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and not done.stderr
    assert re.fullmatch(
        r"\S+/sample/train-000000\.tar: cannot be written \(File too large\); free some .*\n", done.stdout
    )
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == [".lock", ".sample.building"]


def test_a_place_that_cannot_be_written_is_the_user_s_to_change(sample_data):
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    with pytest.raises((InputError, WorkError), match=r"^/proc/shards: cannot be written \("):
        shards.build(sample_data, Path("/proc/shards"), CONFIG)


def _die(job: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse(job: int) -> int:
    if job == 1:
        raise InputError("job 1: is wrong; mend it")
    return job


def test_a_worker_that_dies_ends_the_build_with_one_line(sample_data, built, tmp_path):
    out = tmp_path / "out"

    def dying(run, jobs):
        yield run(jobs[0])
        yield from Processes(2)(_die, jobs[1:])

    with pytest.raises(WorkError, match=r"^a worker process died .*goes on where it stopped.*--workers$"):
        shards.build(sample_data, out, CONFIG, map=dying)
    first = {path.stat().st_ino for path in out.rglob("*.tar")}
    assert len(first) == 1
    shards.build(sample_data, out, CONFIG)
    assert tree(out) == tree(built) and first <= {path.stat().st_ino for path in out.rglob("*.tar")}


def test_what_a_worker_raises_ends_the_build(sample_data, sample_scenes, tmp_path):
    with pytest.raises(InputError, match="^job 1: is wrong; mend it$"):
        [*Processes(2)(_refuse, range(6))]
    shutil.copytree(sample_data, tmp_path / "data")
    write_video(tmp_path / "data" / "sample" / "a" / "a.mkv", sample_scenes["a"].frames_THW[:7])
    with pytest.raises(WorkError, match="a.*7 frames.*11"):
        shards.build(tmp_path / "data", tmp_path / "out", CONFIG, map=Processes(2))
    assert not (tmp_path / "out" / "sample").exists() and not [*(tmp_path / "out").rglob("*.part")]


def test_processes_give_every_result_with_one_thread_each():
    assert sorted(Processes(3)(_threads, range(5))) == [(job, 1) for job in range(5)]
    assert [*Processes(1)(_pid, range(2))] == [os.getpid()] * 2


def _threads(job: int) -> tuple[int, int]:
    import cv2

    return job, cv2.getNumThreads()


def _pid(job: int) -> int:
    return os.getpid()


def test_the_second_of_two_builds_waits_and_says_so(sample_data, built, tmp_path):
    out, said, found = tmp_path / "out", threading.Event(), {}
    out.mkdir()
    lines: list[str] = []

    def warn(line: str) -> None:
        lines.append(line)
        said.set()

    def second() -> None:
        found.update(shards.build(sample_data, out, CONFIG, warn=warn))

    thread = threading.Thread(target=second)
    with FileLock(out / ".lock"):
        thread.start()
        assert said.wait(30)
        assert [*out.iterdir()] == [out / ".lock"] and not found
    thread.join(30)
    assert lines == [f"shards: another build is at work in {out}; waiting for its end"]
    assert tree(out) == tree(built) and found["sample"] == Manifest.read(out / "sample").digest
