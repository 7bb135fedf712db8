"""What tests of detection share: a package whose network finds bright spots untrained, and recordings with known targets."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from recordings import write_video

# A folder of its own: what lies beside a network is taken for code that it needs.
TOYS = str(Path(__file__).parents[1] / "toy_detectors")
SIZE = 48, 64
WIDE = 3  # px a side of a target


def package(folder: Path, intensity: str = "frame", clips: bool = False, width: int = 14) -> Path:
    """A package of the toy `Bright`, which has seen recordings of `width` bits."""
    from irstd import config as configuration
    from irstd.foreign import Source
    from irstd.inference import package as packages
    from irstd.models import build_model
    from irstd.models.contract import state

    if TOYS not in sys.path:
        sys.path.insert(0, TOYS)
    name = "toy_bright:BrightClips" if clips else "toy_bright:Bright"
    config = configuration.load(overrides={"data.intensity": intensity}, model=name)
    source = Source.of(config.model.network)
    made = packages.write(folder, state(build_model(config)), config, [], {}, {}, source)
    packages.seal(
        folder, made.content | {"bit_depth": width, "input": {"frames": 1, "bit_depths": [width], "sizes": [SIZE]}}
    )
    return folder


def centres(count: int, gap: tuple[int, ...] = ()) -> list[list[tuple[int, int]]]:
    """The upper left corners (x, y) of the targets of each frame: one goes right by 1 px a frame, another down by 1 px every
    second frame and is not there in frames `gap`."""
    return [[(5 + index % 50, 10), *([] if index in gap else [(50, 6 + index // 2 % 34)])] for index in range(count)]


def scene(count: int, bits: int = 14, gap: tuple[int, ...] = (), seed: int = 0) -> np.ndarray:
    """uint8 or uint16 [count, 48, 64]: noise of a few counts on a slope, and the targets of `centres`."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    slope = np.linspace(0, 10, width)[None] + np.zeros((height, 1))
    base, strength = (60, 90) if bits == 8 else (7000, 300)
    frames = np.rint(base + slope + rng.normal(0, 2, (count, height, width)))
    for frame, places in zip(frames, centres(count, gap), strict=True):
        for x, y in places:
            frame[y : y + WIDE, x : x + WIDE] += strength
    return frames.astype(np.uint8 if bits == 8 else np.uint16)


def recording(path: Path, count: int = 30, bits: int = 14, **more: object) -> Path:
    return write_video(path, scene(count, bits, **more))
