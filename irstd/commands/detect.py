"""`irstd detect`: a model on recordings, one or many, in bounded memory; files of detections, overlays, pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from irstd.commands.detection import Job, attempt, detect, facts, failed, where
from irstd.commands.show import result, say
from irstd.errors import InputError
from irstd.files import write_atomic, write_json, writing
from irstd.workspace import Workspace

SUMMARY, OVERVIEW = "recordings.json", "index.html"
EVERY = 3.0  # seconds between two lines of progress

Map = Callable[[Callable[[Job], dict[str, Any]], Iterable[Job]], Iterator[dict[str, Any]]]


def run(
    workspace: Workspace,
    inputs: list[str],
    uri: str,
    out: Path,
    bit_depth: int | None = None,
    overlay: bool = True,
    formats: str = "jsonl",
    page: bool = False,
    tracks: bool = False,
    distance: float | None = None,
    workers: int | None = None,
    on_ray: bool | None = None,
    device: str = "auto",
    anew: bool = False,
) -> int:
    """Results of one recording in `out`, of several in a folder each below it. The exit status: 1 where some of many failed."""
    from irstd.data import inputs as naming
    from irstd.inference import outputs
    from irstd.inference.tracks import DISTANCE, Tracks
    from irstd.registry import models, tracking

    chosen = outputs.chosen(formats)
    if distance is not None and not tracks:
        raise InputError("--track-distance: is of tracks; add --tracks")
    for text in inputs:  # what is not there is said before the registry is asked
        naming.check(text)
    there = next((p for p in (out, *out.parents) if p.exists()), None)
    if there is not None and not there.is_dir():
        raise InputError(f"--out {out}: {there} is a file; name a folder")
    if tracks:
        Tracks()  # whether they can be had
    where(device)
    with tracking.answering(workspace):
        package = models.package(workspace, uri)
    shared = Job(
        source=None, out=out.resolve(), package=package.folder.resolve(), uri=uri, bit_depth=bit_depth, formats=tuple(chosen),
        overlay=overlay, page=page, distance=(distance or DISTANCE) if tracks else None, device=device, anew=anew,
    )  # fmt: skip
    found = naming.recordings(inputs)
    if naming.alone(inputs):
        row = detect(replace(shared, source=found[0]), say)
        told(row, out, ", ".join(_kinds(shared)))
        result(
            video=inputs[0],
            frames=row["frames"],
            detections=row["detections"],
            tracks=row["tracks"],
            out=str(out),
            page=(out.resolve() / "page.html").as_uri() if page else None,
        )
        return 0
    jobs = [replace(shared, source=each, out=shared.out / each.name, one_thread=True) for each in found]
    with _executor(workspace, workers, on_ray, len(jobs)) as (execute, several):
        rows = _all(jobs if several else [replace(job, one_thread=False) for job in jobs], execute)
    rows.sort(key=lambda row: [each.name for each in found].index(row["name"]))
    return summed_up(rows, shared, out, facts(shared, package))


def told(row: dict[str, Any], out: Path, kinds: str) -> None:
    kept = "; kept: made before of the same model and recording" if row["kept"] else ""
    tracked = f" and {row['tracks']} tracks" if row["tracks"] is not None else ""
    say(
        f"{row['recording']}: {row['detections']} detections{tracked} in {row['frames']} frames; {kinds} in {out}{kept}"
    )


def _kinds(job: Job) -> list[str]:
    return [*job.formats, *["overlay"] * job.overlay, *["page"] * job.page]


def _all(jobs: list[Job], execute: Map) -> list[dict[str, Any]]:
    """Every recording's row, each told as it comes; a broken one in one line."""
    rows: list[dict[str, Any]] = []
    quiet = jobs[0].one_thread
    started = last = time.monotonic()
    for row in execute(attempt, jobs):
        rows.append(row)
        for note in row.get("notes", ()) if quiet else ():
            say(f"{row['recording']}: {note}")
        if row.get("error"):
            say(f"{row['recording']}: failed: {row['error']}")
        now = time.monotonic()
        if now - last > EVERY or len(rows) == len(jobs):
            last = now
            left = (now - started) / len(rows) * (len(jobs) - len(rows))
            say(f"detect: {len(rows)} of {len(jobs)} recordings" + (f", about {left:.0f} s left" if left else ""))
    return rows


def summed_up(rows: list[dict[str, Any]], job: Job, out: Path, about: list[tuple[str, str]]) -> int:
    """Write the list of recordings, and say what came of all; the exit status."""
    from irstd.reports.detections import overview

    empty = {"error": None, "page": None, "tracks": None}
    rows = [empty | row for row in rows]
    for row in rows:
        if job.page and not row["error"]:
            row["page"] = f"{row['name']}/page.html"
    with writing(job.out):
        write_json(job.out / SUMMARY, [{k: v for k, v in row.items() if k != "bars"} for row in rows])
        if job.page:
            write_atomic(job.out / OVERVIEW, overview(rows, about))
    done = [row for row in rows if not row["error"]]
    broken = failed(rows)
    total = {key: sum(row[key] for row in done) for key in ("frames", "detections")}
    say(
        f"{len(done)} recordings, {total['detections']} detections in {total['frames']} frames; {', '.join(_kinds(job))} of "
        f"each in a folder of {out}" + (f"; {sum(row['kept'] for row in done)} kept from before" if done else "")
    )
    result(
        recordings=len(rows),
        failed=len(rows) - len(done) or None,
        kept=sum(row["kept"] for row in done),
        **total,
        out=str(out),
        page=(job.out / OVERVIEW).as_uri() if job.page else None,
    )
    if broken:
        say(f"irstd: {broken}")
    return broken.status if broken else 0


@contextmanager
def _executor(workspace: Workspace, workers: int | None, on_ray: bool | None, jobs: int) -> Iterator[tuple[Map, bool]]:
    """Processes of this machine; Ray's tasks where they are asked for, or settings.toml names a cluster and --workers is not
    given. And whether several recordings are looked at side by side."""
    if on_ray and workers is not None:
        raise InputError("--ray and --workers: Ray decides how many tasks run side by side; give one of the two")
    if on_ray is None:
        on_ray = workers is None and bool(workspace.settings["ray"]["address"])
    if not on_ray:
        from irstd.data.processes import Processes

        yield Processes(workers or 1), (workers or 1) > 1 and jobs > 1
        return
    from irstd.cluster.session import session
    from irstd.cluster.shards import tasks

    with session(workspace) as resources:
        say(
            f"detect: tasks on {resources.where}, {resources.cpus:g} CPU; every node has to reach recordings, model and results"
        )
        gpus = 1.0 if resources.gpus else 0.0
        yield lambda function, work: tasks(function, work, "detect", gpus), True


def survey(recording: Any) -> tuple[dict[str, float], int, tuple[int, int]]:
    """The recording's statistics, as `sequence.json` holds them, its counted frames, and their height and width."""
    from irstd.data.counts import intensity_of

    count, size = 0, (0, 0)

    def counted() -> Any:
        nonlocal count, size
        for frame_HW in recording.frames():
            count += 1
            size = frame_HW.shape
            yield frame_HW

    return dict(intensity_of(counted())), count, size
