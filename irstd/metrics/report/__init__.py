"""Everything that an evaluation says, gathered frame by frame: numbers by protocol, intervals, bins, curves, and files.

A report knows nothing of models: what it is fed may come from a network, or from files made anywhere.
"""

from irstd.metrics.report.base import Report
from irstd.metrics.report.boxes import DETECTION, DetectionReport
from irstd.metrics.report.masks import SEGMENTATION, SegmentationReport, reported

__all__ = ["DETECTION", "SEGMENTATION", "DetectionReport", "Report", "SegmentationReport", "reported"]
