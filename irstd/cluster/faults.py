"""What ends a worker, and what is done about it.

A *fault* (a process that is killed, a node that is gone, a connection that broke) is tried again from the last checkpoint,
as long as there is a new checkpoint now and then. An *error* of the program (bad input, a loss that is no number, a damaged
shard, no memory) would come again: it ends the run at once, with its one line.
"""

from __future__ import annotations

import errno
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.train import UserCallback

from irstd import foreign
from irstd.cluster.console import Say
from irstd.errors import InputError, IrstdError, WorkError

TRIES = 3
"""How often workers may be lost, one time after the other, without a new checkpoint in between."""

PLACING = 10
"""How often a group of workers is waited for, a minute each, before the run ends."""

NOTICED = 60.0
"""Seconds within which a cluster has noticed that a node is gone."""

SETTLES = 5.0
"""Seconds for which a worker that lost its connection keeps quiet: whoever broke it is then known first."""

# What other workers say of one that is gone; gloo has no class of its own for it.
_BROKEN = re.compile(
    r"connection (closed|reset|refused)|gloo|nccl|socket|timed out|broken pipe|\b(tcp|file|hash|c10d)?store\b|\bpeer\b",
    re.IGNORECASE,
)
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN)
_FATES = {
    "Ray ended it, since its node ran out of memory": r"running low on memory|memory usage (exceeded|threshold)",
    "its node is gone": r"node (has )?died|node was|node_death|owner's node|unreachable|marked (as )?dead",
    "its process was killed or crashed": r"connection error code 2|SYSTEM_ERROR|SIGKILL",
    "it did not answer": r"timed out|hang",
    "it cannot be reached": r"temporarily unavailable",
}
_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.IGNORECASE)


@contextmanager
def told(rank: int) -> Iterator[None]:
    """Around a worker's work: an error of the program leaves as an `IrstdError` of one line, a fault as it is.

    The traceback of an error that is not ours is in Ray's log of the worker.
    """
    try:
        yield
    except IrstdError as error:
        # As one of the two: what travels to the driver is made anew there from its message alone.
        raise plain(error) from error
    except Exception as error:
        if passing(error):
            time.sleep(SETTLES)
            raise
        # Where it went before this worker's output was heard: a terminal gets one line.
        traceback.print_exc(file=sys.__stderr__)
        raise WorkError(_line(rank, error)) from error


def plain(error: IrstdError, before: str = "") -> IrstdError:
    """The same as an `InputError` or a `WorkError` and no subclass, with `before` in front of its line."""
    return (InputError if isinstance(error, InputError) else WorkError)(f"{before}{error}")


def passing(error: BaseException) -> bool:
    """Whether an exception of a worker speaks of something outside the program that broke, and may be whole the next time."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return False
    if isinstance(error, ray.exceptions.RayError | torch.distributed.DistError | torch.AcceleratorError):
        return "assert" not in str(error)  # a kernel's own check: an index that is out of bounds
    if isinstance(error, OSError):
        return error.errno in _PASSING or isinstance(error, ConnectionError | TimeoutError)
    return type(error) is RuntimeError and bool(_BROKEN.search(str(error)))


def _line(rank: int, error: Exception) -> str:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _MEMORY.search(str(error)):
        what = "the GPU's memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        return (
            f"worker {rank} has not enough of {what}; lower train.batch or data.crop, raise train.accumulate, or set "
            "train.activation_checkpointing=true"
        )
    return f"worker {rank}: {foreign.line(error)}"


class Watch(UserCallback):
    """Says what was lost and from where the run goes on; ends it where going on makes no sense. Lives beside Ray's controller.

    Args:
        step: of the checkpoint that the run goes on from, 0 where there is none.
        wanted: cores that the workers want together.
    """

    def __init__(self, say: Say, step: int, wanted: float) -> None:
        self.say, self.step, self.wanted = say, step, wanted
        self.lost = 0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if checkpoint is not None:
            self.step, self.lost = int(metrics[0].get("step", self.step)), 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, IrstdError):
                # Ray tries its own kind of error again, and no other.
                raise error
        self.lost += 1
        rank, error = min(worker_exceptions.items(), key=lambda item: (not _died(item[1]), item[0]))
        what = f"worker {rank} was lost ({fate(error)})"
        if self.lost >= TRIES:
            raise WorkError(
                f"{what}; it was the {TRIES}rd time without a new checkpoint; the same command goes on from step {self.step}"
            )
        self.say(f"{what}; goes on from step {self.step}, try {self.lost + 1} of {TRIES}")
        threading.Thread(target=self._short, name="places", daemon=True).start()

    def _short(self) -> None:
        """Say it where the cluster has become too small. Ray may lose a worker long before it knows that its node is gone."""
        deadline = time.monotonic() + NOTICED
        while self.lost and time.monotonic() < deadline:
            there = ray.cluster_resources().get("CPU", 0)
            if there < self.wanted:
                self.say(
                    f"the cluster has {there:g} CPU left, the workers want {self.wanted:g}: "
                    f"waits up to {PLACING} minutes for more"
                )
                return
            time.sleep(1)


def fate(error: BaseException) -> str:
    """What became of a worker, in words; Ray's own are ten lines of possible causes, without the signal."""
    text = " ".join(str(getattr(error, "health_check_failure", error)).split())
    if not _died(error):
        return reason(error)
    for words, pattern in _FATES.items():
        if re.search(pattern, text, re.IGNORECASE):
            return words
    return text.partition(". ")[0]


def _died(error: BaseException) -> bool:
    return isinstance(getattr(error, "health_check_failure", error), ray.exceptions.RayError)


def reason(error: BaseException) -> str:
    """The first cause of a failure in one line: a worker's own error where there is one."""
    seen: BaseException | None = error
    while seen is not None:
        failures = getattr(seen, "worker_failures", None)
        if failures:
            seen = next(iter(failures.values()))
            continue
        cause = (
            getattr(seen, "controller_failure", None)
            or getattr(seen, "health_check_failure", None)
            or getattr(seen, "cause", None)
            or seen.__cause__
        )
        if isinstance(seen, IrstdError) or not isinstance(cause, BaseException) or cause is seen:
            break
        seen = cause
    lines = [line for line in str(seen).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(seen).__name__


def cause(error: BaseException) -> IrstdError | None:
    """The program's own error that ended a run, if one did."""
    seen: Any = error
    while seen is not None and not isinstance(seen, IrstdError):
        seen = getattr(seen, "controller_failure", None) or getattr(seen, "cause", None) or seen.__cause__
    return seen
