"""Failure drills: `--chaos kill-worker@120` kills a process of the run at a step, once, so that one can see what becomes of it.

A drill decides nothing of the result and is no part of a run's identity. That it was done is written in the run folder
(`drills.json`) before anybody dies, so the run that goes on does not die again.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from irstd.errors import InputError
from irstd.files import read_json, write_json

FORMS = "kill-worker@STEP, kill-worker:RANK@STEP, kill-driver@STEP or kill-all@STEP"
DONE = "drills.json"


@dataclass(frozen=True)
class Drill:
    """Who dies when `step` steps are done: "worker" (that of `rank`), "driver", or "all"."""

    whom: str
    step: int
    rank: int = 0

    @classmethod
    def parse(cls, text: str | None) -> list[Drill]:
        """Drills, by commas; none of None. `InputError` with the forms where it is none of them."""
        found = []
        for each in text.split(",") if text is not None else ():
            form = re.fullmatch(r"kill-(worker|driver|all)(?::(\d+))?@(\d+)", each.strip())
            if not form or (form[2] and form[1] != "worker") or not int(form[3]):
                raise InputError(f"--chaos {each or text}: write {FORMS}, STEP from 1 on; several with commas")
            found.append(cls(form[1], int(form[3]), int(form[2] or 0)))
        return found

    def __str__(self) -> str:
        return f"kill-{self.whom}" + (f":{self.rank}" if self.whom == "worker" else "") + f"@{self.step}"

    @property
    def victims(self) -> str:
        return {"worker": f"worker {self.rank}", "driver": "the driver", "all": "the driver and all workers"}[self.whom]


def hook(drills: list[Drill], rank: int, ask: Callable[[Drill], bool]) -> Callable[[int], None]:
    """For a worker's loop, called with the number of steps done.

    `ask` has the driver note a drill. It returns False where it was done before, and not at all where the driver dies.
    """

    def stepped(step: int) -> None:
        for drill in drills:
            if step != drill.step or rank != drill.rank:
                continue
            time.sleep(1)  # what the workers printed before is shown
            if ask(drill):
                os.kill(os.getpid(), signal.SIGKILL)

    return stepped


class Drills:
    """The driver's side: what was done in the run folder `folder`."""

    def __init__(self, folder: Path, show: Callable[[str], None]) -> None:
        self.path, self.show = folder / DONE, show

    def done(self) -> list[str]:
        with suppress(OSError, ValueError):
            return list(read_json(self.path))
        return []

    def answer(self, drill: Drill) -> bool:
        """Whether the drill takes place now. It is noted first; this process ends here where its death is part of it."""
        done = self.done()
        if str(drill) in done:
            return False
        write_json(self.path, [*done, str(drill)])
        self.show(
            f"chaos {drill}: SIGKILL to {drill.victims}, at step {drill.step}; noted in {DONE}, so it happens once"
        )
        if drill.whom == "all":
            import psutil

            # A local Ray and its workers; those of a Ray that was up before end when they miss their driver.
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
        if drill.whom != "worker":
            os.kill(os.getpid(), signal.SIGKILL)
        return True
