"""`irstd clean`: what takes space, and removing what can be made again."""

from __future__ import annotations

import shutil
from pathlib import Path

from irstd.commands.show import say, size, table
from irstd.errors import InputError, nearest
from irstd.workspace import Workspace

# kind: (what it is, how it comes back)
KINDS = {
    "checkpoints": ("Ray's copies of checkpoints of finished runs", "not needed: the run folder keeps the last"),
    "runs": ("run folders: last checkpoint and package", "irstd train; registered versions stay"),
    "evaluations": ("curves and rows of every evaluation", "irstd evaluate"),
    "shards": ("shards/", "irstd shard"),
    "cache": ("DVC's cache", "dvc pull, where the data was pushed"),
    "staging": ("what a killed ingest left", "not needed"),
    "fetched": ("files of public sets, as their servers gave them", "fetched again by irstd ingest NAME"),
    "reproduce": ("what irstd reproduce left where it failed", "irstd reproduce begins anew"),
    "pulled": ("models fetched from the registry", "fetched again when used"),
    "logs": ("logs of services and Ray's session folder", "not needed"),
}


def run(workspace: Workspace, what: list[str], yes: bool) -> None:
    for kind in what:
        if kind not in KINDS:
            raise InputError(f"clean {kind!r}{nearest(kind, KINDS)}: choose of {', '.join(KINDS)}")
    rows = []
    for kind, (holds, back) in KINDS.items():
        paths = _paths(workspace, kind)
        rows.append({"what": kind, "size": size(sum(_size(p) for p in paths)), "holds": holds, "comes back by": back})
    if not what or not yes:
        say(table(rows))
        say("nothing was removed; irstd clean WHAT ... --yes removes")
        return
    if workspace.stack and {"logs", "checkpoints", "runs"} & set(what):
        raise InputError("the stack is up and uses these; stop it first (irstd down)")
    # In the table's order: which of Ray's copies are of finished runs is read from the run folders.
    for kind in (k for k in KINDS if k in what):
        freed = 0
        for path in _paths(workspace, kind):
            freed += _size(path)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if kind == "runs":
            shutil.rmtree(workspace.home / "sweeps", ignore_errors=True)
        say(f"{kind}: {size(freed)} freed")


def _paths(workspace: Workspace, kind: str) -> list[Path]:
    home = workspace.home
    if kind == "checkpoints":
        storage = Path(workspace.ray_storage)
        done = storage.glob("*") if "://" not in workspace.ray_storage and storage.is_dir() else []
        return [
            p
            for p in done
            if p.is_dir() and ((home / "runs" / p.name / "run.json").is_file() or (home / "sweeps" / p.name).is_dir())
        ]
    places = {
        "runs": [home / "runs"],
        "evaluations": [home / "evaluations"],
        "shards": [workspace.shards],
        "cache": [workspace.root / ".dvc" / "cache"],
        "staging": [home / "staging"],
        "fetched": [home / "fetched"],
        "reproduce": [home / "reproduce"],
        "pulled": [home / "pulled"],
        "logs": [home / "logs", workspace.ray_session],
    }
    return [p for p in places[kind] if p.exists()]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())
