"""A synthetic sequence from its specification: scene, targets at a stated SCR, sensor, and the labels they imply."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from irstd.data import contrast, synthetic_camera, synthetic_scene, synthetic_targets
from irstd.errors import InputError, nearest

# One stream of random numbers for each part, so that a scene stays the same when its targets are changed.
_STREAMS = ("camera", "scene", "targets", "sensor")


@dataclass(frozen=True)
class SceneSpec:
    """Everything that decides a sequence.

    Attributes:
        height, width: pixels. frames: number of frames. fps: frames a second.
        seed: of every random draw.
        kind: ``clouds``, ``horizon``, ``ground`` or ``sea``.
        offset: counts of the 1st percentile of the scene, before targets and the sensor's flaws.
        span: counts between its 1st and 99th percentile.
        targets: number of targets in the sequence; 0 gives labelled frames that are all empty.
        scr: mean signal-to-clutter ratio of each target over the frames that show it.
        target_size: full width at half maximum of the point spread in pixels: (least, greatest) of the targets.
        speed: pixels a frame, (least, greatest) of the targets.
        noise: deviation of the temporal noise in counts.
        hot_pixels: defective pixels; clutter: number of warm things on land.
        drift: pixels a frame by which the camera pans.
        bit_depth: counts stay below 2^bit_depth; what would be brighter is saturated.

    Raises:
        InputError: a value is out of its range.
    """

    height: int
    width: int
    frames: int
    fps: float
    seed: int
    kind: str
    offset: float
    span: float
    targets: int
    scr: float = 6.0
    target_size: tuple[float, float] = (1.6, 2.6)
    speed: tuple[float, float] = (0.5, 1.8)
    noise: float = 1.0
    hot_pixels: int = 10
    clutter: int = 40
    drift: float = 0.15
    bit_depth: int = 14

    def __post_init__(self) -> None:
        kinds = synthetic_scene.KINDS
        if self.kind not in kinds:
            raise InputError(f"kind {self.kind!r} is none of {', '.join(kinds)}{nearest(self.kind, kinds)}")
        checks = {
            "height and width are at least 32": min(self.height, self.width) >= 32,
            "frames is at least 1": self.frames >= 1,
            "fps, span, noise and scr are greater than 0": min(self.fps, self.span, self.noise, self.scr) > 0,
            "seed, targets, hot_pixels and clutter are at least 0": min(
                self.seed, self.targets, self.hot_pixels, self.clutter
            )
            >= 0,
            "target_size lies in 1 to 4 px": 1 <= self.target_size[0] <= self.target_size[1] <= 4,
            "bit_depth lies in 8 to 16": 8 <= self.bit_depth <= 16,
            "offset is not negative, and offset + 1.5 span fits into the bit depth": self.offset >= 0
            and self.offset + 1.5 * self.span < 2**self.bit_depth,
        }
        for rule, holds in checks.items():
            if not holds:
                raise InputError(f"scene: {rule}; got {self}")


@dataclass(frozen=True)
class Scene:
    """A rendered sequence of T frames.

    Attributes:
        frames_THW: uint16 counts.
        masks_THW: uint8 {0, 1}, the union of the targets' masks: pixels with at least half the peak of a point spread.
        boxes: T float64 arrays [N, 4] of (x, y, w, h): tight edges of each target's mask.
        points: T float64 arrays [N, 2] of (x, y): centres of the point spreads, (j, i) being pixel (i, j)'s centre.
        scr: T float64 arrays [N], measured on the frames.
    """

    frames_THW: np.ndarray
    masks_THW: np.ndarray
    boxes: list[np.ndarray]
    points: list[np.ndarray]
    scr: list[np.ndarray]


def render(spec: SceneSpec) -> Scene:
    """The sequence that a specification describes; equal specifications give equal bits.

    Raises:
        InputError: the frame has no room for that many targets.
    """
    random = {name: np.random.Generator(np.random.PCG64([spec.seed, i])) for i, name in enumerate(_STREAMS)}
    camera_T2 = synthetic_camera.camera_path(random["camera"], spec.frames, spec.drift)
    scene_THW = synthetic_scene.radiance(spec.kind, spec.height, spec.width, camera_T2, spec.clutter, random["scene"])
    flaws_THW = synthetic_camera.sensor(
        spec.frames, spec.height, spec.width, spec.noise, spec.hot_pixels, 0.5 * spec.span, random["sensor"]
    )
    counts_THW = spec.offset + spec.span * synthetic_camera.optics(scene_THW) + flaws_THW

    shown = _targets(spec, camera_T2, random["targets"])
    masks_THW = np.zeros(counts_THW.shape, dtype=np.uint8)
    for target in shown:
        for t, mask_HW in zip(target.frames, target.masks, strict=True):
            masks_THW[t] |= mask_HW
    for target in shown:
        rings = [
            contrast.ring_of(mask_HW, masks_THW[t]) for t, mask_HW in zip(target.frames, target.masks, strict=True)
        ]
        backgrounds = [counts_THW[t] for t in target.frames]
        amplitude = synthetic_targets.amplitude_for(spec.scr, backgrounds, target.spreads, target.masks, rings)
        for t, spread_HW in zip(target.frames, target.spreads, strict=True):
            counts_THW[t] += amplitude * spread_HW
    frames_THW = np.clip(np.rint(counts_THW), 0, 2**spec.bit_depth - 1).astype(np.uint16)

    boxes, points, scr = [], [], []
    for t in range(spec.frames):
        here = [(target, target.frames.index(t)) for target in shown if t in target.frames]
        boxes.append(np.array([contrast.box_of(target.masks[i]) for target, i in here]).reshape(-1, 4))
        points.append(np.array([target.points[i] for target, i in here]).reshape(-1, 2))
        scr.append(np.array([contrast.scr(frames_THW[t], target.masks[i], masks_THW[t]) for target, i in here]))
    return Scene(frames_THW, masks_THW, boxes, points, scr)


@dataclass(frozen=True)
class _Target:
    """One target in the frames that show it; the lists run in step."""

    frames: list[int]
    points: list[np.ndarray]
    spreads: list[np.ndarray]
    masks: list[np.ndarray]


def _targets(spec: SceneSpec, camera_T2: np.ndarray, rng: np.random.Generator) -> list[_Target]:
    tracks = synthetic_targets.tracks(spec.targets, spec.frames, spec.height, spec.width, spec.speed, camera_T2, rng)
    sigmas = rng.uniform(*spec.target_size, spec.targets) / math.sqrt(8 * math.log(2))
    # A target glints a little as it turns: a slow change of a tenth.
    phases, periods = rng.uniform(0, 2 * np.pi, spec.targets), rng.uniform(8, 20, spec.targets)
    shown = []
    for track_T2, sigma, phase, period in zip(tracks, sigmas, phases, periods, strict=True):
        frames = np.flatnonzero(synthetic_targets.in_sight(track_T2, spec.height, spec.width)).tolist()
        drawn = [synthetic_targets.point_spread(*track_T2[t], sigma, spec.height, spec.width) for t in frames]
        glint = [1 + 0.1 * math.sin(2 * math.pi * t / period + phase) for t in frames]
        spreads = [g * spread_HW for g, (spread_HW, _) in zip(glint, drawn, strict=True)]
        shown.append(_Target(frames, [track_T2[t] for t in frames], spreads, [mask_HW for _, mask_HW in drawn]))
    return shown
