"""Build the shards of all sets from `data/`: what the `shard` stage of `dvc.yaml` runs.

A set is built in a folder beside its final one and takes its place by renaming, so a reader sees the old shards or the
new. Tars whose inputs have not changed are kept (linked, not written again); those that a killed build finished are
taken over by the next one.

    python -m irstd.data.shards            # in a workspace: data/ -> shards/, options from params.yaml
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from irstd.config import ShardConfig
from irstd.data import intensity, sequence, splits
from irstd.data.gradient import GradientSpec
from irstd.data.manifest import SCHEMA, SPLITS, digest, write_index
from irstd.data.shard_plan import Chunk, Stretch, tars
from irstd.data.shard_writer import write_tar
from irstd.errors import InputError, WorkError
from irstd.files import read_json, write_json

Progress = Callable[[str, int, int], None]
Job = tuple[Path, Path, list[Chunk], dict | None, dict]


def build(
    data: Path,
    out: Path,
    config: ShardConfig,
    map: Callable[[Callable[[Job], Any], Iterable[Job]], Iterable[Any]] = map,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Shard every set of `data` into `out`/<set>/. Returns {set: digest}.

    `map` runs the jobs, one a tar, wherever it likes; the bytes do not depend on it. Sets that are gone from `data` leave
    `out`. Raises `InputError` where there is nothing to shard or a set has too few groups to be split.
    """
    names = sequence.sets(data)
    if not names:
        raise InputError(f"{data}: no data to shard; ingest recordings first (irstd ingest SOURCE --name NAME)")
    plans = {name: _plan(data, name, config) for name in names}
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        try:
            found = {name: _build_set(out, name, plans[name], config, map, progress) for name in names}
        except OSError as error:
            raise WorkError(
                f"{out}: cannot write shards: {error.strerror or error}; what was there is unchanged"
            ) from error
        for folder in out.iterdir():
            if folder.is_dir() and _set_of(folder.name) not in {*names, None}:
                shutil.rmtree(folder)
        write_index(out)
    return found


def _set_of(folder: str) -> str | None:
    """The set that a folder of shards belongs to, a killed build's hidden ones too; None for what is not ours."""
    if not folder.startswith("."):
        return folder
    name, _, ending = folder[1:].rpartition(".")
    return name if ending in ("building", "old") else None


def _plan(data: Path, name: str, config: ShardConfig) -> dict[str, list[Stretch]]:
    """The stretches of each split, sorted by name; refuses a set that cannot be split."""
    found: dict[str, list[Stretch]] = {split: [] for split in SPLITS}
    given = splits.read(data / name)
    missing: set[str] = set()
    for item in sequence.sequences(data, name):
        if config.split.by == "block" and item.labelled_frames:
            for split, start, stop in splits.blocks(item.frames, config.split, config.frames):
                found[split].append(Stretch(item, split, start, stop))
            continue
        split = splits.split_of(item, given)
        if split is None:
            missing.add(item.group)
        elif split in found:
            found[split].append(Stretch(item, split, 0, item.frames))
    if missing:
        raise InputError(
            f"set {name}: {len(missing)} labelled group(s), at least 3 are needed for train, val and test; ingest more "
            "recordings, or cut contiguous stretches with shard.split.by=block in params.yaml"
        )
    return found


def _build_set(
    out: Path, name: str, plan: dict[str, list[Stretch]], config: ShardConfig, run: Callable, progress: Progress | None
) -> str:
    gradient = None
    if config.gradient.operator != "none":
        gradient = GradientSpec(config.gradient.operator, config.gradient.padding).to_dict()
    options = {"schema": SCHEMA, "gradient": gradient}
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
    write_json(staged / "manifest.json", content)
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
        "split_by": config.split.by,
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
            }
            for key, s in sorted(used.items())
        },
        "intensity": intensity.pooled(train),
        "counts": counts,
        "shards": shards,
    }
    return content | {"digest": digest(content)}


def main() -> int:
    """The stage's command: build the workspace's shards, with one line for each error."""
    import sys

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
