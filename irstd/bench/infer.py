"""`irstd bench infer`: frames a second of the detector, against the bare network.

The detector takes counts and gives `Detections`: statistics of the counts, normalisation, network, components. The bare
network takes tensors that were made before the clock ran. Weights are random: they cost the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from irstd import config as configuration
from irstd.bench.baselines import Scenes, render, write_shards
from irstd.bench.timing import Report, interleaved, pinned, timed
from irstd.data.manifest import read_all
from irstd.errors import WorkError
from irstd.inference import package
from irstd.inference.detector import Detector
from irstd.models import build_model
from irstd.models.contract import state

CALIBRATED = 128  # side in pixels
WIDTH = 8
BRIGHT = 8  # pixels a frame above the threshold


def measure(folder: Path, seconds: float, scenes: Scenes | None = None, width: int = WIDTH) -> Report:
    """Run both on frames of `scenes`, on the CPU, for about `seconds`; `folder` is empty."""
    with pinned():
        scenes = scenes or Scenes(sequences=1, frames=1)
        frames_1HW = render(scenes, 0)[0][:1]
        image_11HW = torch.from_numpy(frames_1HW[:, None] / np.float32(255))  # the rule for 8 bits: full_scale
        detector = _detector(folder, scenes, width, image_11HW)
        network = detector.model

        @torch.no_grad()
        def bare() -> torch.Tensor:
            return network(image_11HW)

        probability_HW = torch.sigmoid(bare()[0, 0]).numpy()
        network.threshold = _threshold(probability_HW)
        found = detector(frames_1HW)[0]
        if found.probability_HW is None or not np.allclose(found.probability_HW, probability_HW, atol=1e-4):
            raise WorkError("bench infer: detector and bare network differ in their pixels; a ratio would mean nothing")
        sides = {"detector": timed(lambda: len(detector(frames_1HW))), "bare network": timed(lambda: len(bare()))}
        timing = interleaved(sides, seconds)
    facts = [
        f"GGL-Net of width {width}, frames {scenes.height}x{scenes.width} of 8 bits, one at a time, CPU",
        f"random weights; the threshold leaves {BRIGHT} pixels of a frame: {len(found)} detections",
        "checked: the probabilities of both sides agree within 1e-4",
    ]
    rows = [{"side": name, "frames/s": timing.rate(name)} for name in timing.seconds]
    return Report("detection", facts, rows, [("detector / bare network", timing.ratio("detector", "bare network"))])


def _detector(folder: Path, scenes: Scenes, width: int, image_11HW: torch.Tensor) -> Detector:
    """A network with random weights as a package, written and loaded as a trained one is."""
    torch.manual_seed(0)
    config = configuration.load(overrides={"model.width": width})
    model = build_model(config)
    # Fresh batch statistics let the activations grow until every probability is 1; those of a part of the frame do.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(image_11HW[..., :CALIBRATED, :CALIBRATED])
    manifests = read_all(write_shards(scenes, folder))
    return Detector(package.write(folder / "package", state(model), config, manifests, lineage={}, metrics={}))


def _threshold(probability_HW: np.ndarray) -> float:
    """Leaves BRIGHT pixels, so that there is about as little to collect as a trained network finds."""
    values = np.sort(probability_HW, axis=None)[-BRIGHT - 1 :]
    # Halfway between two values: a last bit that differs between the sides moves no pixel over it.
    return float(values[0] + values[1]) / 2
