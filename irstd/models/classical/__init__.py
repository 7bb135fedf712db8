"""Training-free detectors, the baselines: one frame of counts in, one score map in counts out."""

from collections.abc import Callable

import numpy as np

from irstd.errors import InputError, nearest
from irstd.models.classical.boxes import response_boxes
from irstd.models.classical.local_contrast import local_contrast
from irstd.models.classical.low_rank import low_rank
from irstd.models.classical.top_hat import top_hat

Operator = Callable[[np.ndarray], np.ndarray]
CLASSICAL: dict[str, Operator] = {"top-hat": top_hat, "local-contrast": local_contrast}
"""By name: `frame_HW` (uint8, uint16 or float32) -> `score_HW` (float32, at least 0, in counts). The quick ones."""
SLOW: dict[str, Operator] = {"low-rank": low_rank}
"""The same of those that take many seconds a frame, and are used where they are named."""

__all__ = ["CLASSICAL", "SLOW", "chosen", "local_contrast", "low_rank", "response_boxes", "top_hat"]


def chosen(names: list[str] | None) -> dict[str, Operator]:
    """The operators of these names, in this order; None: the quick ones. `InputError` for an unknown name."""
    known = CLASSICAL | SLOW
    for name in names or []:
        if name not in known:
            raise InputError(f"no baseline {name!r}{nearest(name, known)}: take some of {', '.join(known)}")
    return CLASSICAL if names is None else {name: known[name] for name in names}
