"""An open tar: mapped, or read in a way that survives what may happen to the file meanwhile.

A mapping is the fastest: a clip is rows of an array that lies in the page cache. But where a mapped file is made shorter,
or its disk fails, the system kills the process (SIGBUS). The shards' writer never changes a tar in place, so that cannot
come from here; it can from a copy over the file, or from a network file system. `GuardedTar` reads instead of mapping and
raises `OSError`.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np


class MappedTar:
    """Arrays are read-only views of the mapped file, which stays mapped as long as one of them lives."""

    def __init__(self, file: BinaryIO) -> None:
        self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, offset: int, dtype: str, shape: Sequence[int]) -> np.ndarray:
        return np.frombuffer(self.map, dtype, math.prod(shape), offset).reshape(shape)


class GuardedTar:
    """Arrays own their memory. The file stays open as long as this does. `OSError` where the bytes cannot be had."""

    def __init__(self, file: BinaryIO) -> None:
        self.handle = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.handle)

    def read(self, offset: int, dtype: str, shape: Sequence[int]) -> np.ndarray:
        found = np.empty(shape, dtype)
        rest = memoryview(found.reshape(-1).view(np.uint8))
        while len(rest):
            count = os.preadv(self.handle, [rest], offset)
            if not count:
                raise OSError(0, "the file has become shorter")
            offset, rest = offset + count, rest[count:]
        return found
