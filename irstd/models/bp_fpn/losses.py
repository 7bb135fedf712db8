"""The detection loss of YOLOX on one level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from irstd.config import LossConfig
from irstd.models.bp_fpn.assignment import assign
from irstd.models.bp_fpn.head import STRIDE, cells, decode
from irstd.models.bp_fpn.similarity import similarity
from irstd.models.losses import focal_terms


def detection_loss(
    raw_BCHW: torch.Tensor,
    boxes: Sequence[np.ndarray],
    config: LossConfig,
    size_B2: torch.Tensor | None = None,
    classes: Sequence[np.ndarray] | None = None,
    ignored_BHW: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """[box * sum(1 - s^2) + objectness * sum BCE + classification * sum BCE] / number of assigned cells, in float32.

    s is the similarity (IoU) of assigned boxes, which is also what their class should score; objectness is asked of all
    cells, with config.objectness_focal by the focal loss. Without any target the box and class sums are 0 and the divisor
    is 1.

    Args:
        boxes: B arrays [M, 4] (x, y, w, h) in px. classes: B arrays [M] of class indices; None: all 0.
        size_B2: true height and width in px; cells whose centre lies beyond are left out.
        ignored_BHW: bool, cells of which nothing is claimed: their objectness is asked only where a target took them.

    Returns: the loss, and its parts (detached, unweighted) with the number of assigned cells.
    """
    device = raw_BCHW.device
    with torch.autocast(device.type, enabled=False):
        boxes_BA4, objectness_BA, classes_BAC = decode(raw_BCHW)
        grid_A2 = cells(*raw_BCHW.shape[-2:], device)
        wanted_BA = torch.zeros_like(objectness_BA)
        predicted, targets, logits, labels = [], [], [], []
        for b, given in enumerate(boxes):
            given_M4 = torch.as_tensor(np.asarray(given, np.float32).reshape(-1, 4), device=device)
            target_M4 = torch.cat((given_M4[:, :2] + given_M4[:, 2:] / 2, given_M4[:, 2:]), dim=1)
            class_M = torch.zeros(len(target_M4), dtype=torch.long, device=device)
            if classes is not None:
                class_M = torch.as_tensor(np.asarray(classes[b], np.int64), device=device)
            found = assign(
                target_M4,
                class_M,
                boxes_BA4[b].detach(),
                objectness_BA[b].detach(),
                classes_BAC[b].detach(),
                grid_A2,
                config.similarity,
                config.gaussian_scale,
            )
            wanted_BA[b, found.cell_K] = 1
            predicted.append(boxes_BA4[b, found.cell_K])
            targets.append(target_M4[found.target_K])
            logits.append(classes_BAC[b, found.cell_K])
            labels.append(F.one_hot(class_M[found.target_K], classes_BAC.shape[2]) * found.overlap_K[:, None])
        # Without a target these are empty, and still tie every parameter to the loss.
        alike_K = similarity(torch.cat(predicted), torch.cat(targets), config.similarity, config.gaussian_scale)
        count = max(1, len(alike_K))
        valid_BA = _valid(grid_A2, size_B2, len(boxes))
        if ignored_BHW is not None:
            valid_BA = valid_BA * (~ignored_BHW.flatten(1) | (wanted_BA > 0))
        if config.objectness_focal:
            objectness = focal_terms(objectness_BA, wanted_BA, config.focal_gamma, config.focal_alpha)
        else:
            objectness = F.binary_cross_entropy_with_logits(objectness_BA, wanted_BA, reduction="none")
        parts = {
            "box": (1 - alike_K.square()).sum() / count,
            "objectness": (objectness * valid_BA).sum() / count,
            "classification": F.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(labels), reduction="sum")
            / count,
        }
        total = sum(getattr(config, name) * value for name, value in parts.items())
    found_parts = {name: value.detach() for name, value in parts.items()}
    return total, found_parts | {"cells": torch.tensor(float(len(alike_K)), device=device)}


def _valid(grid_A2: torch.Tensor, size_B2: torch.Tensor | None, batch: int) -> torch.Tensor:
    """1 for cells whose centre lies within the true size, float32 [B, A]."""
    if size_B2 is None:
        return torch.ones(batch, len(grid_A2), device=grid_A2.device)
    centres_A2 = (grid_A2 + 0.5) * STRIDE
    limit_B2 = size_B2.to(grid_A2.device).flip(1)
    # A frame narrower than half a cell still has its first one.
    return ((centres_A2 < limit_B2[:, None]) | (grid_A2 == 0)).all(-1).float()
