"""What tests of training runs share."""

from __future__ import annotations

import shutil
from pathlib import Path


class Keeper:
    """A report callable that keeps every checkpoint, and may die after one of them."""

    def __init__(self, folder: Path, die_after: int | None = None) -> None:
        self.folder, self.die_after, self.metrics = folder, die_after, []

    def __call__(self, metrics, folder):
        self.metrics.append(metrics)
        shutil.copytree(folder, self.folder / f"epoch-{metrics['epoch']}")
        if metrics["epoch"] == self.die_after:
            raise KeyboardInterrupt
