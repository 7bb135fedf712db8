"""What waits for a run's log: nothing that trains waits for a tracking server.

Rows go to a thread of their own, in the order in which they were made, and stay here until the server has taken them. While it is
away they wait; the next row, or a little time, tries again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

RETRY = 1.0, 30.0
"""Seconds until the first and between later tries, which lie further and further apart."""
SAMPLES = 10_000
"""Rows without a step of which the newest are kept while the server is away: a day of them."""


@dataclass(frozen=True, eq=False)
class Row:
    """Values that were made at `time` (ms since 1970). `step` None: a sample of the machine, numbered where it is logged."""

    time: int
    step: int | None
    values: dict[str, float]


class Outbox:
    """Sends rows by `send`, which raises where they did not arrive; `say` tells of an absence once, and of its end.

    `temporary` says of an error whether it may go away by itself. After one that does not, nothing more is sent.
    """

    def __init__(
        self,
        send: Callable[[list[Row]], None],
        temporary: Callable[[Exception], bool],
        say: Callable[[str], None],
        where: str,
    ) -> None:
        self._send, self._temporary, self._say, self._where = send, temporary, say, where
        self._rows: deque[Row] = deque()
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._closing = self._refused = self._told = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="outbox")
        self._thread.start()

    def put(self, row: Row) -> None:
        """Hand over a row; returns at once."""
        if self._refused:
            return
        with self._lock:
            self._rows.append(row)
            if row.step is None and sum(each.step is None for each in self._rows) > SAMPLES:
                self._rows.remove(next(each for each in self._rows if each.step is None))
        self._woken.set()

    def close(self, patience: float) -> int:
        """Try once more to send what waits, for up to `patience` seconds; how many rows did not arrive."""
        self._closing = True
        self._woken.set()
        self._thread.join(patience)
        with self._lock:
            return len(self._rows)

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._woken.wait(pause or None)
            self._woken.clear()
            closing = self._closing
            with self._lock:
                rows = list(self._rows)
            if rows:
                try:
                    self._send(rows)
                except Exception as error:
                    if not self._temporary(error):
                        self._refused = True
                        self._say(f"irstd: {self._where} takes no more reports: {first_line(error)}; training goes on")
                        return
                    if not self._told:
                        self._told = True
                        self._say(f"irstd: {self._where} does not answer; training goes on, and its log follows")
                    pause = min(max(RETRY[0], 2 * pause), RETRY[1])
                else:
                    pause = 0.0
                    with self._lock:
                        sent = {id(row) for row in rows}
                        self._rows = deque(row for row in self._rows if id(row) not in sent)
                    if self._told:
                        self._told = False
                        self._say(f"irstd: {self._where} answers again; its log is brought up")
            if closing:
                return


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
