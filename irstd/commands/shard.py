"""`irstd shard`: shards/ from data/, through the stage `shard` of dvc.yaml."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from irstd import config, versioning
from irstd.commands.show import result, say
from irstd.data import sequence
from irstd.data import shards as building
from irstd.data.manifest import Manifest, read_all
from irstd.data.processes import Processes
from irstd.errors import InputError
from irstd.workspace import Workspace

_FOLLOW = "the workspace's shards follow params.yaml"


def run(
    workspace: Workspace, overrides: list[str], data: Path | None, out: Path | None, workers: int | None = None
) -> None:
    """With --out the plain function runs, outside DVC, and takes overrides; else params.yaml decides.

    `workers` processes (default: settings, else the cores); they never change the bytes.
    """
    if workers is not None:
        os.environ["IRSTD_SHARD_WORKERS"] = str(workers)  # the stage is a process of its own
    if out is not None:
        values = config.parse_overrides(overrides)
        _check_elsewhere(workspace, values, data or workspace.data, out)
        options = config.load(workspace.root, overrides=values).shard
        if data is None:
            versioning.fetch_data(workspace, say)
        with _executor(workspace, workers) as run:
            digests = building.build(
                (data or workspace.data).resolve(), out.resolve(), options, run, building.Lines(say)
            )
        say(f"shards of {', '.join(digests)} in {out}")
        result(**digests)
        return
    if overrides or data is not None:
        raise InputError(f"{_FOLLOW}; change shard.* there, or write elsewhere with --out DIR")
    ensure(workspace, quiet=False)


def _check_elsewhere(workspace: Workspace, values: dict[str, Any], data: Path, out: Path) -> None:
    """`InputError` where --out is no place of its own, or a key would be taken and change nothing."""
    for key in values:
        if not key.startswith("shard."):
            raise InputError(
                f"{key}: decides nothing about shards; irstd shard takes shard.* and builds every set of --data"
            )
    if re.match(r"[a-z][a-z0-9+.-]*:/", str(out)):  # a Path has lost one of the slashes
        raise InputError(f"--out {out}: shards are written to a folder; name one, and copy it to the store afterwards")
    for folder in (workspace.data, data):
        if out.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"--out {out}: lies in the data folder {folder}; name a folder outside it for the shards")
    if out.resolve() == workspace.shards.resolve() and (values or data.resolve() != workspace.data.resolve()):
        raise InputError(f"--out {out}: {_FOLLOW}; change shard.* there, or name another folder")


@contextmanager
def _executor(workspace: Workspace, workers: int | None) -> Iterator[building.Map]:
    """Processes of this machine; where settings.toml names a cluster and --workers is not given, its tasks."""
    if workers is not None or not workspace.settings["ray"]["address"]:
        yield Processes(workspace.shard_workers)
        return
    from irstd.cluster.session import session
    from irstd.cluster.shards import tasks

    with session(workspace) as resources:
        say(f"shard: tasks on {resources.where}, {resources.cpus:g} CPU; every node has to reach both folders")
        yield tasks


def ensure(workspace: Workspace, quiet: bool = True) -> bool:
    """Fetch the data and bring the shards up to date; False where nothing had to be done."""
    versioning.fetch_data(workspace, say)
    config.load(workspace.root)  # a mistake in params.yaml is said before DVC starts
    if not any(workspace.data.iterdir()):
        raise InputError(
            f"{workspace.relative(workspace.data)}: no data to shard; ingest recordings first (irstd ingest SOURCE --name NAME)"
        )
    ran = versioning.reproduce(workspace, "shard", say)
    found = read_all(workspace.shards)
    if not ran:
        say("shards: nothing has changed, kept as they are")
        # The build that left them out said why; it does not run again.
        for name in sorted({*sequence.sets(workspace.data)} - {manifest.set for manifest in found}):
            say(f"warning: shards: set {name} left out: it cannot be split (see shard.split.by=block in params.yaml)")
    if not quiet or ran:
        for manifest in found:
            say(f"  {manifest.set}: {counted(manifest)}; digest {manifest.digest[:12]}")
    if not quiet:
        result(**{m.set: m.digest for m in found})
    return ran


def counted(manifest: Manifest) -> str:
    """What a set has to train on and to measure with, for people."""
    counts = [
        f"{split} {c['labelled']} key frames in {c['sequences']} sequences"
        for split, c in manifest.content["counts"].items()
        if c["key_frames"]
    ]
    return ", ".join(counts) or "no labelled recording, so nothing to train on"
