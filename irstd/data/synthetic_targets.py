"""Small targets for synthetic sequences: their tracks, their point spread, and the amplitude of a stated SCR."""

from __future__ import annotations

import math

import numpy as np

from irstd.errors import InputError

GAP = 12  # px that two targets keep between them, so that no two masks ever join
REACH = 6  # px around the centre on which a point spread is drawn; it has vanished there for the sizes in use


def tracks(
    count: int,
    frames: int,
    height: int,
    width: int,
    speed: tuple[float, float],
    camera_T2: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Where the targets are.

    The first target enters and leaves again, the second enters and stays, the third is in sight throughout, the fourth
    leaves, and so on: with one or two of them a sequence begins with frames without a target. Sequences of fewer than
    12 frames are too short for that: there every target is in sight throughout.

    Args:
        speed: least and greatest speed in pixels a frame.
        camera_T2: (dy, dx) in pixels by which the camera's drift moves the scene.

    Returns:
        float64 [count, frames, 2] of (x, y), in the convention that (j, i) is the centre of pixel (i, j). A target is
        in sight while its centre is inside the frame.

    Raises:
        InputError: the frame has no room for that many targets.
    """
    ways = ("pass", "enter", "stay", "leave") if frames >= 12 else ("stay",)
    found: list[np.ndarray] = []
    for _ in range(400 * count):
        if len(found) == count:
            break
        way = ways[len(found) % len(ways)]
        track_T2 = _track(way, frames, height, width, speed, rng) + (camera_T2 - camera_T2[frames // 2])[:, ::-1]
        seen = in_sight(track_T2, height, width)
        wanted = {
            "pass": not seen[0] and not seen[-1] and seen.sum() >= frames // 3,
            "stay": seen.all(),
            "enter": not seen[0] and seen[-1] and seen.sum() >= frames // 3,
            "leave": seen[0] and not seen[-1] and seen.sum() >= frames // 3,
        }[way]
        apart = all(np.hypot(*(track_T2 - other_T2).T).min() >= GAP for other_T2 in found)
        if wanted and apart:
            found.append(track_T2)
    if len(found) < count:
        raise InputError(f"no room for {count} targets at {speed} px a frame in {frames} frames of {height} x {width}")
    return np.array(found).reshape(count, frames, 2)


def _track(
    way: str, frames: int, height: int, width: int, speed: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """float64 [frames, 2]: one attempt at a slightly curved path; whether it went the wanted way is for the caller."""
    size = np.array([width, height], dtype=np.float64)
    velocity = rng.uniform(*speed)
    heading = rng.uniform(0, 2 * np.pi)
    forward = np.array([np.cos(heading), np.sin(heading)])
    side = np.array([-forward[1], forward[0]])
    # The path is laid through one point at one moment: on the border where the target crosses it, else anywhere.
    if way == "stay":
        through, moment = rng.random(2) * size, frames / 2
    else:
        through = rng.random(2) * size
        axis = rng.integers(2)
        through[axis] = rng.integers(2) * size[axis]
        moment = frames * (rng.uniform(0.6, 0.85) if way == "leave" else rng.uniform(0.1, 0.35))
    t = np.arange(frames)[:, None] - moment
    bend = rng.uniform(-0.02, 0.02) * velocity
    return through - 0.5 + velocity * t * forward + 0.5 * bend * t * t * side


def in_sight(track_T2: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool [T]: the pixel that holds the centre is one of the frame's."""
    x, y = np.floor(track_T2 + 0.5).T
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def point_spread(x: float, y: float, sigma: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian point spread integrated over each pixel.

    Args:
        x, y: centre in pixels; (j, i) is the centre of pixel (i, j). It has to lie inside the frame.
        sigma: deviation in pixels.

    Returns:
        float64 [height, width], its greatest pixel 1, and the mask, bool [height, width]: the pixels with at least half
        of that. What lies beyond the border is cut off.
    """

    def along(centre: float, length: int) -> np.ndarray:
        first = math.floor(centre + 0.5)
        edges = [
            0.5 * math.erf((k - 0.5 - centre) / (sigma * math.sqrt(2))) for k in range(first - REACH, first + REACH + 2)
        ]
        line = np.zeros(length + 2 * REACH)
        line[first : first + 2 * REACH + 1] = np.diff(edges)
        return line[REACH : REACH + length]

    spread_HW = np.outer(along(y, height), along(x, width))
    spread_HW /= spread_HW.max()
    return spread_HW, spread_HW >= 0.5


def amplitude_for(
    scr: float,
    backgrounds: list[np.ndarray],
    spreads: list[np.ndarray],
    masks: list[np.ndarray],
    rings: list[np.ndarray],
) -> float:
    """Amplitude in counts at which one target's SCR has the stated mean over the frames that show it.

    One amplitude for the whole track, since a target does not grow brighter when it passes a cloud; the SCR of a frame
    then varies with what is behind it. The spread's own wings are counted in the background's deviation.

    Args:
        scr: the mean to reach.
        backgrounds: float64 [H, W] in counts, noise included, of each of those frames.
        spreads, masks, rings: as ``point_spread`` and ``ring_of`` give them, of each of those frames.
    """
    contrast_0, contrast_1, var_0, var_1, covariance = [], [], [], [], []
    for background_HW, spread_HW, mask_HW, ring_HW in zip(backgrounds, spreads, masks, rings, strict=True):
        clutter, wings = background_HW[ring_HW], spread_HW[ring_HW]
        contrast_0.append(background_HW[mask_HW].mean() - clutter.mean())
        contrast_1.append(spread_HW[mask_HW].mean() - wings.mean())
        var_0.append(clutter.var() + 1 / 12)  # rounding to whole counts adds its own
        var_1.append(wings.var())
        covariance.append(((clutter - clutter.mean()) * (wings - wings.mean())).mean())
    c0, c1, v0, v1, cov = (np.array(values) for values in (contrast_0, contrast_1, var_0, var_1, covariance))

    def mean_scr(amplitude: float) -> float:
        return float((np.abs(c0 + amplitude * c1) / np.sqrt(v0 + 2 * amplitude * cov + amplitude**2 * v1)).mean())

    low, high = 0.0, 1.0
    while mean_scr(high) < scr and high < 2**20:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_scr(middle) < scr else (low, middle)
    return high
