"""`irstd detect`: a model on a video, in bounded memory; JSON lines and an overlay."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

from irstd.commands.show import result, say
from irstd.errors import InputError
from irstd.workspace import Workspace


def run(workspace: Workspace, video: Path, uri: str, out: Path, bit_depth: int | None, overlay: bool) -> None:
    """Both files appear under their names only when they are whole."""
    from irstd.data.video import open_recording
    from irstd.inference import domain
    from irstd.inference.detector import Detector
    from irstd.registry import models, tracking

    if not video.exists():
        raise InputError(f"{video}: no such file or folder")
    there = next((p for p in (out, *out.parents) if p.exists()), None)
    if there is not None and not there.is_dir():
        raise InputError(f"--out {out}: {there} is a file; name a folder")
    with tracking.answering(workspace):
        package = models.package(workspace, uri)
    recording = open_recording(video, bit_depth)
    statistics, count, size = survey(recording)
    for note in domain.check(package.content, recording.bit_depth, *size):
        say(f"{video.name}: {note}")
    out.mkdir(parents=True, exist_ok=True)
    lines, film = out / ".detections.jsonl.part", out / ".overlay.part.webm"
    try:
        total = detections(
            Detector(package), open_recording(video, bit_depth), statistics, count, lines, film if overlay else None
        )
        lines.replace(out / "detections.jsonl")
        if overlay:
            film.replace(out / "overlay.webm")
    finally:
        lines.unlink(missing_ok=True)
        film.unlink(missing_ok=True)
    say(
        f"{video.name}: {total} detections in {count} frames; {out / 'detections.jsonl'}"
        + (" and overlay.webm" if overlay else "")
    )
    result(video=str(video), frames=count, detections=total, out=str(out))


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


def detections(
    detector: Any, recording: Any, statistics: dict[str, float], count: int, lines: Path, film: Path | None
) -> int:
    """Write one line a frame (and the overlay); the number of detections."""
    from irstd.inference.overlay import OverlayWriter

    total, started = 0, time.monotonic()
    shown = started
    writer = None
    kept, fed = itertools.tee(recording.frames())
    with lines.open("w", encoding="utf-8") as file:
        for index, found in enumerate(detector.stream(fed, recording.bit_depth, statistics)):
            frame_HW = next(kept)
            row = {
                "video": str(recording.path.name),
                "frame": index,
                "boxes": [[round(float(v), 3) for v in box] for box in found.boxes_N4],
                "scores": [round(float(v), 5) for v in found.scores_N],
            }
            file.write(json.dumps(row) + "\n")
            total += len(found)
            if film is not None:
                if writer is None:
                    writer = OverlayWriter(film, *frame_HW.shape, recording.fps)
                writer.write(frame_HW, found, index)
            now = time.monotonic()
            if now - shown > 5:
                shown = now
                left = (now - started) / (index + 1) * (count - index - 1)
                say(f"detect: frame {index + 1} of {count}, about {left:.0f} s left")
    if writer is not None:
        writer.close()
    return total
