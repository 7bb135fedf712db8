"""Segmentation and detection metrics, each under a named protocol."""

from irstd.metrics.curve import OperatingCurve, curve
from irstd.metrics.detection import DetectionMetrics
from irstd.metrics.operating import OperatingPoint, lowest_threshold, pd_at_fa, threshold_for_fa
from irstd.metrics.protocols import DETECTION, SEGMENTATION, DetectionProtocol, SegmentationProtocol
from irstd.metrics.report import DetectionReport, Report, SegmentationReport
from irstd.metrics.segmentation import SegmentationMetrics

__all__ = [
    "DETECTION",
    "SEGMENTATION",
    "DetectionMetrics",
    "DetectionProtocol",
    "DetectionReport",
    "OperatingCurve",
    "OperatingPoint",
    "Report",
    "SegmentationMetrics",
    "SegmentationProtocol",
    "SegmentationReport",
    "curve",
    "lowest_threshold",
    "pd_at_fa",
    "threshold_for_fa",
]
