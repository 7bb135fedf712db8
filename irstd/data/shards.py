"""Build the shards of all sets from `data/`: what the `shard` stage of `dvc.yaml` runs.

A set is built in a folder beside its final one and takes its place by renaming, so a reader sees the old shards or the
new. Tars whose inputs have not changed are kept (linked, not written again); those that a killed build finished are
taken over by the next one.

    python -m irstd.data.shards            # in a workspace: data/ -> shards/, options from params.yaml
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from irstd.config import ShardConfig
from irstd.data import derive, duplicates, intensity, sequence, splits
from irstd.data.gradient import GradientSpec
from irstd.data.manifest import SCHEMA, SPLITS, Manifest, digest, write_index
from irstd.data.shard_plan import Chunk, Stretch, tars
from irstd.data.shard_writer import write_tar
from irstd.errors import InputError, WorkError
from irstd.files import read_json, write_json

Progress = Callable[[str, int, int], None]
Job = tuple[Path, Path, list[Chunk], dict | None, dict]
# What a build leaves in its hidden folders; one that holds anything else is not ours to remove.
_PARTS = (".tar", ".part", ".new", ".kept", ".json")


class _CannotSplitError(InputError):
    """A set that has no train, val and test: left out where other sets have."""


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def build(
    data: Path,
    out: Path,
    config: ShardConfig,
    map: Callable[[Callable[[Job], Any], Iterable[Job]], Iterable[Any]] = map,
    progress: Progress | None = None,
    warn: Callable[[str], None] = _warn,
) -> dict[str, str]:
    """Shard every set of `data` into `out`/<set>/. Returns {set: digest}.

    `map` runs the jobs, one a tar, wherever it likes; the bytes do not depend on it. Sets that are gone from `data` leave
    `out`. A set that cannot be split is left out, and `warn` is told: one odd set does not stop the others. Raises
    `InputError` where no set can be sharded, or where `out` holds something else than shards.
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
    for name, reason in left.items():
        warn(f"shards: set {name} left out: {reason}")
    alike = {name: _duplicates(data, out, name, plan, config, warn) for name, plan in plans.items()}
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        try:
            found = {
                name: _build_set(out, name, plan, config, map, progress, alike[name]) for name, plan in plans.items()
            }
        except OSError as error:
            raise WorkError(
                f"{out}: cannot write shards: {error.strerror or error}; what was there is unchanged"
            ) from error
        listed = _listed(out) or set()
        for folder in [*out.iterdir()]:
            name = _hidden_of(folder) or (folder.name if folder.name in listed else None)
            if name and name not in plans and folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        write_index(out)
    return found


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
            begun = path.name == ".lock" or path.name.startswith(".manifest.json.") or _hidden_of(path)
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


def _hidden_of(folder: Path) -> str | None:
    """The set whose build left this hidden folder; None for what is not ours."""
    match = re.fullmatch(r"\.([a-z0-9_-]+)\.(?:building|old)", folder.name)
    if not match or not folder.is_dir():
        return None
    ours = all(path.suffix in _PARTS or path.name.startswith(".") for path in folder.iterdir())
    return match[1] if ours else None


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
        raise _CannotSplitError(
            f"{len(missing)} labelled group(s), at least 3 are needed for train, val and test; ingest more "
            "recordings, or cut contiguous stretches with shard.split.by=block in params.yaml"
        )
    return found


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


def _build_set(
    out: Path,
    name: str,
    plan: dict[str, list[Stretch]],
    config: ShardConfig,
    run: Callable,
    progress: Progress | None,
    alike: dict[str, Any],
) -> str:
    gradient = None
    if config.gradient.operator != "none":
        gradient = GradientSpec(config.gradient.operator, config.gradient.padding).to_dict()
    options = {"schema": SCHEMA, "gradient": gradient, "derive": config.derive.model_dump()}
    final, staged, old = out / name, out / f".{name}.building", out / f".{name}.old"
    if old.exists() and not final.exists():  # the last build was killed between its two renamings
        os.rename(old, final)
    staged.mkdir(exist_ok=True)
    known = _finished(staged) | _finished(final)

    wanted: list[tuple[str, str, list[Chunk]]] = []
    for split in SPLITS:
        for number, pieces in enumerate(tars(plan[split], config.frames, config.chunk)):
            wanted.append((f"{split}-{number:06d}.tar", split, pieces))
    entries: dict[str, dict[str, Any]] = {}
    jobs: list[Job] = []
    kept: list[tuple[Path, Path]] = []
    for file, _, pieces in wanted:
        inputs = tuple(chunk.inputs(options) for chunk in pieces)
        if inputs in known:
            source, entry = known[inputs]
            kept.append((source, staged / f"{file}.kept"))
            entries[file] = entry
        else:
            jobs.append((staged / f"{file}.part", staged / f"{file}.new", pieces, gradient, options))
    for link in staged.glob("*.kept"):  # of a killed build, which may have wanted others
        link.unlink()
    for source, link in kept:
        _link(source, link)
    if progress and wanted:
        progress(name, len(kept), len(wanted))
    for done, (job, entry) in enumerate(zip(jobs, run(_run_job, jobs), strict=True), len(kept) + 1):
        entries[job[1].name.removesuffix(".new")] = entry
        if progress:
            progress(name, done, len(wanted))
    # From here on the tars do not fit the manifest that a build killed at its end may have left.
    (staged / "manifest.json").unlink(missing_ok=True)
    for file, _, _ in wanted:
        done = staged / f"{file}.kept"
        os.replace(done if done.exists() else staged / f"{file}.new", staged / file)
    for path in staged.iterdir():
        if path.name not in entries:
            path.unlink()
    content = _manifest(name, plan, config, gradient, [entries[f] | {"file": f, "split": s} for f, s, _ in wanted])
    write_json(staged / "manifest.json", content | {"duplicates": alike})
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.rename(final, old)
    os.rename(staged, final)
    shutil.rmtree(old, ignore_errors=True)
    return content["digest"]


