"""Builds killed at random moments: the next one ends with the bytes of an undisturbed build, and keeps what was finished."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from irstd.data import shard_plan, shards
from irstd.data.manifest import Manifest
from irstd.data.processes import Processes
from tests.conftest import CONFIG

KILLS = 60
OTHER = CONFIG.model_copy(update={"chunk": 3})
BUILD = """if True:
    import sys
    from pathlib import Path
    from irstd.config import ShardConfig
    from irstd.data import shard_plan, shards
    from irstd.data.processes import Processes
    shard_plan.TARGET_BYTES = 20_000
    if __name__ == "__main__":
        data, out, chunk, workers = sys.argv[1:]
        print("begins", flush=True)
        shards.build(Path(data), Path(out), ShardConfig(frames=5, chunk=int(chunk)), map=Processes(int(workers)))
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tars(out: Path, wanted: set[bytes]) -> dict[bytes, int]:
    """Inodes of the finished tars by their content, of those that the coming build wants."""
    found = {path.read_bytes(): path.stat().st_ino for path in out.rglob("*.tar")}
    return {content: inode for content, inode in found.items() if content in wanted}


def killed(work: Callable[[], object], delay: float) -> bool:
    """Run `work` in a copy of this process and kill it after `delay` seconds; False where it ended before."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.slow
def test_kills_at_random_moments(sample_data, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_plan, "TARGET_BYTES", 20_000)
    rng = random.Random(0)
    undisturbed = {}
    for config in CONFIG, OTHER:
        start = time.monotonic()
        shards.build(sample_data, tmp_path / str(config.chunk), config)
        duration = time.monotonic() - start
        undisturbed[config.chunk] = files(tmp_path / str(config.chunk))
    out, count, ends = tmp_path / "out", 0, 0
    shards.build(sample_data, out, CONFIG)
    for turn in range(KILLS):
        config = (OTHER, CONFIG)[turn % 2]
        wanted = {content for name, content in undisturbed[config.chunk].items() if name.endswith(".tar")}
        before = tars(out, wanted)
        # Killed one to three times on its way, then let go.
        for _ in range(rng.randint(1, 3)):
            count += killed(
                lambda config=config: shards.build(sample_data, out, config), rng.uniform(0, 1.2) * duration
            )
            now = tars(out, wanted)
            assert before.items() <= now.items()
            before = now
            if (out / "sample").exists():  # between two renamings it is not
                content = Manifest.read(out / "sample").content
                assert content["chunk"] in (3, 4)
                assert all((out / "sample" / shard["file"]).stat().st_size for shard in content["shards"])
        digest = shards.build(sample_data, out, config)
        assert files(out) == undisturbed[config.chunk] and digest["sample"]
        ends += before.items() <= tars(out, wanted).items()
    assert ends == KILLS and count > KILLS / 2


@pytest.mark.slow
def test_kills_of_a_build_over_processes(sample_data, tmp_path, monkeypatch):
    """The workers of a killed build end too, whatever they were doing, and do no harm to the next one."""
    monkeypatch.setattr(shard_plan, "TARGET_BYTES", 20_000)
    rng = random.Random(1)
    shards.build(sample_data, tmp_path / "undisturbed", OTHER)
    (tmp_path / "build.py").write_text(BUILD)
    for turn in range(8):
        out = tmp_path / str(turn)
        command = [sys.executable, tmp_path / "build.py", sample_data, out, "3", "2"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        if turn % 2:  # while tars are being written
            while process.poll() is None and not [*out.rglob("*.part"), *out.rglob("*.tar")]:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.05))
        else:
            time.sleep(rng.uniform(0, 1.5))
        workers = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        process.stdout.close()
        shards.build(sample_data, out, OTHER, map=Processes(2))  # at once: its workers may still be ending
        assert files(out) == files(tmp_path / "undisturbed")
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive
        shutil.rmtree(out)
