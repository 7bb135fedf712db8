"""Training-free detectors, the baselines: one frame of counts in, one score map in counts out."""

from collections.abc import Callable

import numpy as np

from irstd.models.classical.local_contrast import local_contrast
from irstd.models.classical.top_hat import top_hat

CLASSICAL: dict[str, Callable[[np.ndarray], np.ndarray]] = {"top-hat": top_hat, "local-contrast": local_contrast}
"""By name: `frame_HW` (uint8, uint16 or float32) -> `score_HW` (float32, at least 0, in counts)."""

__all__ = ["CLASSICAL", "local_contrast", "top_hat"]
