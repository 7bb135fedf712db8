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
from irstd.bench.timing import Report, figure, interleaved, pinned, timed
from irstd.data.manifest import read_all
from irstd.errors import WorkError
from irstd.inference import package
from irstd.inference.detector import Detector
from irstd.models import build_model
from irstd.models.contract import SegmentationModel, state

FRAMES = 2  # in a batch
WIDTH = 8
BRIGHT = 8  # pixels a frame above the threshold


def measure(folder: Path, seconds: float, scenes: Scenes | None = None, width: int = WIDTH) -> Report:
    """Run both on frames of `scenes`, on the CPU, for about `seconds`; `folder` is empty."""
    with pinned():
        scenes = scenes or Scenes(sequences=1, frames=FRAMES)
        frames_THW = render(scenes, 0)[0][:FRAMES]
        image_B1HW = torch.from_numpy(frames_THW[:, None] / np.float32(255))  # the rule for 8 bits: full_scale
        model, threshold = _network(image_B1HW, width)
        detector = _detector(folder, scenes, model, threshold, width)
        model = detector.model
        found = detector(frames_THW)
        with torch.no_grad():
            probability_BHW = torch.sigmoid(model(image_B1HW)[:, 0]).numpy()
        for item, probability_HW in zip(found, probability_BHW, strict=True):
            if item.probability_HW is None or not np.allclose(item.probability_HW, probability_HW, atol=1e-4):
                raise WorkError("bench infer: detector and bare network differ in their pixels; the ratio is void")

        def bare() -> int:
            with torch.no_grad():
                return len(model(image_B1HW))

        sides = {"detector": timed(lambda: len(detector(frames_THW))), "bare network": timed(bare)}
        timing = interleaved(sides, seconds)
    detections = sum(len(item) for item in found) / len(found)
    facts = [
        f"GGL-Net of width {width}, frames {scenes.height}x{scenes.width} of 8 bits, batches of {len(frames_THW)}, CPU",
        f"random weights; the threshold leaves about {BRIGHT} pixels a frame, here {figure(detections)} detections",
        "checked: probabilities of both sides agree within 1e-4",
    ]
    rows = [{"side": name, "frames/s": timing.rate(name)} for name in timing.seconds]
    return Report("detection", facts, rows, [("detector / bare network", timing.ratio("detector", "bare network"))])


def _network(image_B1HW: torch.Tensor, width: int) -> tuple[SegmentationModel, float]:
    """A network with random weights, and the threshold at which it finds about as little as a trained one."""
    torch.manual_seed(0)
    model = build_model(configuration.load(overrides={"model.width": width}))
    # One pass with the statistics of this batch: fresh ones let the activations grow until every probability is 1.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()
        model(image_B1HW)
        probability = torch.sigmoid(model.eval()(image_B1HW)).flatten()
    # Halfway to the next value, so that a last bit that differs moves no pixel over it.
    above, below = torch.topk(probability, BRIGHT * len(image_B1HW) + 1).values[-2:].tolist()
    return model, (above + below) / 2


def _detector(folder: Path, scenes: Scenes, model: SegmentationModel, threshold: float, width: int) -> Detector:
    """The network as a package, written and loaded as a trained one is."""
    manifests = read_all(write_shards(scenes, folder))
    config = configuration.load(overrides={"model.width": width, "evaluate.threshold": threshold})
    return Detector(package.write(folder / "package", state(model), config, manifests, lineage={}, metrics={}))
