"""Memory that a training step frees is kept for the next one, on a CPU."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # options of mallopt(3)
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""Variables by which the user has said how the heap shall be, say, that it shall be small."""


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, to the end of the process; False where the C library is another one or
    the user has chosen otherwise.

    It gives back the end of its heap at every chance, and what is larger than 32 MB always. A training step meets such
    chances all the way through its backward pass, and the next operation has to fault the same pages in again, which took a
    tenth to a fifth of a step's CPU time (benchmarks/RESULTS.md). The process holds what a step needs at the most, and
    about a tenth more, also between steps. That is the process's first heap: threads share it where `irstd.environment` has
    prepared the process, as it does for Ray's workers.
    """
    if any(name in os.environ for name in CHOSEN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, -1) and mallopt(MMAP_MAX, 0))
