"""Freed memory stays with the process, so that the next step need not fetch it again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from irstd.environment import HEAP
from irstd.training.heap import CHOSEN, keep_freed_memory

SCRIPT = """
import resource, sys, threading
import torch
from irstd.training.heap import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    kept = [torch.ones(size << 18) for size in (16, 80, 48, 16, 32)]
    while kept:
        kept.pop()

def run():
    if "kept" in sys.argv:
        assert keep_freed_memory()
    for _ in range(12):
        step()
    before = faults()
    for _ in range(4):
        step()
    print(faults() - before)

thread = threading.Thread(target=run)
thread.start() if "thread" in sys.argv else run()
"""


def faults(*modes: str) -> int:
    """Pages that four steps fetch, after twelve."""
    run = [sys.executable, "-c", SCRIPT, *modes]
    return int(subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | HEAP).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these options")
@pytest.mark.parametrize("thread", [False, True])
def test_a_step_fetches_no_page_that_it_has_had(thread):
    """Also in a thread, in which Ray trains, and blocks larger than glibc keeps of itself."""
    where = ("thread",) if thread else ()
    usual = faults(*where)
    if usual < 1000:
        pytest.skip(f"this system fetches memory in large pages: {usual} in four steps")
    assert faults("kept", *where) < usual / 4


@pytest.mark.parametrize("name", CHOSEN)
def test_what_the_user_has_chosen_stays(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert not keep_freed_memory()
