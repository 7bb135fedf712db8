"""`irstd ingest`: recordings and annotations into data/, and the new version into data.dvc."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from irstd import versioning
from irstd.commands import sources
from irstd.commands.show import progress, result, say
from irstd.config import load
from irstd.data import ingest as ingestion
from irstd.data.importers import AUTO
from irstd.data.importers.base import some
from irstd.data.staging import sweep
from irstd.errors import InputError, WorkError
from irstd.workspace import Workspace


def run(
    workspace: Workspace,
    source: Path | None,
    name: str | None,
    format: str,
    bit_depth: int | None,
    group_by: str | None,
    list_name: str | None,
    licence: str | None,
    update: bool,
    remove: str | None,
    push: str | None,
    given: Path | None = None,
) -> None:
    """Nothing of data/ changes unless the source is good, and the remote to push to.

    `WorkError` (status 1) when all is done, where recordings could not be read and were left out.
    """
    if push:
        versioning.check_remote(workspace, push)
    if remove is not None:
        _remove(workspace, remove)
        _push(workspace, push)
        return
    if source is None:
        raise InputError("write irstd ingest SOURCE --name NAME (or --remove SET/SEQUENCE)")
    known = sources.resolve(source, given)
    if known:
        name, licence = name or known.slug, licence or known.licence
        format = known.format if format == AUTO else format
        list_name = list_name or known.list_name
    if name is None:
        raise InputError("write irstd ingest SOURCE --name NAME: the set's name, of a-z, 0-9, - and _")
    versioning.fetch_data(workspace, say)
    (workspace.home / "staging").mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix="ingest-", dir=workspace.home / "staging"))
    try:
        opened = sources.open_source(workspace, source, known, given, staging)
        with versioning.lock(workspace), versioning.changing_data(workspace, f"ingest {name}") as begun:
            try:
                report = ingestion.ingest(
                    opened.path,
                    name,
                    workspace.data,
                    staging / "sequences",
                    format=format,
                    bit_depth=bit_depth,
                    group_by=group_by,
                    list_name=list_name,
                    licence=licence,
                    update=update,
                    shares=load(workspace.root).shard.split,
                    progress=progress("ingest"),
                )
            except InputError as error:
                raise InputError(opened.shown(str(error))) from None
            for message in report.messages:
                say(f"ingest {name}: {message}")
            for quarantined, reason in report.quarantined.items():
                say(f"ingest {name}: quarantined {quarantined}: {reason}")
            before = versioning.data_md5(workspace.root)
            changed = bool(report.added or report.updated or report.splits_changed or begun) or before is None
            version = versioning.add_data(workspace) if changed else before
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    say(
        f"ingest {name}: {len(report.added)} sequences added, {len(report.updated)} updated, "
        f"{len(report.unchanged)} unchanged, {len(report.unlabelled)} without labels"
    )
    count = len(report.added) + len(report.updated) + len(report.unchanged)
    if known and known.sequences not in (None, count):
        say(f"ingest {name}: {count} sequences are here, a complete {known.name} has {known.sequences}")
    say(f"data.dvc: {(version or '').removesuffix('.dir')[:12]}" + ("" if changed else " (nothing has changed)"))
    _push(workspace, push)
    bad = report.quarantined
    result(set=name, data=version, added=len(report.added), updated=len(report.updated), quarantined=len(bad) or None)
    if bad:
        what = (
            "1 recording cannot be read and was" if len(bad) == 1 else f"{len(bad)} recordings cannot be read and were"
        )
        raise WorkError(
            f"ingest {name}: {what} left out ({some(bad)}): replace what is damaged and give the same command again, or remove it"
        )


def _remove(workspace: Workspace, what: str) -> None:
    pair, note = _pair(what), f"remove {what}"
    versioning.fetch_data(workspace, say)
    with versioning.lock(workspace), versioning.changing_data(workspace, note) as begun:
        try:
            ingestion.remove(workspace.data, *pair)
        except InputError:
            if note not in begun:
                raise
            sweep(workspace.data)  # it is gone already, by a call that was killed before data.dvc said so
        version = versioning.add_data(workspace)
    say(f"removed {what}; data.dvc is now {version.removesuffix('.dir')[:12]}")


def _push(workspace: Workspace, remote: str | None) -> None:
    if remote:
        versioning.push(workspace, remote)
        say(f"pushed to {remote}")


def _pair(text: str) -> tuple[str, str]:
    name, slash, sequence = text.partition("/")
    if not slash or not name or not sequence:
        raise InputError(f"--remove {text!r}: write SET/SEQUENCE: sequences are the folders in data/SET/")
    return name, sequence
