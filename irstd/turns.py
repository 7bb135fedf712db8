"""Processes that would do the same work at the same time: one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def turn(path: Path, waits: Callable[[], object]) -> Iterator[None]:
    """One process at a time inside, by the lock file `path`; `waits` is called where another must end first.

    The lock is the system's: it goes with the process that holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waits()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def of_run(runs: Path, name: str, say: Callable[[str], object]) -> AbstractContextManager[None]:
    """The turn of the run `name` among those in the folder `runs`, whoever trains it."""
    return turn(runs / f".{name}.lock", partial(say, f"run {name}: another process trains it; waiting for its end"))
