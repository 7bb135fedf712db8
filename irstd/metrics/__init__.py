"""Segmentation and detection metrics, each under a named protocol."""

from irstd.metrics.curve import OperatingCurve, curve
from irstd.metrics.detection import DetectionMetrics
from irstd.metrics.operating import (
    BoxPoint,
    OperatingPoint,
    lowest_box_threshold,
    lowest_threshold,
    pd_at_fa,
    threshold_for_fa,
    threshold_within,
)
from irstd.metrics.protocols import DETECTION, SEGMENTATION, DetectionProtocol, SegmentationProtocol
from irstd.metrics.report import DetectionReport, Report, SegmentationReport
from irstd.metrics.segmentation import SegmentationMetrics

__all__ = [
    "DETECTION",
    "SEGMENTATION",
    "BoxPoint",
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
    "lowest_box_threshold",
    "lowest_threshold",
    "pd_at_fa",
    "threshold_for_fa",
    "threshold_within",
]
