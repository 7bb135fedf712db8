"""Bins of signal-to-clutter ratio and of size, into which each target falls by what it is, not by what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Binning:
    """edges: increasing, between neighbouring bins. closed: the side on which a bin has its edge. labels: of each bin,
    and last of targets whose value is not known."""

    name: str
    edges: tuple[float, ...]
    closed: str
    labels: tuple[str, ...]

    def of(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """int [N]: the bin of each value; nan falls into the last."""
        values = np.asarray(values, float)
        found = np.digitize(values, self.edges, right=self.closed == "right")
        return np.where(np.isnan(values), len(self.labels) - 1, found)


# 3 is where the moving-target literature puts its hard subset (NUDT-MIRSDT, SNR <= 3); 1.5 and 6 are half and twice of it.
SCR = Binning("scr", (1.5, 3.0, 6.0), "left", ("< 1.5", "1.5 to 3", "3 to 6", ">= 6", "unknown"))
# 80 px is the SPIE's bound of a small target (.12 % of 256 x 256); 9 and 25 px are squares of 3 and 5.
SIZE = Binning("size", (9.0, 25.0, 80.0), "right", ("<= 9 px", "> 9 to 25 px", "> 25 to 80 px", "> 80 px", "unknown"))
BINNINGS = (SCR, SIZE)
