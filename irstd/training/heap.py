"""Memory that a training step frees is kept for the next one, on a CPU."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # options of mallopt(3)


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, to the end of the process; False where the C library is another one.

    It gives back the end of its heap at every chance, and what is larger than 32 MB always. A training step meets such
    chances all the way through its backward pass, and the next operation has to fault the same pages in again, which took a
    tenth to a fifth of a step's CPU time (benchmarks/RESULTS.md). The process holds what a step needs at the most, and
    about a tenth more, also between steps.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, -1) and mallopt(MMAP_MAX, 0))
