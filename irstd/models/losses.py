"""Losses of segmentation networks on logits, in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from irstd.config import LossConfig


def soft_iou(logit_B1HW: torch.Tensor, mask_B1HW: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """1 - mean over images of (sum pt + 1) / (sum p + sum t - sum pt + 1), p the sigmoid of the logits.

    Source: the training code released with GGL-Net and MSDA-Net.
    """
    p = torch.sigmoid(logit_B1HW.float()).flatten(1)
    t = mask_B1HW.float().flatten(1)
    overlap = (p * t).sum(1)
    return 1 - ((overlap + smooth) / (p.sum(1) + t.sum(1) - overlap + smooth)).mean()


def bce(logit_B1HW: torch.Tensor, mask_B1HW: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy over all pixels."""
    return F.binary_cross_entropy_with_logits(logit_B1HW.float(), mask_B1HW.float())


def edge_hard(
    logit_B1HW: torch.Tensor, mask_B1HW: torch.Tensor, weight: float = 4.0, share: float = 0.5
) -> torch.Tensor:
    """Cross-entropy, `weight` times on mask edges, averaged over the hardest `share` of the batch's pixels.

    Source: the training code released with PAL (ICCV 2025). Edge (our reading): mask pixels whose 3x3 neighbourhood is
    not all mask, and background pixels that touch a mask pixel.
    """
    mask = mask_B1HW.float()
    dilated = F.max_pool2d(mask, 3, 1, 1)
    eroded = -F.max_pool2d(-mask, 3, 1, 1)
    weights = 1 + (weight - 1) * (dilated - eroded)
    loss = F.binary_cross_entropy_with_logits(logit_B1HW.float(), mask, reduction="none") * weights
    return loss.flatten().topk(max(1, int(loss.numel() * share))).values.mean()


def focal(logit_B1HW: torch.Tensor, mask_B1HW: torch.Tensor, gamma: float = 2.0, alpha: float = 0.25) -> torch.Tensor:
    """The focal loss of all pixels, divided by the number of target pixels (of the batch, at least 1).

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, with the division that they use for anchors.
    """
    mask = mask_B1HW.float()
    return focal_terms(logit_B1HW.float(), mask, gamma, alpha).sum() / mask.sum().clamp(min=1)


def focal_terms(logit: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float) -> torch.Tensor:
    """-a (1 - q)^gamma log q of each logit: q is the probability of its target (0 or 1), a is alpha for 1 and else 1 - alpha."""
    entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    # 1 - q to the last bit, and never 0: a gamma below 1 has no finite derivative there.
    unsure = -torch.expm1(-entropy).clamp(max=-1e-12)
    return (alpha * target + (1 - alpha) * (1 - target)) * unsure**gamma * entropy


CERTAIN = -1e4
"""A logit whose sigmoid, and cross-entropy against background, is 0."""

TERMS = {"soft_iou": soft_iou, "bce": bce, "edge_hard": edge_hard, "focal": focal}


def segmentation_loss(
    logit_B1HW: torch.Tensor, mask_B1HW: torch.Tensor, config: LossConfig, ignored_B1HW: torch.Tensor | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum that `config` names, and its parts (detached, unweighted).

    ignored_B1HW: bool, pixels of which nothing is claimed. They pass for background found with certainty: they add nothing
    to any loss, and no gradient comes from them.
    """
    if ignored_B1HW is not None:
        logit_B1HW, mask_B1HW = logit_B1HW.masked_fill(ignored_B1HW, CERTAIN), mask_B1HW.masked_fill(ignored_B1HW, 0)
    total = torch.zeros((), device=logit_B1HW.device)
    parts = {}
    with torch.autocast(logit_B1HW.device.type, enabled=False):
        for name, term in TERMS.items():
            weight = getattr(config, name)
            if weight:
                shape = {"gamma": config.focal_gamma, "alpha": config.focal_alpha} if name == "focal" else {}
                value = term(logit_B1HW, mask_B1HW, **shape)
                parts[name] = value.detach()
                total = total + weight * value
    return total, parts
