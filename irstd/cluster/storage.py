"""A run's checkpoints in Ray's storage, a folder or a URL: which one the run goes on from, and the index that Ray keeps of them.

    STORAGE/<run>/checkpoint_<time>/                 as `irstd.training.checkpoint` writes them
    STORAGE/<run>/checkpoint_manager_snapshot.json   Ray's index, which Ray writes in place

What counts is what lies in the folders. The index is made again from them before a run goes on: a kill can tear it, and
Ray neither starts with a torn one nor passes over a damaged checkpoint.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.fs
import ray
from ray.train import Checkpoint
from ray.train.collective import broadcast_from_rank_zero

from irstd.training import checkpoint as checkpoints

INDEX = "checkpoint_manager_snapshot.json"
KEPT = 2
"""Checkpoints that are kept: the one before serves where the last is damaged."""

Say = Callable[[str], None]


class Storage:
    """The checkpoints of one run. `place`: Ray's storage, an absolute path or a URL."""

    def __init__(self, place: str, name: str) -> None:
        if "://" in place:
            self.files, path = pyarrow.fs.FileSystem.from_uri(place)
        else:
            self.files, path = pyarrow.fs.LocalFileSystem(), place
        self.folder = f"{path.rstrip('/')}/{name}"

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, newest first. One whose state cannot be read counts as newer than the others: it is damaged."""
        found = self.files.get_file_info(pyarrow.fs.FileSelector(self.folder, allow_not_found=True))
        names = [f.base_name for f in found if f.type is pyarrow.fs.FileType.Directory]
        places = [f"{self.folder}/{name}" for name in sorted(names) if name.startswith("checkpoint_")]
        places.sort(key=self._step, reverse=True)
        return [Checkpoint(place, self.files) for place in places]

    def _step(self, place: str) -> tuple[float, str]:
        try:
            with self.files.open_input_stream(f"{place}/state.json") as file:
                return int(json.loads(file.read())["step"]), place
        except (OSError, ValueError, KeyError, TypeError):
            return float("inf"), place

    def step(self, checkpoint: Checkpoint) -> int:
        """Of a whole checkpoint: how many steps were done."""
        return int(self._step(checkpoint.path)[0])

    def newest(self, say: Say = print) -> Checkpoint | None:
        """The newest whole checkpoint; says which damaged ones it passes over."""
        found = self.checkpoints()
        with contextlib.ExitStack() as stack:
            # Fetched one by one, where the storage is not here.
            folders = (Path(stack.enter_context(each.as_directory())) for each in found)
            opened: list[Path] = []
            chosen = checkpoints.pick(_noted(folders, opened), say)
            return found[opened.index(chosen)] if chosen else None

    def mend(self, say: Say = print) -> int | None:
        """Make the index anew from what lies there, without what is damaged; the step to go on from, or None.

        Only before a run goes on: nobody else may be writing. Damaged checkpoints that are newer than the newest whole one
        are removed.
        """
        found = self.checkpoints()
        chosen = self.newest(say)
        index = f"{self.folder}/{INDEX}"
        if chosen is None:
            if self.files.get_file_info(index).type is not pyarrow.fs.FileType.NotFound:
                self.files.delete_file(index)
            return None
        at = [each.path for each in found].index(chosen.path)
        whole = found[at : at + KEPT]
        self._write_index(index, [Path(each.path).name for each in reversed(whole)])
        for each in (*found[:at], *found[at + KEPT :]):
            self.files.delete_dir(each.path)
        return self.step(chosen)

    def _write_index(self, path: str, names: list[str]) -> None:
        results = [{"version": 0, "checkpoint_dir_name": name, "metrics": {}} for name in names]
        none = ("pending_training_results", "pending_validation_specs", "validated_checkpoint_dir_names",
                "timed_out_validation_checkpoint_dir_names", "failed_validation_checkpoint_dir_names")  # fmt: skip
        content: dict[str, Any] = dict.fromkeys(none, []) | {
            "ray_version": ray.__version__,
            "checkpoint_results": results,
            "checkpoint_report_indices": [*range(len(names))],
            "latest_checkpoint_result": results[-1],
            "current_report_index": len(names),
        }
        with self.files.open_output_stream(f"{path}.new") as file:
            file.write(json.dumps(content).encode())
        self.files.move(f"{path}.new", path)


@contextmanager
def agreed(storage: Storage, say: Say) -> Iterator[Path | None]:
    """On every worker of a run: a local folder with the checkpoint that all go on from; None where there is none."""
    first = ray.train.get_context().get_world_rank() == 0
    found = storage.newest(say) if first else None
    place = broadcast_from_rank_zero(found.path if found else None)
    if place is None:
        yield None
        return
    with Checkpoint(place, storage.files).as_directory() as folder:
        yield Path(folder)


def _noted(folders: Iterator[Path], opened: list[Path]) -> Iterator[Path]:
    for folder in folders:
        opened.append(folder)
        yield folder
