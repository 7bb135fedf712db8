"""`irstd reproduce`: a model trained again from its commit and its data, and compared with what was registered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from irstd import versioning
from irstd.commands.show import result, say
from irstd.data.manifest import Manifest
from irstd.errors import InputError, WorkError
from irstd.files import write_atomic
from irstd.inference.package import CODE, Package
from irstd.workspace import Workspace

TOLERANCE = 0.02
RATES = ("fa", "false_alarms_per_frame")
"""Numbers without a scale of their own: they are shown, and decide nothing."""

Link = tuple[str, str, str]
"""(what, "holds", "differs" or "broken", why)."""


def run(workspace: Workspace, uri: str, allow_dirty: bool = False, tolerance: float = TOLERANCE) -> int:
    """Status 0 where every link holds or differs with a reason, 1 where one is broken."""
    from irstd.registry import models, tracking

    if not 0 <= tolerance < 1:
        raise InputError(f"--tolerance {tolerance:g}: a difference of IoU, Pd, AP, ... between 0 and 1")
    with tracking.answering(workspace):
        package = models.package(workspace, uri)
    check(workspace, package, uri, allow_dirty)
    name = package.content["lineage"]["run"]
    place = workspace.home / "reproduce" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.parent / f".{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(f"{uri}: is being reproduced already, in {workspace.relative(place)}") from None
    try:
        links = []
        for link in _links(workspace, package, place, tolerance):
            links.append(link)
            say(f"{link[1]:<7} {link[0]}" + (f": {link[2]}" if link[2] else ""))
    except WorkError as error:
        raise WorkError(
            f"{error}; what is done lies in {workspace.relative(place)}: the same command goes on, irstd clean reproduce --yes "
            "removes it"
        ) from error
    except InputError:
        clear(place)
        raise
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
    clear(place)
    broken = [what for what, how, _ in links if how == "broken"]
    differs = [what for what, how, _ in links if how == "differs"]
    exact = ("weights", "holds") in [link[:2] for link in links]
    if broken:
        say(f"not reproduced: {', '.join(broken)}")
    else:
        say(
            "reproduced: " + ("the same weights to the bit" if exact else f"within {tolerance:g}, though other weights")
        )
    result(model=uri, reproduced=not broken, exact=exact, broken=broken, differs=differs)
    return 1 if broken else 0


def check(workspace: Workspace, package: Package, uri: str, allow_dirty: bool) -> None:
    """`InputError` where the record does not say how to train the model again."""
    lineage = package.content["lineage"]
    if "source" in lineage:
        raise InputError(f"{uri}: was imported, and trained by others; there is no record of how")
    commit = lineage["git_commit"]
    if commit is None:
        raise InputError(f"{uri}: was trained outside git; its code is not recorded")
    if not versioning.has_commit(workspace.root, commit):
        raise InputError(f"{uri}: its commit {commit[:12]} is not in this repository; git fetch it first")
    if lineage["git_dirty"] and not allow_dirty:
        raise InputError(
            f"{uri}: was trained with changes that were not committed, so {commit[:12]} is not its code; --allow-dirty tries it "
            "all the same"
        )
    if lineage["data_md5"] is None:
        raise InputError(f"{uri}: data.dvc named no version of data/ when it was trained; its data are not recorded")
    if start := package.config.train.init:
        from irstd.training.start import start_hash

        try:
            found = start_hash(start)
        except InputError:
            found = "nothing"
        if found != lineage.get("init"):
            raise InputError(
                f"{uri}: started from weights {lineage.get('init')}, and at {start} is {found}: put them back"
            )


def _links(workspace: Workspace, package: Package, place: Path, tolerance: float) -> Iterator[Link]:
    lineage, tree, out = package.content["lineage"], place / "tree", place / "package"
    commit = lineage["git_commit"]
    root = tree / (versioning.prefix(workspace.root))
    if not tree.is_dir():
        say(f"commit {commit[:12]} into {workspace.relative(tree)}")
        versioning.checkout(workspace, commit, tree)
    yield (
        "commit",
        "differs" if lineage["git_dirty"] else "holds",
        commit[:12] + (", and changes that are not known" if lineage["git_dirty"] else ""),
    )
    named = versioning.data_md5(root)
    if named != lineage["data_md5"]:
        versioning.name_data(root, lineage["data_md5"])
        say(f"data.dvc of the commit names {named}, the record {lineage['data_md5']}: the record's is taken")
    say("shards of its data")
    call(place, root, package, "shard")
    yield "data.dvc", "holds", lineage["data_md5"]
    broken = False
    for name, digest in lineage["sets"].items():
        try:
            found = Manifest.read(root / "shards" / name).digest
        except InputError as error:
            found = str(error)
        broken |= found != digest
        yield f"shards of {name}", *_same(found, digest)
    if broken:  # other frames are another training
        return
    places = lineage.get("workers") or []
    recipe = place / "recipe.yaml"
    write_atomic(recipe, yaml.safe_dump(recipe_of(package), sort_keys=False))
    say("training")
    workers = ["--workers", str(places[-1]["workers"])] if places else []
    arguments = ["train", package.config.model.name, "--recipe", str(recipe), "--no-register", "--out", str(out)]
    call(place, root, package, *arguments, *workers)
    yield from compared(package, Package.read(out), tolerance)


def recipe_of(package: Package) -> dict[str, Any]:
    """Its configuration, with the sets that it learned from by name: the shards that are built here may be of more."""
    config = package.content["config"]
    return config | {"data": config["data"] | {"sets": sorted(package.content["lineage"]["sets"])}}


def compared(package: Package, again: Package, tolerance: float) -> Iterator[Link]:
    """The links from the code to the numbers; `again` is what was trained anew."""
    lineage, found = package.content["lineage"], again.content["lineage"]
    reasons = []
    if lineage["git_dirty"]:
        reasons.append("changes that were not committed")
    if lineage.get("code_changes"):
        reasons.append("a change of code within the run")
    if (skipped := lineage.get("skipped_frames")) != found.get("skipped_frames"):
        reasons.append(f"{skipped or 0} damaged key frames that were passed over")
    code = _same(found["code"], lineage["code"])
    yield "code", *(("differs", code[1]) if code[0] == "broken" and reasons else code)
    others = {
        name: (found["packages"].get(name), version)
        for name, version in lineage["packages"].items()
        if found["packages"].get(name) != version
    }
    reasons += [f"{name} {now}, recorded is {then}" for name, (now, then) in others.items()]
    yield "packages", "differs" if others else "holds", ", ".join(reasons[-len(others) :] if others else [])
    before, now = lineage.get("workers") or [], found.get("workers") or []
    where = [_place(p) for p in before] or ["not recorded"]
    moved = before != now or len(before) != 1
    yield (
        "trained on",
        "differs" if moved else "holds",
        f"{_place(now[-1]) if now else '-'}" + (f", recorded is {'; then '.join(where)}" if moved else ""),
    )
    reasons += ["another place"] if moved else []
    train = package.config.train
    if any(getattr(train, name, None) for name in ("minutes", "hours")):
        reasons.append("a training that the clock ends")
    same = found["weights_sha256"] == lineage["weights_sha256"]
    told = "" if same else f"is {found['weights_sha256'][:12]}, recorded is {lineage['weights_sha256'][:12]}"
    if not same:
        told += f" ({', '.join(reasons)})" if reasons else ", and nothing explains it"
    yield "weights", "holds" if same else "differs" if reasons else "broken", told or lineage["weights_sha256"]
    if same:
        yield "threshold", *_same(f"{again.content['threshold']:g}", f"{package.content['threshold']:g}")
    yield _numbers(package, again, tolerance)


def _numbers(package: Package, again: Package, tolerance: float) -> Link:
    """Whether val says the same, within the tolerance."""
    before, now = package.content["metrics"], again.content["metrics"]
    texts, far = [], []
    for name, value in before["values"].items():
        found = now["values"].get(name)
        if not isinstance(value, int | float):
            continue
        texts.append(
            f"{name} {found:.4g}" + ("" if found == value else f" (recorded {value:.4g})")
            if found is not None
            else f"{name} -"
        )
        if name not in RATES and (found is None or abs(found - value) > tolerance):
            far.append(name)
    about = f"{before['protocol']}, grid {before['grid'] or 'native'}, threshold {before['threshold']:g}, split val"
    text = f"{', '.join(texts) or 'no val'} ({about})"
    return (
        "numbers",
        "broken" if far else "holds",
        text + (f": {', '.join(far)} differ by more than {tolerance:g}" if far else ""),
    )


def _place(place: dict[str, Any]) -> str:
    from irstd.registry.lineage import where

    return where(place)


def _same(found: str, recorded: str) -> tuple[str, str]:
    if found == recorded:
        return "holds", recorded
    return "broken", f"is {str(found)[:80]}, recorded is {recorded[:12]}"


def call(place: Path, root: Path, package: Package, *arguments: str) -> None:
    """An irstd command with the code of the commit, in a home of its own; its lines, and its error as this one's."""
    own = [str(root), *([str(package.folder / CODE)] if (package.folder / CODE).is_dir() else [])]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("IRSTD_", "MLFLOW_", "RAY_", "PREFECT_"))}
    path = os.pathsep.join([*own, *([kept["PYTHONPATH"]] if kept.get("PYTHONPATH") else [])])
    last = ""
    with subprocess.Popen(
        [sys.executable, "-m", "irstd", *arguments],
        cwd=root,
        env=kept | {"PYTHONPATH": path, "IRSTD_HOME": str(place / "home"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if not line.startswith("irstd-result: ") and line.strip():
                last = line.rstrip()
                say(f"  {last}")
    if child.returncode:
        kind = InputError if child.returncode == 2 else WorkError
        raise kind(
            f"irstd {arguments[0]} at the commit: {last.removeprefix('irstd: ') or f'status {child.returncode}'}"
        )


def clear(place: Path) -> None:
    """Remove all that a reproduction wrote."""
    shutil.rmtree(Workspace(place, place / "home").ray_session, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
