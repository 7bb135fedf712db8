"""Which key frames make which batch: a function of seed, epoch, position and number of ranks, and of nothing else.

Training: an epoch is one permutation of all key frames from (seed, epoch). Step k of W ranks with B key frames each takes
the k-th run of W * B of it, and rank r the r-th part of that run. What is left over at the end, fewer than W * B, is not
given in this epoch. Every rank makes the same number of batches, all of B key frames.

Elsewhere the key frames stay in their order and nothing is left out: step k takes the k-th run of W * B, and rank r every
W-th of it from the r-th on. A last step of fewer key frames than ranks would give some of them nothing; the step before it
then leaves W key frames to it, so that every rank makes the same number of batches. With B = 1 there is nothing to leave:
there, and only there, some ranks make one batch fewer (measuring needs no step in common, only the sum at the end).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def permutation(seed: int, epoch: int, total: int) -> np.ndarray:
    """int64 [total]: the order of an epoch of training."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(total)


def steps(start: int, total: int, batch: int, world: int, drop_last: bool) -> Iterator[tuple[int, int]]:
    """The runs [start, stop) of key frames that the steps of all ranks together take, from position `start` on."""
    size = batch * world
    while start < total:
        stop = min(start + size, total)
        if drop_last and stop - start < size:
            return
        if not drop_last and batch > 1 and 0 < total - stop < world:
            stop -= world
        yield start, stop
        start = stop


def part(start: int, stop: int, rank: int, world: int, contiguous: bool) -> np.ndarray:
    """int64: the positions of the run [start, stop) that rank `rank` takes; may be none."""
    if contiguous:
        each = (stop - start) // world
        return np.arange(start + rank * each, start + (rank + 1) * each)
    return np.arange(start + rank, stop, world)
