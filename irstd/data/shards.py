"""Build the shards of all sets from `data/`: what the `shard` stage of `dvc.yaml` runs.

A set is built in a folder beside its final one and takes its place by renaming, so a reader sees the old shards or the
new (`irstd.data.shard_build`). Tars whose inputs have not changed are kept; those that a killed build finished are taken
over by the next one.

    python -m irstd.data.shards            # in a workspace: data/ -> shards/, options from params.yaml
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from irstd.config import ShardConfig
from irstd.data import duplicates, sequence, splits
from irstd.data.doctor import stops
from irstd.data.manifest import SCHEMA, SPLITS, Manifest, write_index
from irstd.data.processes import Processes
from irstd.data.shard_build import Map, Progress, build_set, of_set
from irstd.data.shard_plan import Stretch
from irstd.errors import InputError
from irstd.files import read_json, writing
from irstd.turns import turn

_BLOCK = re.compile(r"(.+)\[(\d+):(\d+)\]")  # the label of a stretch that is a part of its sequence


class _CannotSplitError(InputError):
    """A set that has no train, val and test: left out where other sets have."""


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def build(
    data: Path,
    out: Path,
    config: ShardConfig,
    map: Map = map,
    progress: Progress | None = None,
    warn: Callable[[str], None] = _warn,
) -> dict[str, str]:
    """Shard every set of `data` into `out`/<set>/. Returns {set: digest}.

    `map` runs the jobs, one a tar, wherever it likes (`irstd.data.processes`, `irstd.cluster.shards`); the bytes do not
    depend on it. Sets that are gone from `data` leave `out`. A set that cannot be split is left out, and `warn` is told:
    one odd set does not stop the others. Where another build is at work in `out`, this one waits, and `warn` is told.
    Raises `InputError` where no set can be sharded, where a set would be split in another way than before, where
    labels hold what would poison training (`irstd.data.doctor.stops`) or splits near-duplicates, unless accepted by name, or
    where `out` holds something else than shards; `WorkError` where the disk is full or a worker dies: then the shards that were
    there are as they were, and the next build goes on.
    """
    names = sequence.sets(data)
    if not names:
        raise InputError(f"{data}: no data to shard; ingest recordings first (irstd ingest SOURCE --name NAME)")
    plans: dict[str, dict[str, list[Stretch]]] = {}
    left: dict[str, str] = {}
    for name in names:
        try:
            plans[name] = _plan(data, name, config)
        except _CannotSplitError as error:
            left[name] = str(error)
    if not plans:
        raise InputError("; ".join(f"set {name}: {reason}" for name, reason in left.items()))
    _check_place(out, plans)
    for name, plan in plans.items():
        _check_way(out / name, plan)
    for name, reason in left.items():
        warn(f"shards: set {name} left out: {reason}")
    stretches = [stretch for plan in plans.values() for found in plan.values() for stretch in found]
    if config.split.by == "block" and not left and not any("[" in stretch.label for stretch in stretches):
        warn("shards: shard.split.by=block decides nothing here: all groups have splits (splits.json)")
    for name, plan in plans.items():
        stops.check(name, _members(plan), config.waivers, warn)
    stops.check_waivers(
        config.waivers, {name: [s.name for s in sequence.sequences(data, name)] for name in names}, warn
    )
    alike = {name: _duplicates(data, out, name, plan, config, warn) for name, plan in plans.items()}
    found: dict[str, str] = {}
    with _locked(out, warn):
        listed = _listed(out) or set()
        for name, plan in plans.items():
            found[name] = build_set(out, name, plan, config, map, progress, alike[name])
            _index(out, listed | {*found})
        with writing(out):
            for name in listed - {*plans}:
                if (out / name).is_dir():
                    old = out / f".{name}.old"
                    if old.exists():  # of a build that was killed
                        shutil.rmtree(old)
                    os.rename(out / name, old)
        _index(out, found)
        for folder in [*out.iterdir()]:
            name = of_set(folder)
            if name and name not in plans and not folder.is_symlink():
                shutil.rmtree(folder)
        for path in out.glob(".manifest.json.*"):  # a build was killed while it wrote the index
            path.unlink()
    return found


@contextmanager
def _locked(out: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """One build at a time in `out`."""
    waits = partial(warn, f"shards: another build is at work in {out}; waiting for its end")
    with ExitStack() as inside:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            inside.enter_context(turn(out / ".lock", waits))
        yield


def _index(out: Path, names: Iterable[str]) -> None:
    with writing(out / "manifest.json"):
        write_index(out, names)


def _check_place(out: Path, names: Iterable[str]) -> None:
    """`InputError` where `out` is somebody else's folder: a build removes what it takes for shards of former sets."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is no folder; name an empty or a new one for the shards")
    listed = _listed(out)
    if listed is None:
        for path in sorted(out.iterdir()):
            # Of a first build that was killed before it wrote the index.
            begun = path.name == ".lock" or path.name.startswith(".manifest.json.") or of_set(path)
            if not begun and not _is_set(path):
                raise InputError(
                    f"{out}: holds {path.name} and no index of shards; name an empty or a new folder for the shards"
                )
    for name in names:
        if (out / name).exists() and name not in (listed or ()) and not _is_set(out / name):
            raise InputError(f"{out / name}: is there and holds no shards; move it away, or name another folder")