def _run_job(job: Job) -> dict[str, Any]:
    """Write one tar under a temporary name, note its entry beside it, rename."""
    part, done, pieces, gradient, options = job
    entry = write_tar(part, pieces, gradient, options)
    done.unlink(missing_ok=True)  # the note must never lie beside another build's tar
    write_json(done.with_suffix(".json"), entry)
    os.replace(part, done)
    return entry


def _finished(folder: Path) -> dict[tuple[str, ...], tuple[Path, dict[str, Any]]]:
    """Whole tars in `folder` by the inputs of their samples: of a finished build, or of one that was killed."""
    found: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    candidates: list[tuple[Path, dict[str, Any]]] = []
    try:
        candidates = [(folder / s["file"], s) for s in read_json(folder / "manifest.json")["shards"]]
    except (OSError, ValueError, KeyError):
        for note in folder.glob("*.json") if folder.is_dir() else ():
            if note.name != "manifest.json":
                candidates.append((note.with_suffix(".new"), read_json(note)))
    for path, entry in candidates:
        size = max((m[0] + m[1] for s in entry["samples"] for m in s["members"].values()), default=0)
        if path.is_file() and path.stat().st_size >= size + 1024:
            entry = {k: v for k, v in entry.items() if k in ("sha256", "samples")}
            found[tuple(s["inputs"] for s in entry["samples"])] = (path, entry)
    return found


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _manifest(
    name: str, plan: dict[str, list[Stretch]], config: ShardConfig, gradient: dict | None, shards: list[dict[str, Any]]
) -> dict[str, Any]:
    used = {stretch.sequence.name: stretch.sequence for stretches in plan.values() for stretch in stretches}
    train = [(s.stop - s.start, s.sequence.intensity) for s in plan["train"]]
    counts = {}
    for split in SPLITS:
        samples = [s for shard in shards if shard["split"] == split for s in shard["samples"]]
        counts[split] = {
            "sequences": len({s["sequence"] for s in samples}),
            "samples": len(samples),
            "key_frames": sum(len(s["labelled"]) for s in samples),
            "labelled": sum(s["labelled"].count("1") for s in samples),
            "targets": sum(s["targets"] for s in samples),
        }
    content = {
        "schema": SCHEMA,
        "set": name,
        "gradient": gradient,
        "frames": config.frames,
        "chunk": config.chunk,
        "split_by": "block" if any("[" in s.label for stretches in plan.values() for s in stretches) else "group",
        "splits": {split: [stretch.label for stretch in plan[split]] for split in SPLITS},
        "sequences": {
            key: {
                "bit_depth": s.bit_depth,
                "height": s.height,
                "width": s.width,
                "fps": s.fps,
                "group": s.group,
                "licence": s.licence,
                "intensity": dict(s.intensity),
                "source_sha256": s.source_sha256,
                "annotations_sha256": s.annotations_sha256,
            }
            for key, s in sorted(used.items())
        },
        "intensity": intensity.pooled(train),
        "derived": derive.described(sample for shard in shards for sample in shard["samples"]),
        "counts": counts,
        "shards": shards,
    }
    return content | {"digest": digest(content)}


def main() -> int:
    """The stage's command: build the workspace's shards, with one line for each error."""
    from irstd import config as configuration
    from irstd.errors import IrstdError
    from irstd.workspace import Workspace

    try:
        workspace = Workspace.find()
        options = configuration.load(workspace.root).shard

        def show(name: str, done: int, total: int) -> None:
            print(f"shard {name}: {done} of {total} tars", flush=True)

        for name, found in build(workspace.data, workspace.shards, options, progress=show).items():
            print(f"shard {name}: digest {found[:12]}", flush=True)
    except IrstdError as error:
        print(f"irstd: {error}", file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
