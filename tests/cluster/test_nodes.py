"""Two nodes: one is taken away in mid-run."""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.calls import Ended, assert_same, command, learnt, surroundings, weights
from tests.cluster.nodes import nodes
from tests.integration.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@contextmanager
def running(home: Path, *arguments: str) -> Iterator[Callable[[str], str]]:
    """A trainer under way; yields a callable that waits for a line and returns it."""
    process = subprocess.Popen(
        command(home, *arguments),
        cwd=ROOT,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    watchdog = threading.Timer(500, process.kill)
    watchdog.start()

    def until(pattern: str) -> str:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if re.search(pattern, line):
                return line
        raise AssertionError("\n".join(["it ended before: " + pattern, *lines]))

    until.lines = lines
    try:
        yield until
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
        assert process.wait() == 0, "\n".join(lines)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def temp():
    # Ray's socket paths end at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="irstd-n-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_node_that_comes_back_is_waited_for_and_the_bits_are_the_same(sample_shards, tmp_path, alone, temp):
    with nodes(tmp_path, tmp_path / "ray.log", temp) as cluster:
        second = cluster.add()
        with running(tmp_path, sample_shards, "--workers", "2", "--address", cluster.address) as until:
            until(r"^epoch 1")
            cluster.take_away(second)
            until(r"^worker \d was lost .*goes on from step \d+, try 2 of 3")
            until(r"^the cluster has 1 CPU left, the workers want 2: waits")
            cluster.add()
            until(r"^resumed .*, step [1-9]")
    assert_same(weights(tmp_path), weights(alone(2)[0]))


def test_a_run_of_a_changing_size_goes_on_with_the_nodes_that_are_left(sample_shards, tmp_path, alone, temp):
    with nodes(tmp_path, tmp_path / "ray.log", temp) as cluster:
        second = cluster.add()
        with running(tmp_path, sample_shards, "--workers", "1-2", "--address", cluster.address) as until:
            until(r"^trains with 2 worker")
            until(r"^epoch 1")
            cluster.take_away(second)
            until(r"^trains with 1 worker")
            until(r"^resumed .*, step [1-9]")
    ended = Ended(0, until.lines)
    assert not ended.said("the cluster has")
    assert learnt(ended) == learnt(alone(2)[1])
