"""`Detector`: sensor counts in, one `Detections` a frame out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from irstd.data import intensity
from irstd.data.counts import intensity_of
from irstd.errors import InputError
from irstd.inference.package import Package
from irstd.models.contract import Detections


class Detector:
    """A trained model with its intensity rule and threshold.

    detector = Detector(Package.read(folder))
    found = detector(frames_THW)          # uint8 or uint16 counts -> a list of Detections, one a frame
    """

    def __init__(self, package: Package, device: str = "cpu") -> None:
        self.package = package
        self.model = package.model(device)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Detector:
        return cls(Package.read(Path(folder)), device)

    def __call__(self, frames_THW: np.ndarray, bit_depth: int | None = None) -> list[Detections]:
        """Detections of every frame of a sequence.

        frames_THW: uint8 or uint16 sensor counts [T, H, W] of one recording; its statistics, where the intensity rule
        wants them, are taken over all frames given.
        Raises: InputError for other types or shapes.
        """
        frames_THW = np.asarray(frames_THW)
        if frames_THW.ndim != 3 or frames_THW.dtype not in (np.uint8, np.uint16):
            raise InputError(
                f"expected sensor counts uint8 or uint16 [T, H, W], got {frames_THW.dtype} {list(frames_THW.shape)}"
            )
        depth = bit_depth or frames_THW.dtype.itemsize * 8
        return list(self.stream(frames_THW, depth, intensity_of(frames_THW)))

    def stream(
        self, frames: Iterable[np.ndarray], bit_depth: int, statistics: Mapping[str, float], batch: int = 4
    ) -> Iterator[Detections]:
        """Detections frame by frame, in bounded memory. `statistics`: the recording's, as `sequence.json` holds them."""
        iterator = iter(frames)
        past: list[np.ndarray] = []
        while part := list(islice(iterator, batch)):
            # Before the first frame the first frame is repeated.
            seen = [*(past or part[:1] * (self.model.frames - 1)), *part]
            past = seen[len(part) :]
            clips_BTHW = np.stack([np.stack(seen[b : b + self.model.frames]) for b in range(len(part))])
            for found in self.model.predict(self._batch(clips_BTHW, bit_depth, statistics)):
                # A network that gives boxes gives them all, for curves.
                yield found.above(self.model.threshold)

    def _batch(self, clips_BTHW: np.ndarray, bit_depth: int, statistics: Mapping[str, float]) -> dict[str, Any]:
        rule = self.package.content["intensity"]["rule"]
        dataset = self.package.content["intensity"]["dataset"]
        pairs = [
            intensity.offset_scale(rule, bit_depth, statistics, dataset, frame_HW) for frame_HW in clips_BTHW[:, -1]
        ]
        return {
            "frames": clips_BTHW,
            "offset": np.array([p[0] for p in pairs], np.float32),
            "scale": np.array([p[1] for p in pairs], np.float32),
            "size": np.array([clips_BTHW.shape[2:]] * len(clips_BTHW), np.int64),
        }
