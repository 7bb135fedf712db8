"""Backgrounds of synthetic infrared sequences: sky, land and sea.

Everything that moves is band-limited noise shifted by a phase in the Fourier domain, so drift is sub-pixel and exact,
and nothing jumps by whole pixels. A background is radiance in relative units until ``irstd.data.synthetic`` scales it
to counts. Scenes are drawn from random generators that the caller seeds: the same generator gives the same scene.
"""

from __future__ import annotations

import numpy as np


class Fractal:
    """Periodic noise with the power spectrum k^-slope, on a canvas larger than the frame, read at sub-pixel shifts.

    Args:
        rng: source of the noise.
        height, width: size of the frames that ``at`` returns, in pixels.
        slope: falloff of the power spectrum; clouds have about 3, rough ground about 2.
        longest, shortest: wavelengths in pixels between which the spectrum is kept.
        stretch: how much longer structures are along x than along y.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        height: int,
        width: int,
        slope: float,
        longest: float,
        shortest: float = 3.0,
        stretch: float = 1.0,
    ):
        self.height, self.width = height, width
        # The canvas repeats: half as large again as the frame keeps the repetition out of sight for small drifts.
        rows, columns = (int(np.ceil(n * 1.5 / 16)) * 16 for n in (height, width))
        self.shape = (rows, columns)
        self.ky = np.fft.fftfreq(rows)[:, None]
        self.kx = np.fft.rfftfreq(columns)[None, :]
        k = np.hypot(self.ky, self.kx * stretch)
        k[0, 0] = 1.0
        amplitude = k ** (-slope / 2) * np.exp(-((k * shortest / 2) ** 2)) * -np.expm1(-((k * longest) ** 4))
        amplitude[0, 0] = 0.0
        self.spectrum = np.fft.rfft2(rng.standard_normal(self.shape)) * amplitude
        self.spectrum /= np.fft.irfft2(self.spectrum, s=self.shape).std()

    def at(self, dy: float, dx: float) -> np.ndarray:
        """float64 [height, width] of mean about 0 and deviation about 1, its content moved by (dy, dx) pixels."""
        phase = np.exp(-2j * np.pi * (self.ky * dy)) * np.exp(-2j * np.pi * (self.kx * dx))
        return np.fft.irfft2(self.spectrum * phase, s=self.shape)[: self.height, : self.width]


class Evolving:
    """Two fractals that drift at slightly different velocities: the sum drifts and changes its shape as it goes."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, speed: float, spread: float, **spectrum):
        angle = rng.uniform(0, 2 * np.pi)
        mean = speed * np.array([0.3 * np.sin(angle), np.cos(angle)])
        self.velocities = [mean + spread * rng.standard_normal(2) for _ in range(2)]
        self.layers = [Fractal(rng, height, width, **spectrum) for _ in range(2)]

    def at(self, t: float, camera: np.ndarray) -> np.ndarray:
        """float64 [height, width] at frame t, moved by the camera's (dy, dx) as well."""
        shifts = [velocity * t + camera for velocity in self.velocities]
        return sum(layer.at(*shift) for layer, shift in zip(self.layers, shifts, strict=True)) / np.sqrt(2)


