"""The journal of a sweep: a JSON object a line, appended and flushed, never changed.

What happened is the only state: searcher, stopping rule and trials are made again by reading it. A line that a dying process
left unfinished counts as not written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from irstd.errors import WorkError
from irstd.files import writing

Event = dict[str, Any]


class Journal:
    """`path` None: kept in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self, mend: bool = True) -> list[Event]:
        """All events but an unfinished last line, which is cut off with `mend`: whoever only looks may see the line that a
        search is writing at this moment."""
        if self.path is None or not self.path.is_file():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if mend and len(whole) < len(content):
            with writing(self.path), self.path.open("r+b") as file:
                file.truncate(len(whole))
        events = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                events.append(json.loads(line))
            except ValueError:
                raise WorkError(
                    f"{self.path}: line {number} is damaged; remove the folder {self.path.parent}: the trials that were "
                    "trained are taken from their run folders"
                ) from None
        return events

    def write(self, event: Event) -> None:
        """Append `event`; it is on the disk when this returns."""
        if self.path is None:
            return
        line = json.dumps(event, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
