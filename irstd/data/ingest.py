"""From a source folder to `data/<set>/`: everything is read and checked first, then renamed into place.

Bad input leaves `data/` as it was. The same recording with the same labels again is a no-op; a change to what is there
needs `update`. Each recording is decoded once.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from irstd.config import SplitConfig
from irstd.data import sequence, splits
from irstd.data.counts import CountHistogram
from irstd.data.importers import AUTO, Candidate, Found, choose, scan
from irstd.data.importers.base import some
from irstd.data.sequence import ANNOTATIONS_FILE, FRAMES_FOLDER, SEQUENCE_FILE, Sequence, slug
from irstd.data.video import open_recording
from irstd.errors import InputError, nearest
from irstd.files import canonical_json, sha256_file, sha256_text, write_json

# Called with (bytes done, bytes in all, name of the recording that was finished).
Progress = Callable[[int, int, str], None]


@dataclass
class IngestReport:
    """Names of sequences by what became of them (`unlabelled` is a part of the others), and what is worth saying."""

    added: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


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

    Raises:
        InputError: the source is not good, or would change what is there; `data` is untouched then.
    """
    if set_name != slug(set_name):
        raise InputError(f"--name {set_name}: use letters a-z, digits, - and _, such as {slug(set_name)!r}")
    listing = scan(source)
    importer, reason = choose(listing, format)
    found = importer.read(listing, list_name)
    report = IngestReport(messages=[reason, *found.messages])
    candidates = _named(found.candidates, bit_depth, group_by, licence)
    there = _there(data, set_name)
    sizes = {name: sum(listing.path(file).stat().st_size for file in c.files) for name, c in candidates.items()}
    with _work_folder(staging) as work:
        fresh: dict[str, Sequence] = {}
        refused: list[str] = []
        done = 0
        for name, candidate in candidates.items():
            old = there.get(name)
            change = old and _change(old, candidate, listing.root, data)
            if change and not update:
                refused.append(f"{name} ({change})")
            elif old and not change:
                report.unchanged.append(name)
            elif not refused:
                fresh[name] = _stage(candidate, listing.root, work / "new" / name, set_name, name, old)
                (report.updated if old else report.added).append(name)
            done += sizes[name]
            if progress:
                progress(done, sum(sizes.values()), name)
        if refused:
            raise InputError(
                f"{set_name}/{some(refused)}: differs from what is there, nothing was changed: give --update to make a "
                "new version, or another --name"
            )
        given = _assign(data / set_name, found, candidates, there | fresh, bool(there), shares or SplitConfig())
        _commit(fresh, work, data / set_name, given)
    report.unlabelled = [name for name in candidates if not (there | fresh)[name].labelled]
    report.messages += _remarks(report, [(there | fresh)[name] for name in candidates])
    return report


def remove(data: Path, set: str, name: str) -> None:
    """Take a sequence out of `data`. Its group keeps its split, should it come back; the last one takes the set along.

    `InputError` where there is no such sequence.
    """
    names = [each.name for each in sequence.sequences(data, set)]
    if name not in names:
        raise InputError(f"no sequence {name!r} in the set {set}{nearest(name, names)}; see `irstd list data`")
    gone = data / set if names == [name] else data / set / name
    aside = gone.with_name(f".{gone.name}.removed")
    os.rename(gone, aside)
    shutil.rmtree(aside)


def _named(
    candidates: list[Candidate], bit_depth: int | None, group_by: str | None, licence: str | None
) -> dict[str, Candidate]:
    """{slug: candidate} with what the caller says put in. Two sources with one slug are refused."""
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
    return found


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


def _change(old: Sequence, candidate: Candidate, root: Path, data: Path) -> str | None:
    """What is other than before, or None. What nobody states now is no change."""
    if candidate.group and candidate.group != old.group:
        raise InputError(
            f"{candidate.recording}: its group was {old.group!r} and would become {candidate.group!r}: a group is "
            "given once; state it as before, or ingest under another --name"
        )
    if _hash([root / file for file in candidate.files], candidate) != old.source_sha256:
        return "recording"
    digest = None
    if candidate.annotate:
        digest = candidate.annotate(old.frames, old.height, old.width).digest()
    if digest != old.annotations_sha256:
        return "labels"
    for said in ("bit_depth", "fps", "licence"):
        if getattr(candidate, said) not in (None, getattr(old, said)):
            return said.replace("_", " ")
    return None


