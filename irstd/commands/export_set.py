"""`irstd export SET`: a set of data/ in the layout of other tools."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from irstd import versioning
from irstd.commands.show import result, say
from irstd.data import exporters
from irstd.workspace import Workspace

EVERY = 3.0  # seconds between two lines of progress


def run(workspace: Workspace, set: str, format: str, out: Path) -> None:
    """Write the set into a new folder, whole or not at all."""
    versioning.fetch_data(workspace, say)
    report = exporters.export(workspace.data, set, out, format, _progress(set))
    for message in report.messages:
        say(f"export {set}: {message}")
    say(f"export {set}: {report.sequences} sequences, {report.images} images as {format} in {out}")
    result(set=set, format=format, sequences=report.sequences, images=report.images)


def _progress(set: str) -> Callable[[int, int, str], None]:
    """A line every few seconds: a set of stills has a thousand sequences."""
    last = time.monotonic()

    def show(done: int, total: int, name: str) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            say(f"export {set}: {done} of {total} ({name})")

    return show
