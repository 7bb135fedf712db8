"""How long an ingest of videos takes against what nobody can leave out: reading them once, and hashing them once.

    python -m benchmarks.ingest --data DIR [--rounds 5]

DIR holds `halmstad/`, 49 H.264 videos of 320x256 with their labels. The sides take turns:

- ingest: `irstd.data.ingest`, from the source to a fresh `data/`: copies, hashes, labels, counted frames, the range of counts,
  frozen and flat frames, `sequence.json` and `splits.json`;
- read and hash: each video is decoded from its first frame to its last by OpenCV, and its bytes are hashed (sha256), one video
  after the other;
- as usually read: the same with OpenCV's own settings, which make BGR of every frame.

All have what OpenCV takes by itself: as many decoder threads as there are cores. What passes on the clock and what it costs in
CPU time are both stated: ingest uses the cores that are free, so on a busy machine the clock says more of the others.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

# FFmpeg reads it when the first video is opened; "quiet".
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
import cv2

from irstd.bench.timing import machine
from irstd.data import sequence
from irstd.data.ingest import ingest
from irstd.environment import cores
from irstd.files import sha256_file


def read_and_hash(videos: list[Path], options: list[int]) -> int:
    """Decode and hash; the number of frames."""
    count = 0
    for video in videos:
        sha256_file(video)
        capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, options)
        while capture.read()[0]:
            count += 1
        capture.release()
    return count


def ingested(source: Path, work: Path) -> int:
    """Ingest into an empty folder; the number of frames."""
    ingest(source, "set", work / "data", work / "staging")
    return sum(each.frames for each in sequence.sequences(work / "data", "set"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    source = given.data / "halmstad"
    videos = sorted(source.rglob("*.mp4"))
    sides: dict[str, Callable[[Path], int]] = {
        "ingest": lambda work: ingested(source, work),
        "read and hash": lambda work: read_and_hash(videos, [cv2.CAP_PROP_CONVERT_RGB, 0]),
        "as usually read": lambda work: read_and_hash(videos, []),
    }
    clocks = {"clock": time.perf_counter, "CPU": time.process_time}
    seconds: dict[tuple[str, str], list[float]] = {(name, clock): [] for name in sides for clock in clocks}
    frames = set()
    for number in range(given.rounds + 1):  # the first is not counted
        for name, side in sides.items():
            work = Path(tempfile.mkdtemp(prefix="irstd-bench-"))
            before = {clock: now() for clock, now in clocks.items()}
            frames.add(side(work))
            for clock, now in clocks.items():
                if number:
                    seconds[name, clock].append(now() - before[clock])
            shutil.rmtree(work)
    print(f"{len(videos)} videos, frames counted by every side: {frames}")
    for (name, clock), taken in seconds.items():
        print(f"{name:<16}{clock:<6}{median(taken):.2f} s [{min(taken):.2f}, {max(taken):.2f}]")
    for other in list(sides)[1:]:
        for clock in clocks:
            ratios = [a / b for a, b in zip(seconds["ingest", clock], seconds[other, clock], strict=True)]
            print(f"ingest / {other}, {clock}: {median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    print(f"machine: {machine(cores())}".removesuffix("; one thread"))


if __name__ == "__main__":
    main()
