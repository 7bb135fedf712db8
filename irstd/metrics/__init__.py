"""Segmentation and detection metrics, each under a named protocol."""

from irstd.metrics.curve import OperatingCurve, curve
from irstd.metrics.detection import DetectionMetrics
from irstd.metrics.operating import OperatingPoint, pd_at_fa, threshold_for_fa
from irstd.metrics.protocols import DETECTION, SEGMENTATION, DetectionProtocol, SegmentationProtocol
from irstd.metrics.segmentation import SegmentationMetrics

__all__ = [
    "DETECTION",
    "SEGMENTATION",
    "DetectionMetrics",
    "DetectionProtocol",
    "OperatingCurve",
    "OperatingPoint",
    "SegmentationMetrics",
    "SegmentationProtocol",
    "curve",
    "pd_at_fa",
    "threshold_for_fa",
]
