"""`Detector`: sensor counts in, one `Detections` a frame out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from irstd.data import intensity
from irstd.data.counts import intensity_of
from irstd.inference import domain
from irstd.inference.package import Package
from irstd.models.contract import Detections


class Detector:
    """A trained model with its intensity rule and threshold.

    detector = Detector(Package.read(folder))
    found = detector(frames_THW)          # uint8 or uint16 counts -> a list of Detections, one a frame

    On a CPU the network is folded for inference (`irstd.models.fold`): probabilities stay within 1e-4 of the trained one's.
    """

    def __init__(self, package: Package, device: str = "cpu") -> None:
        self.package = package
        model = package.model(device)
        self.model = model.folded() if device == "cpu" else model

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Detector:
        return cls(Package.read(Path(folder)), device)

    def __call__(self, frames_THW: np.ndarray, bit_depth: int | None = None) -> list[Detections]:
        """Detections of every frame of a sequence.

        frames_THW: uint8 or uint16 sensor counts [T, H, W] of one recording; its statistics, where the intensity rule
        wants them, are taken over all frames given. bit_depth: of the counts; by default the model's own where the type holds
        it. Raises: InputError for other types or shapes, and bit depths that the intensity rule cannot take.
        """
        frames_THW = domain.counts(frames_THW)
        depth = bit_depth or domain.depth_of(self.package.content, frames_THW.dtype)
        return list(self.stream(frames_THW, depth, intensity_of(frames_THW)))

    def stream(
        self, frames: Iterable[np.ndarray], bit_depth: int, statistics: Mapping[str, float], batch: int = 4
    ) -> Iterator[Detections]:
        """Detections frame by frame, in bounded memory. `statistics`: the recording's, as `sequence.json` holds them.

        A network of clips that can keep the features of past frames does so wherever a recording has one offset and
        scale, which gives what whole clips give up to rounding. Under the rule `frame` each key frame scales its whole
        clip, so that features of past frames are of no use: whole clips then go through the network, `batch` at a time.
        """
        domain.check(self.package.content, bit_depth)
        kept = self.model.stream() if self.model.frames > 1 and self._one_scale(bit_depth) else None
        found = self._by_clip(frames, bit_depth, statistics, batch)
        if kept is not None:
            found = (
                item
                for frame_HW in frames
                for item in kept.predict(self._batch(frame_HW[None, None], bit_depth, statistics))
            )
        for item in found:
            # A network that gives boxes gives them all, for curves.
            yield item.above(self.model.threshold)

    def _one_scale(self, bit_depth: int) -> bool:
        """Whether all frames of a recording are normalised alike."""
        return intensity.resolve(self.package.content["intensity"]["rule"], bit_depth) != "frame"

    def _by_clip(
        self, frames: Iterable[np.ndarray], bit_depth: int, statistics: Mapping[str, float], batch: int
    ) -> Iterator[Detections]:
        iterator = iter(frames)
        past: list[np.ndarray] = []
        while part := list(islice(iterator, batch)):
            # Before the first frame the first frame is repeated.
            seen = [*(past or part[:1] * (self.model.frames - 1)), *part]
            past = seen[len(part) :]
            clips_BTHW = np.stack([np.stack(seen[b : b + self.model.frames]) for b in range(len(part))])
            yield from self.model.predict(self._batch(clips_BTHW, bit_depth, statistics))

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
