"""All sequences of some sets, looked at one after the other or by several processes, and the sets as wholes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irstd.config import ShardConfig
from irstd.data import sequence, splits
from irstd.data.doctor.across import near_duplicates, of_set, same_recordings
from irstd.data.doctor.findings import Finding, waive
from irstd.data.doctor.survey import Survey, survey
from irstd.data.processes import Processes
from irstd.data.sequence import Sequence
from irstd.errors import InputError

PAGE_BYTES = 6_400_000  # of pictures in all; written as text they take a third more
LEAST_BYTES, MOST_BYTES = 1_500, 60_000  # for a sequence
SHEETS = ((60, 4), (200, 3), (600, 2))  # up to so many videos, so many frames of each; beyond it one
STILL = 3  # times less than a video needs
SHOWN = 3_000  # of more sequences only some have pictures, and those with findings
FEW_FRAMES = 500  # are looked at sooner than a process is started

Progress = Callable[[int, int, str], None]
"""Called with frames done, frames in all, and the sequence at hand."""


@dataclass(frozen=True, eq=False)
class SetReport:
    """What was found in a set. `splits`: {sequence: its split, for people}."""

    name: str
    surveys: list[Survey]
    findings: list[Finding]
    splits: dict[str, str]


def examine(
    data: Path, names: Iterable[str], config: ShardConfig, workers: int = 1, progress: Progress | None = None
) -> list[SetReport]:
    """Look at all of the sets `names`. `InputError` where there is no such set, or `sequence.json` cannot be read."""
    items = {name: sequence.sequences(data, name) for name in names}
    given = {name: splits.read(data / name) for name in items}
    every = [item for found in items.values() for item in found]
    surveys = _surveys(every, workers, progress)
    by_set = {name: [surveys[name, item.name] for item in found] for name, found in items.items()}
    places = {name: _places(found, given[name], config) for name, found in items.items()}
    shared = same_recordings(by_set, places)
    reports = []
    for name, found in by_set.items():
        published = splits.is_published(given[name])
        findings = [finding for each in found for finding in each.findings]
        findings += of_set(name, found) + [finding for finding in shared if finding.set == name]
        findings += near_duplicates(name, found, places[name], published, config.split.allow_duplicates)
        for each in found:
            each.views.clear()
        _show_pairs(found, findings)
        shown = {
            each.sequence.name: "/".join(places[name].get(each.sequence.name, ()))
            or splits.split_of(each.sequence, given[name])
            or "none yet"
            for each in found
        }
        reports.append(SetReport(name, found, waive(findings, config.waivers), shown))
    return reports


def _places(items: list[Sequence], given: dict[str, Any], config: ShardConfig) -> dict[str, tuple[str, ...]]:
    """{sequence: its splits}, as `irstd shard` would have it; without those that are in none."""
    found = {}
    for item in items:
        split = splits.split_of(item, given)
        if split in splits.SPLITS:
            found[item.name] = (split,)
        elif split is None and config.split.by == "block":
            try:
                found[item.name] = tuple(name for name, _, _ in splits.blocks(item.frames, config.split, config.frames))
            except InputError:  # too short to be cut: irstd shard says so
                continue
    return found


def _surveys(every: list[Sequence], workers: int, progress: Progress | None) -> dict[tuple[str, str], Survey]:
    videos = sum(item.frames > 1 for item in every)
    share = PAGE_BYTES // (STILL * videos + len(every) - videos)
    frames = next((count for most, count in SHEETS if videos <= most), 1)
    step = -(-len(every) // SHOWN)
    jobs = [
        _Job(
            item,
            frames if number % step == 0 else 0,
            min(max(LEAST_BYTES, share * (STILL if item.frames > 1 else 1)), MOST_BYTES),
        )
        for number, item in enumerate(every)
    ]
    total, done = sum(item.frames for item in every), 0
    found: dict[tuple[str, str], Survey] = {}

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total, at)

    at = ""
    if workers == 1 or total <= FEW_FRAMES or len(every) == 1:
        for job in jobs:
            at = f"{job.sequence.set}/{job.sequence.name}"
            found[job.sequence.set, job.sequence.name] = survey(job.sequence, job.frames, job.allowance, tick)
        return found
    for each in Processes(workers)(_look, jobs):
        item = each.sequence
        found[item.set, item.name] = each
        done += item.frames
        if progress:
            progress(done, total, f"{item.set}/{item.name}")
    return found


@dataclass(frozen=True)
class _Job:
    sequence: Sequence
    frames: int
    allowance: int


def _look(job: _Job) -> Survey:
    return survey(job.sequence, job.frames, job.allowance)


def _show_pairs(surveys: list[Survey], findings: list[Finding]) -> None:
    """Frames that near-duplicates name get their pictures; the other spare ones go."""
    by_name = {each.sequence.name: each for each in surveys}
    for finding in findings:
        named = [(finding.sequence, finding.frame), finding.also or (None, None)]
        for name, frame in named:
            each = by_name.get(name or "")
            if each and frame is not None and each.picture(frame) is None and frame in each.spares:
                each.pictures.append(each.spares[frame])
    for each in surveys:
        each.spares.clear()
        each.pictures.sort(key=lambda picture: picture.frame)
