"""`irstd doctor`: is this machine, this installation and this data in order?

`irstd doctor` alone compares versions and hashes. `irstd doctor data` also looks into every frame and label and writes a page.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from irstd import config, environment, versioning
from irstd.commands.show import result, say, size
from irstd.data import sequence
from irstd.data.doctor.integrity import broken
from irstd.errors import InputError, IrstdError, nearest
from irstd.files import sha256_file, write_atomic, writing
from irstd.workspace import Workspace

Finding = tuple[str, str, str]  # "ok", "warn" or "bad"; what; the line
LEAST_DISK = 5 * 2**30
PAGE = "reports/data.html"  # under IRSTD_HOME
SAID = 5  # findings of a severity that are said in the terminal
EVERY = 5.0  # seconds between two lines of progress


def run(
    workspace: Workspace, what: str, sets: list[str] | None = None, out: Path | None = None, workers: int | None = None
) -> int:
    """Status 1 where a check does not hold; warnings do not count.

    `sets`: of `doctor data`, the sets to look at (default: all); `out`: its page (default: `PAGE`); `workers`: processes.
    """
    kinds = {"machine": (_versions, _machine, _ports), "data": (_version, _shards)}
    kinds["all"] = (*kinds["machine"], _hashes, *kinds["data"])
    if what not in kinds:
        raise InputError(f"doctor {what!r}{nearest(what, kinds)}: choose all, data or machine")
    if what != "data" and (sets or out or workers):
        raise InputError(f"doctor {what}: sets, --out and --workers are for irstd doctor data")
    known = sequence.sets(workspace.data)
    for name in sets or ():
        if name not in known:
            raise InputError(
                f"doctor data: no set {name!r}{nearest(name, known)}; there are: {', '.join(known) or 'none'}"
            )
    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a file for the page, such as {out / 'data.html'}")
    bad = 0
    for check in kinds[what]:
        for state, name, line in check(workspace):
            say(f"{state:<5}{name:<12}{line}")
            bad += state == "bad"
    if what == "data" and known:
        bad += _page(workspace, sets or known, out or workspace.home / PAGE, workers)
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


def _hashes(workspace: Workspace) -> Iterator[Finding]:
    """Every recording's and label file's hash against sequence.json."""
    for name in sequence.sets(workspace.data):
        count = 0
        for item in sequence.sequences(workspace.data, name):
            wrong = broken(item)
            if wrong:
                yield "bad", "data", f"{name}/{item.name}: {wrong}"
            count += 1
        yield "ok", "data", f"{name}: {count} sequences read, hashes compared"


def _version(workspace: Workspace) -> Iterator[Finding]:
    """data/ against data.dvc."""
    wanted = versioning.data_md5(workspace.root)
    if not workspace.data.is_dir():
        yield (
            "warn",
            "data",
            "not here; " + ("irstd shard fetches it (dvc pull)" if wanted else "irstd ingest SOURCE --name NAME"),
        )
        return
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


def _page(workspace: Workspace, names: list[str], out: Path, workers: int | None) -> int:
    """Look at all frames and labels, say what matters most, write the page; how many findings stop `irstd shard`."""
    from irstd.data.doctor.examination import examine
    from irstd.reports.data import data_page

    options = config.load(workspace.root).shard
    reports = examine(workspace.data, list(dict.fromkeys(names)), options, workers or environment.cores(), _progress())
    findings = [finding for report in reports for finding in report.findings if not finding.waived]
    for report in reports:
        frames = sum(each.sequence.frames for each in report.surveys)
        say(f"ok   {'data':<12}{report.name}: {len(report.surveys)} sequences, {frames:,} frames looked at")
    for severity in ("bad", "warn"):
        of_it = [finding for finding in findings if finding.severity == severity]
        for finding in of_it[:SAID]:
            say(f"{severity:<5}{'data':<12}{finding.place}: {finding.message} ({finding.kind})")
        if len(of_it) > SAID:
            kinds = Counter(finding.kind for finding in of_it[SAID:])
            more = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            say(f"{severity:<5}{'data':<12}and {len(of_it) - SAID} more: {more}")
    page = data_page(reports, (versioning.data_md5(workspace.root) or "").removesuffix(".dir")[:12] or None)
    with writing(out):
        write_atomic(out, page)
    notes = sum(finding.severity == "note" for finding in findings)
    say(f"ok   {'page':<12}{workspace.relative(out)} ({size(len(page.encode()))}; {notes} notes there)")
    result(page=str(out), **{name: sum(f.severity == name for f in findings) for name in ("bad", "warn", "note")})
    return sum(finding.stops for finding in findings)


def _progress() -> Callable[[int, int, str], None]:
    """A line every few seconds with an estimate of the time left."""
    started = last = time.monotonic()

    def show(done: int, total: int, at: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > EVERY:
            last = now
            left = (now - started) / done * (total - done)
            say(f"doctor: {done:,} of {total:,} frames ({at}), about {left:.0f} s left")

    return show


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
