"""The checkpoints of a run that no cluster keeps: the last two in its folder, each put there whole.

RUN/checkpoints/step-00001234/     while the run goes on
RUN/checkpoint/                    the last one, when it is over
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

from irstd.files import staged_folder
from irstd.training.checkpoint import Say, pick

UNDER_WAY = "checkpoints"
LAST = "checkpoint"
KEPT = 2
"""Checkpoints: the one before serves where the last is damaged."""


def under_way(folder: Path) -> list[Path]:
    """The checkpoints of the run folder `folder`, newest first."""
    place = folder / UNDER_WAY
    found = [p for p in place.iterdir() if re.fullmatch(r"step-\d+", p.name)] if place.is_dir() else []
    found.sort(key=lambda path: int(path.name.removeprefix("step-")), reverse=True)
    return [*([folder / LAST] if (folder / LAST).is_dir() else []), *found]


def newest(folder: Path, say: Say = print) -> Path | None:
    """The newest whole checkpoint of the run folder `folder`; None where there is none. Says what it passes over."""
    return pick(under_way(folder), say)


class Store:
    """Takes the reports of `irstd.training.loop.fit` for the run folder `folder`: pass it as `report`, and its `scratch`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch = folder / UNDER_WAY
        """Where a checkpoint is written before it is reported: on the same file system, so that a rename puts it in place."""

    def begin(self, say: Say = print) -> Path | None:
        """The checkpoint to go on from, if any. What a killed process left half-written goes; what is damaged is set aside."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        for left in self.scratch.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
        found = newest(self.folder, say)
        for path in under_way(self.folder):
            if path == found:
                break
            aside = self.scratch / f"damaged-{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)
        return found

    def __call__(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        """Put a checkpoint in its place, and remove those before the last two."""
        if checkpoint is None:
            return
        target = self.scratch / f"step-{metrics['step']:08d}"
        shutil.rmtree(target, ignore_errors=True)
        try:
            os.rename(checkpoint, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with staged_folder(target) as staged:
                shutil.copytree(checkpoint, staged, dirs_exist_ok=True)
        _flush(self.scratch)
        for path in [p for p in under_way(self.folder) if p.parent == self.scratch][KEPT:]:
            shutil.rmtree(path, ignore_errors=True)

    def finish(self) -> Path:
        """Leave the last checkpoint as RUN/checkpoint, and only it."""
        last = self.folder / LAST
        if (found := under_way(self.folder)) and found[0] != last:
            os.rename(found[0], last)
            _flush(self.folder)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return last


def _flush(folder: Path) -> None:
    """Names are on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