def _listed(out: Path) -> set[str] | None:
    """The sets by the index of `out`; None where it has no index of ours."""
    try:
        index = read_json(out / "manifest.json")
        return {*index["sets"]} if index["schema"] == SCHEMA and isinstance(index["sets"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_set(folder: Path) -> bool:
    try:
        return Manifest.read(folder).set == folder.name
    except (InputError, OSError, KeyError):
        return False


def _check_way(folder: Path, plan: dict[str, list[Stretch]]) -> None:
    """`InputError` where frames of a set that was cut into blocks would move to another split.

    That happens when its third group arrives, or when shares or gaps change, and it is not to happen unnoticed.
    """
    old = folder.with_name(f".{folder.name}.old")  # where a build was killed between its renamings
    try:
        before = Manifest.read(folder if folder.exists() else old).content["splits"]
    except InputError:  # none there, or it is built anew
        return
    cut = [(split, *match) for split in before for label in before[split] if (match := _BLOCK.findall(label))]
    for was, (name, start, stop) in cut:
        for split, stretches in plan.items():
            for stretch in stretches:
                same = split != was and stretch.sequence.name == name
                if same and max(stretch.start, int(start)) < min(stretch.stop, int(stop)):
                    raise InputError(
                        f"set {stretch.sequence.set}: its shards were cut into blocks, and frames of {name} would move from "
                        f"{was} to {split} (groups that now have splits of their own, or another shard.split or "
                        f"shard.frames); leave these as they were, or, to begin anew, remove {folder}"
                    )


def _plan(data: Path, name: str, config: ShardConfig) -> dict[str, list[Stretch]]:
    """The stretches of each split, sorted by name; `_CannotSplitError` for a set that cannot be split.

    A group that was given to a split once stays there: blocks cut only what has none.
    """
    found: dict[str, list[Stretch]] = {split: [] for split in SPLITS}
    given = splits.read(data / name)
    missing: set[str] = set()
    for item in sequence.sequences(data, name):
        item.check_annotations()  # tars are kept by the recorded hash: it must be the true one
        split = splits.split_of(item, given)
        if split is None and config.split.by == "block":
            try:
                blocks = splits.blocks(item.frames, config.split, config.frames)
            except InputError as error:
                raise _CannotSplitError(f"sequence {item.name}: {error} (shard.split.by=block)") from None
            for each, start, stop in blocks:
                found[each].append(Stretch(item, each, start, stop))
        elif split is None:
            missing.add(item.group)
        elif split in found:
            found[split].append(Stretch(item, split, 0, item.frames))
    if missing:
        wanted = splits.least(config.split)
        if len(missing) >= len(wanted):  # the shares were others when they were ingested
            raise _CannotSplitError(
                f"{len(missing)} labelled group(s) have no split yet; ingest them again, which gives them splits by the "
                "shares of params.yaml"
            )
        *first, last = wanted
        raise _CannotSplitError(
            f"{len(missing)} labelled group(s), at least {len(wanted)} are needed for "
            f"{' and '.join([', '.join(first), last] if first else [last])}; ingest more "
            "recordings, or cut contiguous stretches with shard.split.by=block in params.yaml"
        )
    return found


def _members(plan: dict[str, list[Stretch]]) -> list[sequence.Sequence]:
    """The sequences of a set that have frames in a split, sorted by name."""
    found = {stretch.sequence.name: stretch.sequence for stretches in plan.values() for stretch in stretches}
    return [found[name] for name in sorted(found)]


def _duplicates(
    data: Path, out: Path, name: str, plan: dict[str, list[Stretch]], config: ShardConfig, warn: Callable[[str], None]
) -> dict[str, Any]:
    """Refuse near-duplicates across the splits of a set, or count them; what the last build found is not sought again."""
    places: dict[str, tuple[sequence.Sequence, dict[str, None]]] = {}
    for split in SPLITS:
        for stretch in plan[split]:
            places.setdefault(stretch.sequence.name, (stretch.sequence, {}))[1][split] = None
    members = [duplicates.Member(item, tuple(found)) for _, (item, found) in sorted(places.items())]
    try:
        before = read_json(out / name / "manifest.json").get("duplicates")
    except (OSError, ValueError, AttributeError):
        before = None
    published = splits.is_published(splits.read(data / name))
    return duplicates.check(name, members, published, config.split.allow_duplicates, before, warn)


class Lines:
    """Progress as lines: tars done, and after some seconds an estimate of the time left."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or not hasattr(self, "begun") or self.begun[0] != name:
            self.begun = (name, done, now)
        _, first, started = self.begun
        estimate = ""
        if done > first and now - started > 5:
            estimate = f", about {(now - started) / (done - first) * (total - done):.0f} s left"
        self.say(f"shard {name}: {done} of {total} tars{estimate}")


def main() -> int:
    """The stage's command: build the workspace's shards, with one line for each error."""
    from irstd import config as configuration
    from irstd.errors import IrstdError
    from irstd.workspace import Workspace

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        workspace = Workspace.find()
        options = configuration.load(workspace.root).shard
        run = Processes(workspace.shard_workers)
        for name, found in build(workspace.data, workspace.shards, options, run, progress=Lines(say)).items():
            say(f"shard {name}: digest {found[:12]}")
    except IrstdError as error:
        print(f"irstd: {error}", file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
