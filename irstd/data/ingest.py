"""From a source folder to `data/<set>/`: everything is read and checked first, then renamed into place.

Bad input leaves `data/` as it was; of one's own recordings a damaged one is left out and named. The same recording with
the same labels again is a no-op; a change to what is there needs `update`. Each recording is decoded once.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from irstd.config import SplitConfig
from irstd.data import sequence, splits
from irstd.data.importers import AUTO, Candidate, Found, choose, scan
from irstd.data.importers.base import some
from irstd.data.marks import described
from irstd.data.sequence import Sequence, slug
from irstd.data.staging import Progress, commit, source_sha256, stage_all, sweep, work_folder
from irstd.errors import InputError, nearest


@dataclass
class IngestReport:
    """Names of sequences by what became of them (`unlabelled` is a part of the others), and what is worth saying.

    `quarantined`: {name: why} of recordings that cannot be read and were left out.
    """

    added: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    splits_changed: bool = False


def ingest(
    source: Path,
    set_name: str,
    data: Path,
    staging: Path,
    *,
    format: str = AUTO,
    bit_depth: int | None = None,
    group_by: str | None = None,
    list_name: str | None = None,
    licence: str | None = None,
    update: bool = False,
    shares: SplitConfig | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Bring the recordings of `source` into `data`/`set_name`.

    A recording that cannot be read is left out and reported, the others are taken; not so in a set with published splits,
    which is that set only when it is complete.

    Args:
        source: a folder, or one recording.
        staging: where sequences are made before they are renamed into `data`; best on the same file system.
        format: one of `irstd.data.importers.FORMATS`, or "auto".
        bit_depth: of every recording that its sidecar does not say it of.
        group_by: regular expression; its first group, searched in the recording's relative path, names the group.
        list_name: which published list gives the splits, where there are several.
        licence: of every recording; wins over what the importer found.
        update: put changed recordings and labels in place of those that are there.
        shares: how new groups are given to splits.
        progress: called as each new or changed recording is done.

    Raises:
        InputError: the source is not good, no new recording of it can be read, or it would change what is there; `data` is
            untouched then.
    """
    if set_name != slug(set_name):
        raise InputError(f"--name {set_name}: use letters a-z, digits, - and _, such as {slug(set_name)!r}")
    listing = scan(source)
    importer, reason = choose(listing, format)
    found = importer.read(listing, list_name)
    report = IngestReport(messages=[reason, *found.messages])
    candidates = _named(found.candidates, bit_depth, group_by, licence)
    there = _there(data, set_name)
    changes = {name: _change(there[name], each, listing.root) for name, each in candidates.items() if name in there}
    refused = [f"{name} ({change})" for name, change in changes.items() if change]
    if refused and not update:
        raise InputError(
            f"{set_name}/{some(refused)}: differs from what is there, nothing was changed: give --update to make a "
            "new version, or another --name"
        )
    report.unchanged = [name for name, change in changes.items() if not change]
    todo = {name: candidates[name] for name in candidates if name not in report.unchanged}
    with work_folder(staging) as work:
        fresh, damaged = stage_all(todo, listing.root, work, set_name, there, progress)
        if damaged and (found.published or not fresh):
            raise InputError(some((str(error) for error in damaged.values()), 1))
        report.quarantined = {name: str(error) for name, error in damaged.items()}
        kept = {name: each for name, each in candidates.items() if name in there | fresh}
        given = _assign(data / set_name, found, kept, there | fresh, bool(there), shares or SplitConfig())
        sweep(data)
        report.splits_changed = commit(fresh, work, data / set_name, given)
    report.updated = [name for name in fresh if name in there]
    report.added = [name for name in fresh if name not in there]
    report.unlabelled = [name for name in kept if not (there | fresh)[name].labelled]
    report.messages += _remarks(report, [(there | fresh)[name] for name in kept])
    if unread := listing.unread(candidates.values()):
        report.messages.append(f"not read: {len(unread)} of {len(listing.files)} files of the source: {some(unread)}")
    return report


def remove(data: Path, set: str, name: str) -> None:
    """Take a sequence out of `data`. Its group keeps its split, should it come back; the last one takes the set along.

    `InputError` where there is no such sequence.
    """
    names = [each.name for each in sequence.sequences(data, set)]
    if name not in names:
        near = nearest(name, names)
        raise InputError(f"no sequence {name!r} in the set {set}{near}: its sequences are the folders in data/{set}/")
    sweep(data)
    gone = data / set if names == [name] else data / set / name
    aside = gone.with_name(f".{gone.name}.removed")
    os.rename(gone, aside)
    shutil.rmtree(aside)


