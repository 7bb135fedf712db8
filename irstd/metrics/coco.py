"""Average precision and one-to-one matching of boxes, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from irstd.metrics.matching import HIT_DISTANCE, ROUNDING
from irstd.metrics.protocols import DetectionProtocol


class Frame(NamedTuple):
    """Detections and targets of one frame: float64 boxes (x, y, w, h) and scores."""

    boxes_N4: np.ndarray
    scores_N: np.ndarray
    targets_M4: np.ndarray


class Evaluation(NamedTuple):
    """What the matching of all frames gives.

    precision_R: interpolated precision at the 101 recalls 0, .01, ..., 1. recall: the largest, at any score.
    scores_K and hit_K: every detection, and whether it took a target; matching goes by descending score, so this holds
    at any threshold.
    """

    precision_R: np.ndarray
    recall: float
    scores_K: np.ndarray
    hit_K: np.ndarray


def evaluate(frames: Sequence[Frame], protocol: DetectionProtocol) -> Evaluation:
    """Match and accumulate frames that hold at least one target among them."""
    # The chatter of pycocotools goes to stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        judge = (_CentroidEval if protocol.hit == "centroid" else COCOeval)(
            _coco(len(frames), [frame.targets_M4 for frame in frames], None),
            _coco(len(frames), [frame.boxes_N4 for frame in frames], [frame.scores_N for frame in frames]),
            "bbox",
        )
        judge.params.iouThrs = np.array([0.5])
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        # Matching covers every detection, whereas precision and recall of the curve stop at the protocol's count.
        most = max(len(frame.scores_N) for frame in frames)
        judge.params.maxDets = sorted({protocol.max_detections, max(protocol.max_detections, most)})
        judge.evaluate()
        judge.accumulate()
    frames_seen = [entry for entry in judge.evalImgs if entry is not None]
    return Evaluation(
        judge.eval["precision"][0, :, 0, 0, 0],
        float(judge.eval["recall"][0, 0, 0, 0]),
        np.concatenate([entry["dtScores"] for entry in frames_seen]),
        np.concatenate([entry["dtMatches"][0] > 0 for entry in frames_seen]),
    )


class _CentroidEval(COCOeval):
    """The same matching with nearness of box centres in place of IoU: less than 3 px is more than .5."""

    def computeIoU(self, imgId, catId):
        targets, detections = self._gts[imgId, catId], self._dts[imgId, catId]
        if not targets or not detections:
            return []
        order = np.argsort([-d["score"] for d in detections], kind="mergesort")[: self.params.maxDets[-1]]
        difference = _centres([detections[i]["bbox"] for i in order])[:, None] - _centres([t["bbox"] for t in targets])
        distance = np.hypot(difference[..., 0], difference[..., 1])
        return np.where(distance < HIT_DISTANCE - ROUNDING, 1 - distance / (2 * HIT_DISTANCE), 0.0)


def _centres(boxes: list) -> np.ndarray:
    boxes_N4 = np.array(boxes, float)
    return boxes_N4[:, :2] + boxes_N4[:, 2:] / 2


def _coco(count: int, boxes: list[np.ndarray], scores: list[np.ndarray] | None) -> COCO:
    annotations = []
    for image, boxes_N4 in enumerate(boxes):
        for index, box in enumerate(boxes_N4.tolist()):
            # Identifiers start at 1: pycocotools takes a match with 0 for none.
            annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": 1, "iscrowd": 0}
            annotation |= {"bbox": box, "area": box[2] * box[3]}
            if scores is not None:
                annotation["score"] = float(scores[image][index])
            annotations.append(annotation)
    out = COCO()
    out.dataset = {
        "images": [{"id": image} for image in range(count)],
        "categories": [{"id": 1}],
        "annotations": annotations,
    }
    out.createIndex()
    return out
