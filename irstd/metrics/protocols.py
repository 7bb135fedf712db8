"""What each protocol counts, in one place: a number without its protocol cannot be compared.

The published code of the field agrees on 8-connected components, on a centroid distance below 3 px and on a threshold
that must be exceeded; it differs in what is stated here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from irstd.errors import InputError, nearest


@dataclass(frozen=True)
class SegmentationProtocol:
    """How masks are scored.

    matching: `greedy` gives each target, in raster order, the first unused blob that is near enough; `optimal` finds
        the one-to-one matching with the most pairs and, among those, the least total distance.
    false_alarm: which pixels Fa counts. `unmatched`: those of every unmatched blob. `membership`: those of unmatched
        blobs whose area differs from the area of every matched blob of the same image, so a false blob that happens to
        have the area of a hit is forgiven.
    empty_niou: what an image without a target gives to nIoU: `skip` leaves it out, `zero` counts it as 0.
    surplus: whether the pixels of a matched blob farther than 3 px from its target are reported beside Fa.
    table_grid: side in px of the square grid of the protocol's published tables; None: native. For information: metrics
        use the grid that they are given.
    """

    name: str
    matching: Literal["greedy", "optimal"]
    false_alarm: Literal["unmatched", "membership"]
    empty_niou: Literal["skip", "zero"]
    surplus: bool
    table_grid: int | None
    source: str


@dataclass(frozen=True)
class DetectionProtocol:
    """How boxes are scored.

    hit: `iou`: intersection over union of at least .5; `centroid`: box centres less than 3 px apart. One-to-one,
        detections in order of descending score, each taking its best free target.
    frames: `annotated` leaves out frames without a target, so that false alarms there do not count; `labelled` keeps
        them.
    point: where P, R and F1 are read: `threshold`: at a score threshold; `curve`: R is the largest recall at any
        score, and P the mean of the interpolated precision up to it.
    min_score: detections below are dropped.
    max_detections: of a frame, for average precision.
    """

    name: str
    hit: Literal["iou", "centroid"]
    frames: Literal["annotated", "labelled"]
    point: Literal["threshold", "curve"]
    min_score: float
    max_detections: int
    source: str

    @property
    def average(self) -> str:
        """What its average precision is called: the 50 is that of IoU .5."""
        return "ap" if self.hit == "centroid" else "ap50"


SEGMENTATION = {
    protocol.name: protocol
    for protocol in (
        SegmentationProtocol("strict", "optimal", "unmatched", "skip", True, None, "irstd"),
        SegmentationProtocol("basicirstd", "greedy", "unmatched", "zero", False, None, "BasicIRSTD, corrected Fa"),
        SegmentationProtocol("dnanet", "greedy", "membership", "zero", False, 256, "DNA-Net, MSHNet"),
        SegmentationProtocol("msda", "greedy", "unmatched", "zero", False, 512, "MSDA-Net, GGL-Net"),
    )
}

DETECTION = {
    protocol.name: protocol
    for protocol in (
        DetectionProtocol("nnlab", "iou", "annotated", "curve", 0.001, 100, "UESTC-nnLab moving-target tables"),
        DetectionProtocol("strict", "iou", "labelled", "threshold", float("-inf"), 100, "irstd"),
        DetectionProtocol("centroid", "centroid", "labelled", "threshold", float("-inf"), 100, "irstd"),
    )
}


def segmentation_protocol(name: str | SegmentationProtocol) -> SegmentationProtocol:
    """The protocol of that name; InputError (a ValueError) for an unknown one."""
    return name if isinstance(name, SegmentationProtocol) else _find(SEGMENTATION, name, "segmentation")


def detection_protocol(name: str | DetectionProtocol) -> DetectionProtocol:
    """The protocol of that name; InputError (a ValueError) for an unknown one."""
    return name if isinstance(name, DetectionProtocol) else _find(DETECTION, name, "detection")


def _find(table: dict, name: str, kind: str):
    if name not in table:
        raise InputError(f"no {kind} protocol {name!r}{nearest(str(name), table)}: take one of {', '.join(table)}")
    return table[name]