def _named(
    candidates: list[Candidate], bit_depth: int | None, group_by: str | None, licence: str | None
) -> dict[str, Candidate]:
    """{slug: candidate}, sorted, with what the caller says put in. Two sources with one slug are refused."""
    pattern = _pattern(group_by)
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        name, path = slug(candidate.name), candidate.recording
        if name in found:
            raise InputError(f"{found[name].recording} and {path}: both would be called {name!r}: rename one of them")
        if bit_depth is not None and candidate.bit_depth not in (None, bit_depth):
            raise InputError(
                f"{path}: --bit-depth says {bit_depth}, its sidecar {candidate.bit_depth}: leave out the wrong one"
            )
        group = candidate.group
        if pattern:
            match = pattern.search(candidate.name)
            if not match or not match[1]:
                raise InputError(
                    f"{candidate.name}: --group-by {group_by} finds no group in it: correct the expression"
                )
            group = match[1]
        found[name] = replace(
            candidate,
            group=slug(group) if group else None,
            bit_depth=candidate.bit_depth if bit_depth is None else bit_depth,
            licence=licence or candidate.licence,
        )
    return dict(sorted(found.items()))


def _pattern(group_by: str | None) -> re.Pattern[str] | None:
    if group_by is None:
        return None
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(f"--group-by {group_by}: not a regular expression: {error}") from None
    if not pattern.groups:
        raise InputError(f"--group-by {group_by}: has no group: put what names the group in ( )")
    return pattern


def _there(data: Path, set_name: str) -> dict[str, Sequence]:
    return {each.name: each for each in sequence.sequences(data, set_name)} if set_name in sequence.sets(data) else {}


def _change(old: Sequence, candidate: Candidate, root: Path) -> str | None:
    """What is other than before, or None. What nobody states now is no change."""
    if candidate.group and candidate.group != old.group:
        raise InputError(
            f"{candidate.recording}: its group was {old.group!r} and would become {candidate.group!r}: a group is "
            "given once; state it as before, or ingest under another --name"
        )
    if source_sha256(candidate, root) != old.source_sha256:
        return "recording"
    digest = None
    if candidate.annotate:
        digest = candidate.annotate(old.frames, old.height, old.width).digest()
    try:
        old.check_annotations()
    except InputError:  # edited where they lie: the source's take their place, as any other change
        return "labels"
    if digest != old.annotations_sha256:
        return "labels"
    for said in ("bit_depth", "fps", "licence"):
        if getattr(candidate, said) not in (None, getattr(old, said)):
            return said.replace("_", " ")
    return None


def _assign(
    folder: Path,
    found: Found,
    candidates: dict[str, Candidate],
    all_: dict[str, Sequence],
    there: bool,
    shares: SplitConfig,
) -> dict[str, Any]:
    """The content of the set's `splits.json`, old groups where they were."""
    old = splits.read(folder)
    method = f"published:{found.published}" if found.published else "balanced"
    before = old["method"].partition(" + ")[0]
    if there and before != method:
        raise InputError(
            f"{folder.name}: its splits are {before!r}, this source's would be {method!r}: ingest it under another "
            "--name"
        )
    if found.published:
        listed: dict[str, str] = {}
        for name, candidate in candidates.items():
            group = all_[name].group
            if listed.setdefault(group, candidate.split or splits.UNLISTED) != candidate.split:
                raise InputError(
                    f"{candidate.recording}: its group {group!r} is in {listed[group]!r} and {candidate.split!r} of "
                    f"the list {found.published}: leave --group-by out, or let it name narrower groups"
                )
        groups, rate = splits.published(old["groups"], listed, shares)
        method += f" + val: {rate:.4g} of its train groups" if rate else ""
    else:
        labelled: Counter[str] = Counter()
        targets: Counter[str] = Counter()
        for each in all_.values():
            labelled[each.group] += each.labelled_frames
            targets[each.group] += each.target_frames
        groups = splits.assign(old["groups"], labelled, shares, {group for group in targets if targets[group]})
    if there and groups == old["groups"]:
        return old
    return splits.empty(method, shares) | {"groups": groups}


def _remarks(report: IngestReport, all_: list[Sequence]) -> list[str]:
    found = []
    if report.unlabelled:
        few = some(report.unlabelled)
        found.append(f"{len(report.unlabelled)} of {len(all_)} have no labels and are kept as 'unlabelled': {few}")
    rules = Counter(each.grey_rule for each in all_)
    if rules["bt601"]:
        found.append(f"{rules['bt601']} of {len(all_)} have colour: made grey by the rule bt601")
    noted: dict[str, list[str]] = {}
    for each in all_:
        for note in each.notes:
            noted.setdefault(note, []).append(each.name)
    found += [f"{some(names)}: {note}" for note, names in noted.items()]
    return found + [f"{each.name}: {described(each.marks)}" for each in all_ if each.marks]