def ramp(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between: an edge without aliasing where x rises by less than 1 a pixel."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def radiance(kind: str, height: int, width: int, camera_T2: np.ndarray, clutter: int, rng: np.random.Generator):
    """The scene as it is before optics, sensor and targets.

    Args:
        kind: a key of ``KINDS``.
        height, width: size of a frame in pixels.
        camera_T2: (dy, dx) in pixels by which the camera's drift moves the scene, one row a frame.
        clutter: number of warm things on the ground or of breaking crests on the sea; the sky has none.
        rng: source of everything random.

    Returns:
        float64 [T, height, width]; the 1st percentile is 0 and the 99th is 1. Warm points may reach above 1.
    """
    frames_THW, spots = KINDS[kind](height, width, camera_T2, rng)
    low, high = np.percentile(frames_THW, [1, 99])
    frames_THW = (frames_THW - low) / (high - low)
    if spots is not None:
        frames_THW += warm_spots(height, width, camera_T2, clutter, spots, rng)
    return frames_THW


def clouds(height: int, width: int, camera_T2: np.ndarray, rng: np.random.Generator):
    """Broken cloud before a clear sky that grows warmer towards the horizon; lit, ragged edges."""
    size = max(height, width)
    speed = rng.uniform(0.15, 0.5)
    shape = Evolving(rng, height, width, speed, 0.05, slope=3.8, longest=size / 2, shortest=3.5, stretch=1.4)
    body = Evolving(rng, height, width, speed, 0.08, slope=2.8, longest=size / 7, shortest=3, stretch=1.2)
    veil = Evolving(rng, height, width, 0.5 * speed, 0.02, slope=3.8, longest=size, shortest=6, stretch=2.5)
    cover = rng.uniform(0.1, 0.6)
    sky = np.linspace(0, 0.45, height)[:, None]
    frames = []
    for t, camera in enumerate(camera_T2):
        texture = body.at(t, camera)
        thickness = shape.at(t, camera) - cover + 0.16 * texture
        # A cloud is brightest a little inside its edge, where it is lit, and greyer where it is thick.
        alpha = ramp(0.25 + thickness / 0.9)
        rim = np.exp(-(((thickness - 0.55) / 0.35) ** 2))
        glow = 0.95 + 0.3 * rim + 0.22 * thickness + 0.1 * texture
        clear = sky + 0.14 * veil.at(t, camera)
        frames.append(clear + alpha * (glow - 0.6 * sky - clear * 0.4))
    return np.stack(frames), None


def horizon(height: int, width: int, camera_T2: np.ndarray, rng: np.random.Generator):
    """Banks of cloud above a ridge, rough land below it; the warm things stand on the land."""
    size = max(height, width)
    bank = Evolving(rng, height, width, 0.3, 0.05, slope=3.4, longest=size / 2, shortest=3, stretch=2.2)
    land = Fractal(rng, height, width, slope=2.4, longest=size / 4, shortest=3, stretch=2.5)
    trees = Fractal(rng, height, width, slope=1.6, longest=size / 10, shortest=3, stretch=1.2)
    ridge = Fractal(rng, 1, width, slope=3.4, longest=width, shortest=4)
    level = rng.uniform(0.5, 0.66) * height
    y = np.arange(height)[:, None]
    near, far = rng.uniform(0.8, 1.0), rng.uniform(0.4, 0.55)
    frames = []
    for t, (dy, dx) in enumerate(camera_T2):
        crest = level + dy + 0.05 * height * ridge.at(0, dx)
        depth = y - crest
        cloud = ramp((bank.at(t, np.array([dy, dx])) + 0.2) / 2.2)
        sky = 0.45 * np.exp(np.minimum(depth, 0) / (0.3 * height)) + 0.4 * cloud
        # Trees on the ridge are colder than the land behind, which shows less and less of itself with distance.
        wood = np.exp(-((np.maximum(depth, 0) / (0.08 * height)) ** 2))
        below = ramp((y - level - dy) / (0.5 * height))
        earth = far + (near - far) * below + (0.05 + 0.08 * below) * land.at(dy, dx)
        earth += wood * (0.05 * trees.at(dy, dx) - 0.15)
        frames.append(sky + (earth - sky) * ramp((depth + 1) / 2))
    return np.stack(frames), {"top": (level + 4) / height, "strength": 0.25}


def ground(height: int, width: int, camera_T2: np.ndarray, rng: np.random.Generator):
    """Seen from above: fields of different warmth and grain, hedges, two tracks, woods, and warm things."""
    size = max(height, width)
    woods = Fractal(rng, height, width, slope=3.4, longest=size / 3, shortest=3.5)
    grain = Fractal(rng, height, width, slope=1.8, longest=size / 8, shortest=3)
    bends = Fractal(rng, height, width, slope=4.0, longest=size, shortest=8)
    seeds = 20
    places_N2 = (rng.random((seeds, 2)) * 1.4 - 0.2) * [height, width]
    warmth, roughness = rng.uniform(0.2, 0.9, seeds), rng.uniform(0.02, 0.07, seeds)
    track_angles, track_places = rng.uniform(0, np.pi, 2), rng.uniform(-0.3, 0.3, 2) * size
    y, x = np.mgrid[:height, :width].astype(np.float64)
    frames = []
    for dy, dx in camera_T2:
        v, u, bend = y - dy, x - dx, bends.at(dy, dx)
        # Nearest seeds make fields with straight borders, as land is parcelled; the weights soften them over a pixel.
        distance_NHW = np.stack([np.hypot(v - b + 1.5 * bend, (u - a) * 0.8) for b, a in places_N2])
        distance_NHW -= distance_NHW.min(axis=0)
        weights_NHW = np.exp(-distance_NHW / 0.8)
        weights_NHW /= weights_NHW.sum(axis=0)
        texture = grain.at(dy, dx)
        field = np.tensordot(warmth, weights_NHW, 1) + np.tensordot(roughness, weights_NHW, 1) * texture
        second_HW = np.partition(distance_NHW, 1, axis=0)[1]
        hedge = ramp(woods.at(0.5 * dy + 7, 0.5 * dx) + 0.4) * np.exp(-((second_HW / 2.0) ** 2))
        wood = ramp((woods.at(dy, dx) - 0.9) / 0.35)
        level = field - 0.2 * hedge + wood * (0.25 + 0.07 * texture - field)
        for angle, place in zip(track_angles, track_places, strict=True):
            off = (u - width / 2) * np.sin(angle) - (v - height / 2) * np.cos(angle) - place + 6 * bend
            level = level + (0.95 - level) * 0.7 * np.exp(-((off / 1.3) ** 2))
        frames.append(level)
    return np.stack(frames), {"top": 0.0, "strength": 0.455}


def sea(height: int, width: int, camera_T2: np.ndarray, rng: np.random.Generator):
    """Waves that grow towards the viewer under a strip of sky, with glints where two of them meet."""
    size = max(height, width)
    swell = Evolving(rng, height, width, 0.4, 0.2, slope=3.0, longest=size / 3, shortest=3, stretch=3.0)
    chop = Evolving(rng, height, width, 0.6, 0.4, slope=1.6, longest=size / 12, shortest=2.8, stretch=2.0)
    level = rng.uniform(0.12, 0.3) * height
    y = np.arange(height)[:, None]
    frames = []
    for t, camera in enumerate(camera_T2):
        depth = y - level - camera[0]
        near = ramp(depth / height)
        waves, ripple = swell.at(t, camera), chop.at(t, camera)
        glint = np.maximum(ripple + 0.5 * waves - 2.9, 0.0)
        water = 0.5 - 0.15 * near + (0.06 + 0.2 * near) * (0.6 * waves + 0.35 * ripple) + 0.5 * glint
        air = 0.62 + 0.25 * depth / height + 0.015 * waves
        frames.append(water + (air - water) * ramp((2 - depth) / 4))
    return np.stack(frames), None


KINDS = {"clouds": clouds, "horizon": horizon, "ground": ground, "sea": sea}


def warm_spots(
    height: int, width: int, camera_T2: np.ndarray, count: int, spots: dict[str, float], rng: np.random.Generator
) -> np.ndarray:
    """float64 [T, height, width] of warm things that keep their place in the scene: most are longer than a target."""
    span = np.ptp(camera_T2, axis=0) + 4
    low = np.array([spots["top"] * height, 0.0]) - span * [0, 1]
    places_N2 = low + rng.random((count, 2)) * (np.array([height, width]) + span - low)
    minor = rng.uniform(0.5, 1.0, count)
    major = minor * rng.uniform(1.0, 3.0, count)
    angles = rng.uniform(0, np.pi, count)
    strengths = spots["strength"] * rng.lognormal(0.0, 0.5, count)
    yx_2HW = np.mgrid[:height, :width].astype(np.float64)
    frames_THW = np.zeros((len(camera_T2), height, width))
    for frame_HW, camera in zip(frames_THW, camera_T2, strict=True):
        for place, a, b, angle, strength in zip(places_N2 + camera, major, minor, angles, strengths, strict=True):
            top, left = (max(int(p - 12), 0) for p in place)
            window = (slice(top, max(int(place[0] + 13), 0)), slice(left, max(int(place[1] + 13), 0)))
            dy, dx = yx_2HW[0][window] - place[0], yx_2HW[1][window] - place[1]
            along = dx * np.cos(angle) + dy * np.sin(angle)
            across = dy * np.cos(angle) - dx * np.sin(angle)
            # The fourth power gives a flat top and a clear edge, as of a roof or a vehicle rather than of a point.
            frame_HW[window] += strength * np.exp(-((along / (1.5 * a)) ** 4) - (across / (1.5 * b)) ** 4)
    return frames_THW