def _stage(candidate: Candidate, root: Path, folder: Path, set_name: str, name: str, old: Sequence | None) -> Sequence:
    """Write the sequence into `folder`: copy and hash, decode once, check, describe."""
    place = folder / FRAMES_FOLDER if candidate.folder else folder
    place.mkdir(parents=True)
    copies = [place / file.name for file in candidate.files]
    where = str(candidate.recording)
    try:
        hashes = [_copy(root / file, copy) for file, copy in zip(candidate.files, copies, strict=True)]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{where}: cannot be read ({error.strerror}): check its permissions") from None
    recording = open_recording(place if candidate.folder else copies[0], candidate.bit_depth, where)
    frames, intensity = _measure(recording.frames())
    digest, labelled, target = None, 0, 0
    if candidate.annotate:
        annotations = candidate.annotate(frames, recording.height, recording.width)
        text = annotations.to_json()
        digest, labelled, target = sha256_text(text), annotations.labelled_frames, annotations.target_frames
        (folder / ANNOTATIONS_FILE).write_text(text, encoding="utf-8")
    found = Sequence(
        folder=folder,
        set=set_name,
        name=name,
        source=tuple(copy.relative_to(folder).as_posix() for copy in copies),
        source_sha256=_joined(candidate, hashes),
        annotations_sha256=digest,
        frames=frames,
        fps=candidate.fps or recording.fps,
        height=recording.height,
        width=recording.width,
        bit_depth=recording.bit_depth,
        dtype=recording.dtype,
        grey_rule=recording.grey_rule,
        intensity=intensity,
        licence=candidate.licence or (old.licence if old else None),
        group=candidate.group or (old.group if old else name),
        labelled_frames=labelled,
        target_frames=target,
        notes=(*candidate.notes, *recording.notes),
    )
    (folder / SEQUENCE_FILE).write_text(found.to_json(), encoding="utf-8")
    return found


def _copy(source: Path, target: Path) -> str:
    """Copy byte for byte; sha256 of what was copied, from the same reading."""
    digest = sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
    return digest.hexdigest()


def _hash(files: list[Path], candidate: Candidate) -> str:
    return _joined(candidate, [sha256_file(file) for file in files])


def _joined(candidate: Candidate, hashes: list[str]) -> str:
    """The file's hash; for a folder of frames that of the list of names and hashes."""
    if candidate.folder is None:
        return hashes[0]
    return sha256_text(canonical_json([[file.name, each] for file, each in zip(candidate.files, hashes, strict=True)]))


def _measure(frames: Iterator) -> tuple[int, sequence.Intensity]:
    """Count frames and counts. The histogram runs in a thread beside the decoder, a bounded number of frames behind."""
    histogram, count = CountHistogram(), 0
    batch: list = []
    behind: Future | None = None

    def add(batch: list) -> None:
        for frame_HW in batch:
            histogram.add(frame_HW)

    with ThreadPoolExecutor(1) as pool:
        for frame_HW in frames:
            count += 1
            batch.append(frame_HW)
            if len(batch) * frame_HW.nbytes >= 1 << 19:
                if behind:
                    behind.result()
                behind, batch = pool.submit(add, batch), []
        if behind:
            behind.result()
    add(batch)
    return count, histogram.intensity()


def _assign(
    folder: Path,
    found: Found,
    candidates: dict[str, Candidate],
    all_: dict[str, Sequence],
    there: bool,
    shares: SplitConfig,
) -> dict:
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


def _commit(fresh: dict[str, Sequence], work: Path, folder: Path, given: dict) -> None:
    """Rename what was staged into `folder` and write the splits; on an error everything goes back."""
    for name in fresh:
        if (folder / name).exists() and not (folder / name / SEQUENCE_FILE).exists():
            raise InputError(f"{folder / name}: is there and is no sequence: move it out of data/")
    undo: list[tuple[Path, Path]] = []
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in fresh:
            if (folder / name).exists():
                _move(folder / name, work / "old" / name)
                undo.append((work / "old" / name, folder / name))
            _move(work / "new" / name, folder / name)
            undo.append((folder / name, work / "new" / name))
        if not (folder / splits.FILE).exists() or splits.read(folder) != given:
            write_json(folder / splits.FILE, given)
    except BaseException:
        for here, back in reversed(undo):
            _move(here, back)
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _move(source: Path, target: Path) -> None:
    """Rename; across file systems copy beside the target first, so that it appears whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = target.with_name(f".{target.name}.new")
        shutil.copytree(source, aside)
        os.rename(aside, target)
        shutil.rmtree(source)


@contextmanager
def _work_folder(staging: Path) -> Iterator[Path]:
    staging.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="ingest-", dir=staging))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remarks(report: IngestReport, all_: list[Sequence]) -> list[str]:
    found = []
    if report.unlabelled:
        few = some(report.unlabelled)
        found.append(f"{len(report.unlabelled)} of {len(all_)} have no labels and are kept as 'unlabelled': {few}")
    rules = Counter(each.grey_rule for each in all_)
    if rules["bt601"]:
        found.append(f"{rules['bt601']} of {len(all_)} have colour: made grey by the rule bt601")
    found += [f"{each.name}: {note}" for each in all_ for note in each.notes]
    return found
