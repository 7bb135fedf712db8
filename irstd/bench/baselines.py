"""What the benchmarks run on: recordings made from a seed, so that a benchmark needs no data.

The loaders that ours is compared with are in `irstd.bench.readers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from irstd.config import ShardConfig, SplitConfig
from irstd.data import rle, shards
from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.derive import targets_of
from irstd.data.ingest import ingest
from irstd.errors import WorkError

NOISE = 2.5  # counts
DRIFT = 32  # pixels of background beyond the frame, over which it moves
# By blocks too, since fewer than three sequences are given to no split.
EVERYTHING = SplitConfig(by="block", train=1, val=0, gate=0, test=0)


@dataclass(frozen=True)
class Scenes:
    """Recordings of `frames` frames uint8 [height, width]: `sequences` of them, from `seed`."""

    sequences: int = 4
    frames: int = 24
    height: int = 512
    width: int = 640
    seed: int = 0

    def __str__(self) -> str:
        what = "1 synthetic sequence" if self.sequences == 1 else f"{self.sequences} synthetic sequences"
        return f"{what} of {self.frames} frames {self.height}x{self.width}, 8 bits, seed {self.seed}"


def render(scenes: Scenes, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [T, H, W] and masks uint8 {0, 1} [T, H, W] of one sequence: drifting clouds, noise, two targets.

    The noise is what a PNG file of a real infrared frame spends its bytes on; at this strength, about half a byte a pixel
    here as there, so that decoding costs what it costs with real files.
    """
    rng = np.random.default_rng([scenes.seed, number])
    height, width = scenes.height, scenes.width
    canvas_HW = np.full((height + DRIFT, width + DRIFT), 100, np.float32)
    for cell, strength in ((64, 22), (8, 3)):
        rows, columns = (height + DRIFT) // cell + 2, (width + DRIFT) // cell + 2
        coarse = rng.standard_normal((rows, columns), dtype=np.float32)
        canvas_HW += strength * cv2.resize(coarse, canvas_HW.shape[::-1], interpolation=cv2.INTER_CUBIC)
    starts_N2 = rng.uniform(0.25, 0.75, (2, 2)) * (height, width)
    speeds_N2 = rng.uniform(-1, 1, (2, 2))
    frames_THW = np.empty((scenes.frames, height, width), np.uint8)
    masks_THW = np.zeros((scenes.frames, height, width), np.uint8)
    y_H, x_W = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    for t in range(scenes.frames):
        shift = t % DRIFT
        frame_HW = canvas_HW[shift : shift + height, :width] + NOISE * rng.standard_normal((height, width), np.float32)
        for centre in np.clip(starts_N2 + t * speeds_N2, 3, (height - 4, width - 4)):
            spot_HW = np.outer(np.exp(-((y_H - centre[0]) ** 2) / 2), np.exp(-((x_W - centre[1]) ** 2) / 2))
            frame_HW += 40 * spot_HW
            masks_THW[t] |= spot_HW > 0.5
        frames_THW[t] = np.clip(np.rint(frame_HW), 0, 255)
    return frames_THW, masks_THW


def write_data(scenes: Scenes, folder: Path) -> Path:
    """Render, write as FFV1 video with labels, and ingest; returns the folder `data`."""
    source = folder / "source"
    source.mkdir(parents=True)
    for number in range(scenes.sequences):
        frames_THW, masks_THW = render(scenes, number)
        _write_video(source / f"scene-{number}.mkv", frames_THW)
        entries = []
        for t, mask_HW in enumerate(masks_THW):
            boxes, points = targets_of(mask_HW)
            entries.append(FrameTargets(t, True, boxes, None, points, rle.encode(mask_HW)))
        text = Annotations(entries, masks=True).to_json()
        (source / f"scene-{number}.annotations.json").write_text(text, encoding="utf-8")
    ingest(source, "bench", folder / "data", folder / "staging", format="native", shares=EVERYTHING)
    return folder / "data"


def write_shards(scenes: Scenes, folder: Path) -> Path:
    """Shards of `scenes`, all of it in the split train, as ingest noted; returns the folder `shards`."""
    shards.build(write_data(scenes, folder), folder / "shards", ShardConfig())
    return folder / "shards"


def _write_video(path: Path, frames_THW: np.ndarray) -> None:
    height, width = frames_THW.shape[1:]
    options = [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_8U, cv2.VIDEOWRITER_PROP_IS_COLOR, 0]
    code = cv2.VideoWriter.fourcc(*"FFV1")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 25.0, (width, height), options)
    if not writer.isOpened():
        raise WorkError(f"{path.name}: this OpenCV cannot write FFV1 video; install opencv-python >= 5")
    for frame_HW in frames_THW:
        writer.write(frame_HW)
    writer.release()
