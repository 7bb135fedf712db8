"""`irstd bench doctor`: frames a second of `irstd doctor data`, against decoding the same recordings alone.

One process, one thread, its CPU time: on a quiet machine that is the time that passes, on a busy one what others do stays out
of it. The doctor hashes each recording, decodes it once, and makes of it what its page shows. The page itself and the
comparison of sequences with each other come once for all of them and are not in it.
"""

from __future__ import annotations

from pathlib import Path
from time import process_time

import cv2

from irstd.bench.baselines import EVERYTHING, Scenes, write_data
from irstd.bench.timing import Report, figure, interleaved, pinned, timed
from irstd.data import sequence
from irstd.data.doctor.survey import survey
from irstd.data.ingest import ingest
from irstd.data.sequence import Sequence
from irstd.errors import WorkError

LEAST_RATE, MOST_TIME = 150.0, 1.3  # frames a second, or times what decoding takes: whichever is slower
PICTURES, ALLOWANCE = 4, 60_000  # of a sequence of a small set, where most pictures are made


def measure(folder: Path, seconds: float, scenes: Scenes | None = None) -> Report:
    """Look at the first sequence of `scenes`, as FFV1 video and as a folder of PNG files; `folder` is empty."""
    with pinned():
        scenes = scenes or Scenes(sequences=1, frames=120)
        items = {"FFV1": sequence.sequences(write_data(scenes, folder / "video"), "bench")[0]}
        items["PNG"] = _as_png(items["FFV1"], folder / "png")
        sides = {}
        for name, item in items.items():
            _check(item)
            sides[f"doctor, {name}"] = timed(lambda item=item: _look(item), process_time)
            sides[f"decode, {name}"] = timed(lambda item=item: sum(1 for _ in item.read()), process_time)
        timing = interleaved(sides, seconds)
    report = Report(
        "frames a second of CPU time of the doctor, one thread",
        [
            f"{scenes}; one sequence, two targets in each frame",
            "checked: all frames are decoded, all targets measured, nothing is found to be wrong",
        ],
        [
            {"side": name, "frames/s": timing.rate(name), "ms/frame": 1000 / timing.rate(name)}
            for name in timing.seconds
        ],
        [(f"doctor / decoding alone, {name}", timing.ratio(f"doctor, {name}", f"decode, {name}")) for name in items],
    )
    for name in items:
        rate, alone = timing.rate(f"doctor, {name}"), timing.rate(f"decode, {name}")
        goal = min(LEAST_RATE, alone / MOST_TIME)
        verdict = "held" if rate >= goal else "missed"
        report.results.append(
            f"RATE doctor, {name}: {figure(rate)} frames a second of CPU time; goal {figure(goal)} "
            f"(the slower one of {LEAST_RATE:g} and decoding alone / {MOST_TIME:g}): {verdict}"
        )
    return report


def _look(item: Sequence) -> int:
    survey(item, PICTURES, ALLOWANCE)
    return item.frames


def _check(item: Sequence) -> None:
    """`WorkError` where the doctor does not look at all of it."""
    found = survey(item, PICTURES, ALLOWANCE)
    kinds = {finding.kind for finding in found.findings} - {"border"}
    if len(found.scr) < item.frames or len(found.pictures) < PICTURES or kinds:
        raise WorkError(
            f"bench doctor: {item.name}: {len(found.scr)} targets, {len(found.pictures)} pictures, "
            f"findings {sorted(kinds)}; a rate would mean nothing"
        )


def _as_png(item: Sequence, folder: Path) -> Sequence:
    """The same frames and labels, ingested as a folder of PNG files."""
    frames = folder / "source" / item.name
    frames.mkdir(parents=True)
    for index, frame_HW in enumerate(item.read()):
        cv2.imwrite(str(frames / f"{index:06d}.png"), frame_HW)
    text = (item.folder / sequence.ANNOTATIONS_FILE).read_text(encoding="utf-8")
    (folder / "source" / f"{item.name}.annotations.json").write_text(text, encoding="utf-8")
    ingest(folder / "source", "bench", folder / "data", folder / "staging", format="native", shares=EVERYTHING)
    return sequence.sequences(folder / "data", "bench")[0]
