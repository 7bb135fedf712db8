"""Jobs over processes of this machine: a `map` that leaves nothing running behind it.

A worker has one thread: with as many workers as cores, more threads only take each other's turns.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from irstd.errors import WorkError

Job = TypeVar("Job")
Result = TypeVar("Result")


class Processes:
    """A `map` over up to `workers` processes; results come as they are ready, in any order.

    What a job raises ends it: jobs under way come to their end, the others are not begun. `WorkError` where a process
    dies. One worker, or one job, needs no other process than this one.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __call__(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        jobs = [*jobs]
        count = min(self.workers, len(jobs))
        if count <= 1:
            yield from map(function, jobs)
            return
        workers = pool(count)
        try:
            for future in as_completed([workers.submit(function, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise WorkError(
                "a worker process died (killed, or out of memory): the same command goes on where it stopped; if it "
                "dies again, ask for fewer with --workers"
            ) from error
        finally:
            workers.shutdown(cancel_futures=True)


def pool(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each, which end with this one however it ends."""
    # Not by fork, which would copy locks that threads of this process hold (OpenCV's, Ray's).
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """In each worker, before its first job."""
    import cv2

    cv2.setNumThreads(1)
    # Ctrl-C reaches every process of the terminal; the one that waits for the workers ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Nobody tells the workers of a killed process that it is gone: they would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
