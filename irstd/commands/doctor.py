"""`irstd doctor`: is this machine, this installation and this data in order?"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from irstd import environment, versioning
from irstd.commands.show import say, size
from irstd.data import sequence
from irstd.errors import InputError, IrstdError, nearest
from irstd.files import sha256_file
from irstd.workspace import Workspace

Finding = tuple[str, str, str]  # "ok", "warn" or "bad"; what; the line
LEAST_DISK = 5 * 2**30


def run(workspace: Workspace, what: str) -> int:
    """Status 1 where a check does not hold; warnings do not count."""
    kinds = {"machine": (_versions, _machine, _ports), "data": (_data, _shards)}
    kinds["all"] = kinds["machine"] + kinds["data"]
    if what not in kinds:
        raise InputError(f"doctor {what!r}{nearest(what, kinds)}: choose all, data or machine")
    bad = 0
    for check in kinds[what]:
        for state, name, line in check(workspace):
            say(f"{state:<5}{name:<12}{line}")
            bad += state == "bad"
    say(f"{bad} check(s) do not hold" if bad else "all checks hold")
    return 1 if bad else 0


def _versions(workspace: Workspace) -> Iterator[Finding]:
    """Installed versions against the lock."""
    path = workspace.root / "requirements.lock"
    if not path.is_file():
        yield "warn", "versions", "no requirements.lock in the workspace"
        return
    wrong = []
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", path.read_text(), re.M)
    for name, version in pins:
        try:
            found = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue  # a package of another platform
        if found != version:
            wrong.append(f"{name} {found} (lock: {version})")
    if wrong:
        yield "bad", "versions", f"{', '.join(wrong[:6])}: pip install -c requirements.lock -e ."
    else:
        yield "ok", "versions", f"{len(pins)} packages as in requirements.lock"


def _machine(workspace: Workspace) -> Iterator[Finding]:
    import psutil
    import torch

    yield (
        "ok",
        "cores",
        f"{environment.cores()} cores, {size(psutil.virtual_memory().total)} memory, {torch.cuda.device_count()} GPU",
    )
    free = shutil.disk_usage(workspace.root).free
    yield "ok" if free > LEAST_DISK else "warn", "disk", f"{size(free)} free at {workspace.root}"
    # Ray's socket paths end at 107 bytes; a session adds about 60.
    length = len(str(workspace.ray_session))
    yield "ok" if length < 47 else "bad", "ray folder", f"{workspace.ray_session} ({length} characters)"
    try:
        import cv2

        yield "ok", "opencv", f"OpenCV {cv2.__version__}"
    except ImportError as error:
        yield "bad", "opencv", f"{error}: install libgl1 and libglib2.0-0"


def _ports(workspace: Workspace) -> Iterator[Finding]:
    if workspace.stack:
        yield "ok", "stack", "up: " + ", ".join(sorted(workspace.stack["services"]))
        return
    for name, port in workspace.settings["stack"].items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                yield "ok", "port", f"{port} is free ({name})"
            except OSError:
                yield "warn", "port", f"{port} is taken; set [stack] {name} in settings.toml before irstd up"


def _data(workspace: Workspace) -> Iterator[Finding]:
    """Every recording's and label file's hash against sequence.json, and data/ against data.dvc."""
    wanted = versioning.data_md5(workspace.root)
    if not workspace.data.is_dir():
        yield (
            "warn",
            "data",
            "not here; " + ("irstd shard fetches it (dvc pull)" if wanted else "irstd ingest SOURCE --name NAME"),
        )
        return
    for name in sequence.sets(workspace.data):
        count = 0
        for item in sequence.sequences(workspace.data, name):
            broken = _broken(item)
            if broken:
                yield "bad", "data", f"{name}/{item.name}: {broken}"
            count += 1
        yield "ok", "data", f"{name}: {count} sequences read, hashes compared"
    if wanted:
        try:
            clean = "up to date" in versioning.dvc(workspace, "status", "data.dvc")
            state: Finding = ("ok", "data.dvc", f"data/ is version {wanted.removesuffix('.dir')[:12]}")
            yield (
                state
                if clean
                else (
                    "bad",
                    "data.dvc",
                    "data/ differs from data.dvc: dvc add data to keep it, dvc checkout data.dvc to undo",
                )
            )
        except IrstdError as error:
            yield "bad", "data.dvc", str(error)


def _broken(item: sequence.Sequence) -> str | None:
    for file in item.source:
        if not (item.folder / file).is_file():
            return f"{file} is missing; dvc checkout data.dvc"
    if item.recompute_sha256() != item.source_sha256:
        return f"{item.recording.name} is altered (sha256); dvc checkout data.dvc"
    try:
        item.annotations()
    except IrstdError as error:
        return str(error)
    return None


def _shards(workspace: Workspace) -> Iterator[Finding]:
    from irstd.data.manifest import read_all

    if not (workspace.shards / "manifest.json").is_file():
        yield "warn", "shards", "not built; irstd shard"
        return
    for manifest in read_all(workspace.shards):
        bad = [s["file"] for s in manifest.content["shards"] if _altered(manifest.folder / s["file"], s["sha256"])]
        if bad:
            yield "bad", "shards", f"{manifest.set}: {', '.join(bad[:4])} missing or altered; remove and irstd shard"
        else:
            yield (
                "ok",
                "shards",
                f"{manifest.set}: {len(manifest.content['shards'])} tars, sha256 compared, digest {manifest.digest[:12]}",
            )


def _altered(path: Path, sha256: str) -> bool:
    return not path.is_file() or sha256_file(path) != sha256
