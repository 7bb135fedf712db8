"""How alike two boxes are: intersection over union, or a normalised Gaussian distance for targets of a few pixels.

Boxes are (centre x, centre y, w, h) in px, broadcast over leading dimensions.
"""

from __future__ import annotations

import torch


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union, in [0, 1]."""
    low = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    overlap = (high - low).clamp(min=0).prod(-1)
    return overlap / (a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - overlap).clamp(min=1e-16)


def gaussian(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """exp(-W / scale), W the 2-Wasserstein distance of the Gaussians N(centre, diag(w, h)^2 / 4), in px.

    Unlike IoU it is neither 0 for boxes that do not touch nor halved by a shift of one pixel. Source: Wang et al. 2021,
    "A normalized Gaussian Wasserstein distance for tiny object detection".
    """
    centre = (a[..., :2] - b[..., :2]).square().sum(-1)
    size = (a[..., 2:] - b[..., 2:]).square().sum(-1) / 4
    # The root has no slope at 0: a thousandth of a pixel squared keeps it finite.
    return torch.exp(-torch.sqrt(centre + size + 1e-6) / scale)


def similarity(a: torch.Tensor, b: torch.Tensor, kind: str, scale: float) -> torch.Tensor:
    """ "iou", or "gaussian" with its `scale` in px."""
    return iou(a, b) if kind == "iou" else gaussian(a, b, scale)
