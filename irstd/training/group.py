"""The processes of one run, and what they must agree on. A process alone is a group of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import distributed

from irstd.errors import WorkError


class Group:
    """`rank` of this process and their number `world`. Every rank must make each call."""

    def __init__(self) -> None:
        grouped = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if grouped else 0
        self.world = distributed.get_world_size() if grouped else 1

    def told(self, value: Any) -> Any:
        """Rank 0's value."""
        given = [value]
        if self.world > 1:
            distributed.broadcast_object_list(given)
        return given[0]

    def all(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        found = [value] * self.world
        if self.world > 1:
            distributed.all_gather_object(found, value)
        return found

    def first(self, work: Callable[[], None]) -> None:
        """Rank 0 does the work; where it fails with a WorkError, all ranks end with the same line, and none waits for ever."""
        failed: WorkError | None = None
        if self.rank == 0:
            try:
                work()
            except WorkError as error:
                failed = error
        if line := self.told(str(failed) if failed else None):
            raise failed or WorkError(line)
