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
import ctypes, resource, sys, threading
from irstd.training.heap import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    kept = []
    for size in (16 << 20, 80 << 20, 48 << 20, 16 << 20, 32 << 20):
        kept.append(libc.malloc(size))
        ctypes.memset(kept[-1], 1, size)
    while kept:
        libc.free(kept.pop())

def run():
    if "kept" in sys.argv:
        assert keep_freed_memory()
    for _ in range(5):
        step()
    before = faults()
    for _ in range(2):
        step()
    print(faults() - before)

thread = threading.Thread(target=run)
thread.start() if "thread" in sys.argv else run()
"""


def faults(*modes: str) -> int:
    """Pages that two steps fetch, after five."""
    run = [sys.executable, "-c", SCRIPT, *modes]
    return int(subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | HEAP).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these options")
@pytest.mark.parametrize("thread", [False, True])
def test_a_step_fetches_no_page_that_it_has_had(thread):
    """Also in a thread, in which Ray trains, and blocks larger than glibc keeps of itself."""
    where = ("thread",) if thread else ()
    usual = faults(*where)
    if usual < 1000:
        pytest.skip(f"this system fetches memory in large pages: {usual} in two steps")
    assert faults("kept", *where) < usual / 4


@pytest.mark.parametrize("name", CHOSEN)
def test_what_the_user_has_chosen_stays(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert not keep_freed_memory()
