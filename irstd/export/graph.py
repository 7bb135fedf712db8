"""The exported graphs: scaled clips in, probabilities or boxes of the key frame out.

    masks    frames [B, T, H, W] -> probability [B, H, W]
    boxes    frames [B, T, H, W] -> boxes [B, A, 4], scores [B, A], classes [B, A], overlaps not yet suppressed

Frames are float32 x = (counts - offset) * scale, oldest first, the key frame last. Gradient map, padding to the network's
multiples and the way back are inside.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from irstd.errors import InputError
from irstd.models.adapters import DetectionAdapter
from irstd.models.bp_fpn import BPFPN
from irstd.models.bp_fpn.head import decode
from irstd.models.contract import Model, SegmentationModel
from irstd.models.fold import folded

INPUT = "frames"
SIZES = ((1, 33, 70), (2, 48, 64), (1, 16, 21), (3, 40, 17))
"""Batch, height and width at which a graph is compared with its network: multiples of the strides, and others."""
TRACED = (2, 35, 50)
TOLERANCE = 1e-4
"""Largest difference of probabilities and scores, and of boxes as a share of the frame's longer side."""


class SegmentationGraph(nn.Module):
    """float32 [B, T, H, W] to the probability of a target, [B, H, W]."""

    outputs = ("probability",)
    axes = ({0: "batch", 1: "height", 2: "width"},)

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model, self.frames = model, model.frames

    def forward(self, frames_BTHW: torch.Tensor) -> torch.Tensor:
        # As the loader's batches are: a network of someone's own may take more than the key frame of them.
        scaled = {"frames": frames_BTHW, "offset": frames_BTHW.new_zeros(1), "scale": frames_BTHW.new_ones(1)}
        return torch.sigmoid(self.model(*self.model.inputs(scaled))[:, 0].float())


class DetectionGraph(nn.Module):
    """float32 [B, T, H, W] to boxes x, y, w, h in px, cut at the frame's border, their scores and classes.

    A = ceil(H / 8) * ceil(W / 8), row by row. A box outside the frame has no width or no height.
    """

    outputs = ("boxes", "scores", "classes")
    axes = ({0: "batch", 1: "cells"},) * 3

    def __init__(self, model: BPFPN) -> None:
        super().__init__()
        self.model, self.frames = model, model.frames

    def forward(self, frames_BTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        boxes_BA4, objectness_BA, classes_BAC = decode(self.model(frames_BTHW))
        best_BA, class_BA = torch.sigmoid(classes_BAC).max(-1)
        centre_BA2, half_BA2 = boxes_BA4[..., :2], boxes_BA4[..., 2:] / 2
        # Tensors rather than numbers: a number would be the example's.
        width, height = (torch.full((), side, dtype=torch.float32) for side in reversed(frames_BTHW.shape[-2:]))
        limit_2 = torch.stack((width, height)).to(centre_BA2.device)
        low_BA2, high_BA2 = (c.clamp(min=0).minimum(limit_2) for c in (centre_BA2 - half_BA2, centre_BA2 + half_BA2))
        return torch.cat((low_BA2, high_BA2 - low_BA2), dim=-1), torch.sigmoid(objectness_BA) * best_BA, class_BA


def graph_of(model: Model, name: str) -> SegmentationGraph | DetectionGraph:
    """The graph of a trained network, a copy in evaluation mode; batch normalisations folded where the network can be.

    `name`: what the error calls it. Raises: InputError for a network whose output is not known.
    """
    if isinstance(model, DetectionAdapter):
        raise InputError(
            f"{name}: {type(model.module).__name__} suppresses overlaps itself, so that what it gives has no fixed shape; "
            "export the module before that step with torch.export or torch.onnx yourself"
        )
    # Convolutions alone: what `model.folded()` makes of them besides is PyTorch's, and other runtimes have their own.
    # In the usual layout: with channels last torch.export takes a batch of one for another program.
    copy = folded(model).cpu().to(memory_format=torch.contiguous_format)
    if isinstance(copy, SegmentationModel):
        return SegmentationGraph(copy).eval()
    if isinstance(copy, BPFPN):
        return DetectionGraph(copy).eval()
    raise InputError(f"{name}: {type(model).__name__} gives boxes in a way of its own, which cannot be exported")


def example(graph: SegmentationGraph | DetectionGraph, batch: int, height: int, width: int) -> torch.Tensor:
    """Frames float32 [batch, T, height, width] about [0, 1]: noise of a fixed seed with a bright target."""
    random = torch.Generator().manual_seed(1000 * height + width)
    found = 0.5 + 0.05 * torch.randn(batch, graph.frames, height, width, generator=random)
    found[..., height // 2, width // 2] += 0.5
    return found


def difference(found: Any, expected: Any, side: int) -> float:
    """The largest difference of two results of a graph, boxes as a share of `side`, the frame's longer side in px. NaN where
    one has it, infinity where shapes differ.

    Classes are not compared: of two that are equally likely either may come first.
    """
    found, expected = (list(v) if isinstance(v, list | tuple) else [v] for v in (found, expected))
    apart = []
    for one, other in zip(map(torch.as_tensor, found[:2]), map(torch.as_tensor, expected[:2]), strict=True):
        # Without this one shape would be stretched to the other.
        apart.append((one - other).abs().max() if one.shape == other.shape else torch.tensor(math.inf))
    # Of a number and NaN this maximum is NaN, which Python's may pass over.
    return float(apart[0] if len(apart) == 1 else torch.maximum(apart[0] / side, apart[1]))
