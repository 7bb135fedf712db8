"""Targets of a stated SCR painted into real frames, and the folders of recordings that the product ingests.

A recording without targets becomes one with exact masks: a point spread integrated over the pixels, at a place drawn
anew for every frame, its amplitude set against the counts that are really there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from irstd.config import ShardConfig, SplitConfig
from irstd.data import rle, shards, splits
from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.contrast import ring_of
from irstd.data.derive import targets_of
from irstd.data.ingest import ingest
from irstd.data.synthetic_targets import GAP, amplitude_for, point_spread
from irstd.files import write_json

MARGIN = 3  # px from the frame's border to a target's centre


def paint(
    frame_HW: np.ndarray,
    count: int,
    scr: tuple[float, float],
    sigma: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Paint `count` targets, each of an SCR and a size drawn from the ranges, brighter than their surroundings.

    Args:
        frame_HW: uint8 or uint16 [H, W] counts without targets, at least 12 px a side.
        scr: least and greatest SCR (see `irstd.data.synthetic_targets`).
        sigma: least and greatest deviation of the point spread, px.

    Returns:
        The frame, of the same dtype, and the mask of the targets, uint8 {0, 1} [H, W].

    Raises:
        ValueError: the frame has no room for so many targets 12 px apart.
    """
    height, width = frame_HW.shape
    background_HW = frame_HW.astype(np.float64)
    places: list[np.ndarray] = []
    for _ in range(200 * count):
        if len(places) == count:
            break
        place = rng.uniform(MARGIN, (width - 1 - MARGIN, height - 1 - MARGIN))
        if all(np.hypot(*(place - other)) >= GAP for other in places):
            places.append(place)
    if len(places) < count:
        raise ValueError(f"no room for {count} targets in {height} x {width} pixels")
    spreads = [point_spread(x, y, rng.uniform(*sigma), height, width) for x, y in places]
    targets_HW = np.zeros((height, width), bool)
    for _, mask_HW in spreads:
        targets_HW |= mask_HW
    painted_HW = background_HW.copy()
    for spread_HW, mask_HW in spreads:
        ring_HW = ring_of(mask_HW, targets_HW)
        painted_HW += spread_HW * amplitude_for(rng.uniform(*scr), [background_HW], [spread_HW], [mask_HW], [ring_HW])
    highest = np.iinfo(frame_HW.dtype).max
    return np.rint(painted_HW).clip(0, highest).astype(frame_HW.dtype), targets_HW.astype(np.uint8)


def write_recording(folder: Path, name: str, frames_THW: np.ndarray, masks_THW: np.ndarray) -> None:
    """`NAME.tiff`, one page a frame, and `NAME.annotations.json`, as someone would bring them."""
    folder.mkdir(parents=True, exist_ok=True)
    if not cv2.imwritemulti(str(folder / f"{name}.tiff"), list(frames_THW)):
        raise OSError(f"{folder / name}.tiff: cannot be written")
    targets = {}
    for index, mask_HW in enumerate(masks_THW):
        boxes, points = targets_of(mask_HW)
        targets[index] = FrameTargets(index, True, boxes, points=points, mask=rle.encode(mask_HW))
    text = Annotations.build(targets, len(frames_THW), name, masks=True).to_json()
    (folder / f"{name}.annotations.json").write_text(text, encoding="utf-8")


def build_shards(
    source: Path, work: Path, name: str, config: ShardConfig, given: Mapping[str, str] | None = None
) -> Path:
    """Ingest `source` as the set `name` under `work` and shard it; returns the folder of shards.

    `given` puts groups into splits (by default the source's own list or the product's draw does).
    """
    data, out = work / "data", work / "shards"
    ingest(source, name, data, work / "staging")
    if given is not None:
        write_json(
            data / name / splits.FILE, splits.empty("stated by the benchmark", SplitConfig()) | {"groups": given}
        )
    shards.build(data, out, config)
    return out
