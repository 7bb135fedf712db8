"""`irstd export`: a set of data/ in the layout of other tools."""

from __future__ import annotations

from pathlib import Path

from irstd import versioning
from irstd.commands.show import result, say
from irstd.data import exporters
from irstd.workspace import Workspace


def run(workspace: Workspace, set: str, format: str, out: Path) -> None:
    """Write the set into a new folder, whole or not at all."""
    versioning.fetch_data(workspace, say)
    report = exporters.export(
        workspace.data, set, out, format, lambda done, total, name: say(f"export {set}: {done} of {total} ({name})")
    )
    for message in report.messages:
        say(f"export {set}: {message}")
    say(f"export {set}: {report.sequences} sequences, {report.images} images as {format} in {out}")
    result(set=set, format=format, sequences=report.sequences, images=report.images)
