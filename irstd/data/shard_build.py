"""One set's shards: built beside those that are there, and exchanged for them by renaming.

Three folders beside the set's own are at work, whichever process dies when:

- `.SET.building`: finished tars, each under the hash of its inputs, with a note that holds its entry of the manifest. They
  outlive a build that is killed, and the next one takes what it wants. Since the name says the content, a worker that
  outlives its build for a moment can leave nothing wrong there.
- `.SET.new`: the complete set under its final names, its manifest first.
- `.SET.old`: the set before, while it goes.

Each tar and each JSON file is flushed to the disk before it gets its name, each folder before it takes the set's place.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irstd.config import ShardConfig
from irstd.data import derive, intensity
from irstd.data.gradient import GradientSpec
from irstd.data.manifest import SCHEMA, SPLITS, sealed
from irstd.data.shard_plan import Chunk, Stretch, tars
from irstd.data.shard_writer import forget, write_tar
from irstd.files import canonical_json, read_json, sha256_file, sha256_text, write_json, writing

Progress = Callable[[str, int, int], None]
Map = Callable[[Callable[["Job"], Any], Iterable["Job"]], Iterable[Any]]
"""`map`, or what runs the jobs elsewhere: it gives their results in any order."""
Entry = dict[str, Any]  # of a shard in the manifest
# What a build leaves in its folders; one that holds anything else is not ours to remove.
_PARTS = (".tar", ".part", ".json")


@dataclass(frozen=True)
class Job:
    """One tar: `folder`/`key`.tar and its note `key`.json. `shown` names it in messages."""

    folder: Path
    key: str
    pieces: list[Chunk]
    options: dict
    shown: Path


def build_set(
    out: Path,
    name: str,
    plan: dict[str, list[Stretch]],
    config: ShardConfig,
    run: Map = map,
    progress: Progress | None = None,
    alike: dict[str, Any] | None = None,
) -> str:
    """Bring `out`/`name` to what `plan` says; returns its digest. The caller holds the lock of `out`.

    `alike`: what was found of near-duplicates (`irstd.data.duplicates`), for the manifest.
    """
    gradient = None
    if config.gradient.operator != "none":
        gradient = GradientSpec(config.gradient.operator, config.gradient.padding).to_dict()
    options = {"schema": SCHEMA, "gradient": gradient, "derive": config.derive.model_dump()}
    final, building, new, old = out / name, *(out / f".{name}.{what}" for what in ("building", "new", "old"))
    with writing(building):
        _clear_up(final, building, new, old)

    wanted: dict[str, tuple[str, str, list[Chunk]]] = {}
    for split in SPLITS:
        for number, pieces in enumerate(tars(plan[split], config.frames, config.chunk)):
            wanted[_key(piece.inputs(options) for piece in pieces)] = (f"{split}-{number:06d}.tar", split, pieces)
    there = {key: found for key, found in _finished(final).items() if key in wanted}
    with writing(building):
        for path in building.glob("*"):  # what no one wants any more takes no room
            if path.stem not in wanted or path.stem in there or not path.with_suffix(".tar").exists():
                path.unlink(missing_ok=True)  # a worker that outlives its build may just have renamed it
    entries = {key: entry for key, (_, entry) in there.items()}
    entries |= {path.stem: read_json(path) for path in building.glob("*.json")}
    jobs = [
        Job(building, key, pieces, options, final / file)
        for key, (file, _, pieces) in wanted.items()
        if key not in entries
    ]
    if progress and wanted:
        progress(name, len(entries), len(wanted))
    if jobs:
        with writing(building):
            building.mkdir(exist_ok=True)
    try:
        for key, entry in run(write_job, jobs):
            entries[key] = entry
            if progress:
                progress(name, len(entries), len(wanted))
    finally:
        forget()

    shards = [entries[key] | {"file": file, "split": split} for key, (file, split, _) in wanted.items()]
    content = sealed(_manifest(name, plan, config, gradient, shards) | {"duplicates": alike or {}})
    with writing(final / "manifest.json"):
        if not _is(final, content, len(there)):
            new.mkdir()
            write_json(new / "manifest.json", content)
            for key, (file, _, _) in wanted.items():
                if key in there:
                    _link(there[key][0], new / file)
                else:
                    os.replace(building / f"{key}.tar", new / file)
            _sync(new)
            if final.exists():
                os.rename(final, old)
            os.rename(new, final)
            _sync(out)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(building, ignore_errors=True)
    return content["digest"]


def write_job(job: Job) -> tuple[str, Entry]:
    """Write one tar under a temporary name, note its entry, then give the tar its name. Returns (key, entry)."""
    tar, note = job.folder / f"{job.key}.tar", job.folder / f"{job.key}.json"
    part = job.folder / f"{job.key}.{secrets.token_hex(4)}.part"
    try:
        entry = write_tar(part, job.pieces, job.options, job.shown)
        with writing(job.shown):
            write_json(note, entry)
            os.replace(part, tar)
    except BaseException:
        part.unlink(missing_ok=True)  # room for those that are still being written
        raise
    return job.key, entry


def of_set(folder: Path) -> str | None:
    """The set whose build left this hidden folder; None for what is not ours."""
    match = re.fullmatch(r"\.([a-z0-9_-]+)\.(?:building|new|old)", folder.name)
    try:
        ours = match and all(path.suffix in _PARTS or path.name.startswith(".") for path in folder.iterdir())
    except (NotADirectoryError, FileNotFoundError):  # another build at work has just removed it
        return None
    return match[1] if match and ours else None


def _key(inputs: Iterable[str]) -> str:
    """The name of a tar while the set is being built: it says the content."""
    return sha256_text(canonical_json([*inputs]))[:40]


def _clear_up(final: Path, building: Path, new: Path, old: Path) -> None:
    """Take up what a killed build left: the set is in its place again, and the tars of an unfinished one are kept."""
    if old.exists() and not final.exists():  # killed between its two renamings
        os.rename(old, final)
    if (new / "manifest.json").exists():
        building.mkdir(exist_ok=True)
        for shard in read_json(new / "manifest.json")["shards"]:
            path = new / shard["file"]
            if path.exists():
                key = _key(sample["inputs"] for sample in shard["samples"])
                os.replace(path, building / f"{key}.tar")  # its note is there still
    for folder in (new, old):
        if folder.exists():
            shutil.rmtree(folder)


def _finished(final: Path) -> dict[str, tuple[Path, Entry]]:
    """{key: (tar, entry)} of the set as it is; a tar that its manifest does not describe is left out.

    Its length tells, and where it is newer than the manifest its hash: every tar is older than the manifest when it is
    built. A byte that fell over without a trace is found by `irstd doctor` and by the loader.
    """
    found: dict[str, tuple[Path, Entry]] = {}
    try:
        shards = read_json(final / "manifest.json")["shards"]
        written = (final / "manifest.json").stat().st_mtime_ns
        for shard in shards:
            path = final / shard["file"]
            size = max((m[0] + m[1] for s in shard["samples"] for m in s["members"].values()), default=0)
            size += -size % 512 + 1024
            if not path.is_file() or path.stat().st_size != size:
                continue
            if path.stat().st_mtime_ns < written or sha256_file(path) == shard["sha256"]:
                entry = {k: shard[k] for k in ("sha256", "samples")}
                found[_key(s["inputs"] for s in entry["samples"])] = (path, entry)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no set, or a manifest that is damaged: those that are described are known
    return found


def _is(final: Path, content: dict[str, Any], kept: int) -> bool:
    """Whether the set lies there as `content` says; `kept`: how many of its tars do."""
    try:
        names = {shard["file"] for shard in content["shards"]} | {"manifest.json"}
        same = kept == len(content["shards"]) and {path.name for path in final.iterdir()} == names
        return same and read_json(final / "manifest.json") == content
    except (OSError, ValueError):
        return False


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _sync(folder: Path) -> None:
    """Flush a folder's names to the disk, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    return {
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
