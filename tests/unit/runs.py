"""What tests of training runs share."""

from __future__ import annotations

import shutil
from pathlib import Path


class Keeper:
    """A report callable that keeps every checkpoint, as `epoch-N` or `step-N`, and may die after one of them."""

    def __init__(self, folder: Path, die_after: int | None = None, by: str = "epoch") -> None:
        self.folder, self.die_after, self.by, self.metrics = folder, die_after, by, []

    def __call__(self, metrics, folder):
        self.metrics.append(metrics)
        shutil.copytree(folder, self.folder / f"{self.by}-{metrics[self.by]}")
        if metrics[self.by] == self.die_after:
            raise KeyboardInterrupt
