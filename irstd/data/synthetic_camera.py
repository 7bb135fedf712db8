"""The camera of synthetic sequences: how it sways, what its optics blur, and what its sensor adds."""

from __future__ import annotations

import numpy as np

# What the optics do to every point of the scene: the deviation, in pixels, of a Gaussian point spread.
OPTICS_SIGMA = 0.6


def camera_path(rng: np.random.Generator, frames: int, drift: float) -> np.ndarray:
    """float64 [frames, 2] of (dy, dx) in pixels: a steady pan of ``drift`` pixels a frame, and a slow sway on it."""
    t = np.arange(frames)[:, None]
    angle = rng.uniform(0, 2 * np.pi)
    pan = drift * t * np.array([[0.4 * np.sin(angle), np.cos(angle)]])
    period, phase = rng.uniform(14, 30, (1, 2)), rng.uniform(0, 2 * np.pi, (1, 2))
    return pan + 0.5 * (np.sin(2 * np.pi * t / period + phase) - np.sin(phase))


def optics(frames_THW: np.ndarray, sigma: float = OPTICS_SIGMA) -> np.ndarray:
    """Gaussian blur of each frame, its border repeated; sigma in pixels."""
    reach = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
        length = frames_THW.shape[axis]
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        padded = np.pad(frames_THW, pad, mode="edge")
        frames_THW = sum(tap * np.take(padded, np.arange(i, i + length), axis=axis) for i, tap in enumerate(taps))
    return frames_THW


def sensor(
    frames: int, height: int, width: int, noise: float, hot_pixels: int, heat: float, rng: np.random.Generator
) -> np.ndarray:
    """What the sensor adds, in counts: temporal noise, a fixed pattern of columns and pixels, hot and dead pixels.

    Args:
        noise: deviation of the temporal noise, in counts; the fixed pattern is a fraction of it.
        hot_pixels: number of pixels that stand out in every frame at the same place; a third of them blink.
        heat: the median of their excess, in counts.

    Returns:
        float64 [frames, height, width].
    """
    pattern_HW = 0.4 * noise * rng.standard_normal((height, width)) + 0.3 * noise * rng.standard_normal((1, width))
    added_THW = pattern_HW + noise * rng.standard_normal((frames, height, width))
    places = rng.choice(height * width, hot_pixels, replace=False)
    excess = heat * rng.lognormal(0.0, 0.5, hot_pixels) * np.where(rng.random(hot_pixels) < 0.15, -1, 1)
    on_TN = rng.random((frames, hot_pixels)) < np.where(np.arange(hot_pixels) % 3 == 0, 0.5, 1.0)
    added_THW.reshape(frames, -1)[:, places] += on_TN * excess
    return added_THW
