"""Freed memory stays with the process, so that the next step need not fetch it again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from irstd.training.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    kept = [torch.ones(size << 20) for size in (4, 4, 12, 4, 8)]
    while kept:
        kept.pop()
for _ in range(6):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these options")
def test_a_step_faults_no_page_in_a_second_time():
    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    pages = 32 * 4 * 256
    assert faults("kept") < pages / 4
    assert faults("usual") > pages / 2
