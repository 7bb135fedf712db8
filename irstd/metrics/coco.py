"""Average precision and one-to-one matching of boxes, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as maskUtils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from irstd.data.regions import shares
from irstd.metrics.matching import HIT_DISTANCE, ROUNDING
from irstd.metrics.protocols import DetectionProtocol

AREAS = [[0, 1e10]]
RECALLS = np.linspace(0, 1, 101)


class Frame(NamedTuple):
    """Detections, targets and ignore regions of one frame: float64 boxes (x, y, w, h) and scores."""

    boxes_N4: np.ndarray
    scores_N: np.ndarray
    targets_M4: np.ndarray
    ignore_K4: np.ndarray


class Matched(NamedTuple):
    """The detections of some frames, frame after frame and by descending score in each, without those that fell to an
    ignore region.

    scores_D. frame_D: int32, the frame of each. target_D: int32, which target of its frame it took, -1 for none; matching
    goes by descending score, so this holds at any threshold. counted_D: bool, among the protocol's count of a frame, beyond
    which average precision does not look.
    """

    scores_D: np.ndarray
    frame_D: np.ndarray
    target_D: np.ndarray
    counted_D: np.ndarray


class Average(NamedTuple):
    """precision_R: interpolated precision at the 101 recalls 0, .01, ..., 1. recall: the largest, at any score."""

    precision_R: np.ndarray
    recall: float


def match(frames: Sequence[Frame], protocol: DetectionProtocol) -> Matched:
    """Give each detection the target that it takes."""
    offsets = np.cumsum([0, *(len(frame.targets_M4) for frame in frames)])
    with _silent():
        judge = _Eval(
            _coco([frame.targets_M4 for frame in frames], regions=[frame.ignore_K4 for frame in frames]),
            _coco([frame.boxes_N4 for frame in frames], scores=[frame.scores_N for frame in frames]),
            "bbox",
        )
        judge.hit = protocol.hit
        judge.params.iouThrs = np.array([0.5])
        judge.params.areaRng, judge.params.areaRngLbl = AREAS, ["all"]
        judge.params.maxDets = [max(1, *(len(frame.scores_N) for frame in frames))]
        judge.evaluate()
    columns: tuple[list, list, list, list] = ([], [], [], [])
    for entry in judge.evalImgs:
        if entry is None:
            continue
        number, kept_D = entry["image_id"], ~entry["dtIgnore"][0]
        # Identifiers of targets count from 1 over all frames; 0 is no match.
        target_D = np.where(entry["dtMatches"][0] > 0, entry["dtMatches"][0] - 1 - offsets[number], -1)
        found = (
            np.array(entry["dtScores"], float),
            np.full(len(kept_D), number, np.int32),
            target_D.astype(np.int32),
            np.arange(len(kept_D)) < protocol.max_detections,
        )
        for column, values in zip(columns, found, strict=True):
            column.append(values[kept_D])
    empty = np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool)
    return Matched(*(np.concatenate([none, *column]) for none, column in zip(empty, columns, strict=True)))


def average(scores_D: np.ndarray, hit_D: np.ndarray, targets: int) -> Average:
    """Precision over recall of detections of any number of frames, of which `hit_D` took one of the `targets` (> 0)."""
    with _silent():
        judge = COCOeval(iouType="bbox")
        judge.params.imgIds, judge.params.catIds = [0], [1]
        judge.params.iouThrs = np.array([0.5])
        judge.params.areaRng, judge.params.areaRngLbl = AREAS, ["all"]
        judge.params.maxDets = [len(scores_D) + 1]
        judge._paramsEval = judge.params
        hit_1D = hit_D[None]
        frame = {"dtScores": scores_D, "dtMatches": hit_1D, "dtIgnore": np.zeros_like(hit_1D)}
        judge.evalImgs = [frame | {"gtIgnore": np.zeros(targets)}]
        judge.accumulate()
    return Average(judge.eval["precision"][0, :, 0, 0, 0], float(judge.eval["recall"][0, 0, 0, 0]))


def mean_below(precision_R: np.ndarray, recall: float) -> float:
    """Mean of the interpolated precision over the recalls below the largest; 0 where that is under .01."""
    # Truncated as the published code does, .29 * 100 to 28 included.
    below = precision_R[: int(100 * recall)]
    return float(below.mean()) if len(below) else 0.0


def _silent() -> contextlib.redirect_stdout:
    """pycocotools chatters to stdout."""
    return contextlib.redirect_stdout(io.StringIO())


class _Eval(COCOeval):
    """pycocotools' matching, by IoU, or by nearness of box centres: less than 3 px is more than .5.

    An ignore region is its crowd: it takes any number of detections that no target took and that lie in it by half.
    """

    hit = "iou"

    def computeIoU(self, imgId, catId):
        truths, detections = self._gts[imgId, catId], self._dts[imgId, catId]
        if not truths or not detections:
            return []
        order = np.argsort([-d["score"] for d in detections], kind="mergesort")[: self.params.maxDets[-1]]
        boxes_N4 = np.array([detections[i]["bbox"] for i in order], float)
        truths_M4 = np.array([truth["bbox"] for truth in truths], float)
        region_M = np.array([truth["iscrowd"] for truth in truths], bool)
        if self.hit == "iou":
            similarity_NM = maskUtils.iou(boxes_N4, truths_M4, region_M.astype(np.uint8))
        else:
            difference_NM2 = _centres(boxes_N4)[:, None] - _centres(truths_M4)
            distance_NM = np.hypot(difference_NM2[..., 0], difference_NM2[..., 1])
            near_NM = distance_NM < HIT_DISTANCE - ROUNDING
            similarity_NM = np.where(near_NM, 1 - distance_NM / (2 * HIT_DISTANCE), 0.0)
        if region_M.any():
            similarity_NM[:, region_M] = shares(boxes_N4, truths_M4[region_M])
        return similarity_NM


def _centres(boxes_N4: np.ndarray) -> np.ndarray:
    return boxes_N4[:, :2] + boxes_N4[:, 2:] / 2


def _coco(
    boxes: list[np.ndarray], regions: list[np.ndarray] | None = None, scores: list[np.ndarray] | None = None
) -> COCO:
    annotations: list[dict] = []

    def add(image: int, box: list[float], crowd: int, **more: float) -> None:
        # Identifiers start at 1: pycocotools takes a match with 0 for none.
        annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": 1, "iscrowd": crowd}
        annotations.append(annotation | {"bbox": box, "area": box[2] * box[3]} | more)

    for image, boxes_N4 in enumerate(boxes):
        for index, box in enumerate(boxes_N4.tolist()):
            add(image, box, 0, **({} if scores is None else {"score": float(scores[image][index])}))
    for image, regions_K4 in enumerate(regions or []):
        for box in regions_K4.tolist():
            add(image, box, 1)
    out = COCO()
    out.dataset = {
        "images": [{"id": image} for image in range(len(boxes))],
        "categories": [{"id": 1}],
        "annotations": annotations,
    }
    out.createIndex()
    return out
