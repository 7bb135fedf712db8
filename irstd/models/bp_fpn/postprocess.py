"""From raw predictions to `Detections`: scores, suppression of overlapping boxes, clipping to the frame."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from irstd.models.bp_fpn.head import decode
from irstd.models.contract import Detections

LARGEST = 100
"""Detections of a frame that are kept, as COCO's average precision looks at no more."""


def detections_of(
    raw_BCHW: torch.Tensor,
    height: int,
    width: int,
    min_score: float = 0.001,
    nms: float = 0.65,
    origin: tuple[int, int] = (0, 0),
) -> list[Detections]:
    """Detections of each key frame, by falling score, boxes (x, y, w, h) in px.

    score = objectness * probability of the likeliest class; boxes of one class whose IoU is above `nms` are one, as the
    host's protocol has it. Boxes are cut at the frame's border; what lies outside is dropped. `origin`: top and left of the
    frame [height, width], where it does not begin with the first cell; boxes are in its own pixels.
    """
    boxes_BA4, objectness_BA, classes_BAC = decode(raw_BCHW)
    best_BA, class_BA = torch.sigmoid(classes_BAC).max(-1)
    scores_BA = torch.sigmoid(objectness_BA) * best_BA
    low_BA2, high_BA2 = boxes_BA4[..., :2] - boxes_BA4[..., 2:] / 2, boxes_BA4[..., :2] + boxes_BA4[..., 2:] / 2
    top, left = origin
    if top or left:
        low_BA2, high_BA2 = (corner_BA2 - corner_BA2.new_tensor([left, top]) for corner_BA2 in (low_BA2, high_BA2))
    limit = low_BA2.new_tensor([width, height])
    low_BA2, high_BA2 = low_BA2.clamp(min=0).minimum(limit), high_BA2.clamp(min=0).minimum(limit)
    found_BA4 = torch.cat((low_BA2, high_BA2 - low_BA2), dim=-1).cpu().numpy()
    kept_BA = ((high_BA2 > low_BA2).all(-1) & (scores_BA >= min_score)).cpu().numpy()
    arrays = zip(found_BA4, scores_BA.cpu().numpy(), class_BA.cpu().numpy(), kept_BA, strict=True)
    return [_suppressed(boxes[kept], scores[kept], labels[kept], nms) for boxes, scores, labels, kept in arrays]


def _suppressed(boxes_N4: np.ndarray, scores_N: np.ndarray, labels_N: np.ndarray, nms: float) -> Detections:
    chosen = np.zeros(0, np.int64)
    if len(boxes_N4):
        # Float64 in and out: OpenCV's own rectangles for suppression are double.
        kept = cv2.dnn.NMSBoxesBatched(boxes_N4.tolist(), scores_N.tolist(), labels_N.tolist(), 0.0, nms)
        chosen = np.asarray(kept, np.int64).reshape(-1)
        chosen = chosen[np.argsort(-scores_N[chosen], kind="stable")][:LARGEST]
    return Detections(boxes_N4[chosen].astype(np.float32), scores_N[chosen].astype(np.float32))
