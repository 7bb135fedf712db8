"""Jobs as Ray tasks: the tars of a build (the `map` of `irstd.data.shards.build`) or recordings on a cluster.

Every node has to reach what the jobs read and write under the same paths. A task that is lost with its node is run again:
it writes the same bytes under the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import ray

from irstd.cluster.faults import reason
from irstd.errors import IrstdError, WorkError

Job = TypeVar("Job")
Result = TypeVar("Result")


def tasks(
    function: Callable[[Job], Result], jobs: Iterable[Job], what: str = "shards", gpus: float = 0.0
) -> Iterator[Result]:
    """`map` over tasks of one core each (and of `gpus`) on the running Ray session; results as they are ready, in any order.

    What a job raises ends it, and `WorkError` where its processes die: jobs that have not begun are cancelled.
    """
    task = ray.remote(_one_thread).options(num_cpus=1, num_gpus=gpus, max_retries=2, name=function.__name__)
    waiting = [task.remote(function, job) for job in jobs]
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            yield ray.get(done[0])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, IrstdError):
            raise cause from error
        raise WorkError(f"{what}: a task failed: {reason(error)}; the same command goes on where it stopped") from error
    finally:
        for each in waiting:
            ray.cancel(each)


def _one_thread(function: Callable[[Job], Result], job: Job) -> Result:
    import cv2

    cv2.setNumThreads(1)
    return function(job)
