"""An input to show what a model takes: made from a formula, of nobody's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

HEIGHT, WIDTH = 32, 48


def frames(content: Mapping[str, Any]) -> np.ndarray:
    """uint8 or uint16 [T, 32, 48] counts for the package `content`: a slope at the level of its data, and a bright target
    of 3 x 3 px that moves to the right by 2 px a frame."""
    length, depth = (content.get("input") or {}).get("frames", 1), content["bit_depth"]
    statistics = content["intensity"]["dataset"] or {}
    top = 2**depth - 1
    level = float(statistics.get("median", top / 4))
    span = max(float(statistics.get("p995", level)) - float(statistics.get("p005", level)), top / 64)
    slope_HW = np.linspace(-0.5, 0.5, HEIGHT)[:, None] + np.zeros(WIDTH)
    found = np.repeat((level + 0.5 * span * slope_HW)[None], length, axis=0)
    for t in range(length):
        x = 6 + 2 * t % (WIDTH - 12)
        found[t, 14:17, x : x + 3] += span
    return found.clip(0, top).astype(np.uint16 if depth > 8 else np.uint8)
