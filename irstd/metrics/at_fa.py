"""Segmentation numbers together with Pd at a given false-alarm rate, for validations that choose by it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from irstd.errors import InputError
from irstd.metrics.curve import FINE, OperatingCurve, too_few_pixels
from irstd.metrics.segmentation import SegmentationMetrics


class MetricsAtFa(SegmentationMetrics):
    """As `SegmentationMetrics`, and `compute` has `pd_at_fa`: Pd at the lowest threshold of a report's curve from which
    upwards Fa is never above `fa` (a fraction of pixels); 0 where no threshold keeps to it, None without any target.

    `compute` raises InputError where fewer than 10 / fa pixels were seen, too few to tell such a rate from another.
    """

    def __init__(self, *given: Any, fa: float, **more: Any) -> None:
        super().__init__(*given, **more)
        self.fa = float(fa)
        self.curve = OperatingCurve(FINE, self.protocol, self.grid, any_range=self.any_range)

    def update(
        self,
        probability_HW: np.ndarray,
        mask_HW: np.ndarray,
        group: str | None = None,
        **more: np.ndarray | None,
    ) -> None:
        super().update(probability_HW, mask_HW, group, **more)
        self.curve.update(probability_HW, mask_HW, group, ignore_K4=more.get("ignore_K4"))

    def compute(self, groups: Iterable[str | None] | None = None) -> dict[str, Any]:
        """The numbers of all frames; `pd_at_fa` is left out where groups are named."""
        found = super().compute(groups)
        if groups is not None:
            return found
        if why := too_few_pixels(self.curve.pixels, self.fa):
            raise InputError(f"evaluate.wanted_fa={self.fa:g}: {why}")
        (row,) = self.curve.pd_at([self.fa])
        none = None if not self.curve.targets else 0.0
        return found | {"pd_at_fa": none if row["pd"] is None else row["pd"], "fa_wanted": self.fa}

    def merge(self, other: SegmentationMetrics) -> SegmentationMetrics:
        super().merge(other)
        assert isinstance(other, MetricsAtFa)  # the settings are the same
        self.curve.merge(other.curve)
        return self

    def state(self) -> dict[str, Any]:
        return super().state() | {"curve": self.curve.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> MetricsAtFa:
        curve = state["curve"]
        out = super().from_state({key: value for key, value in state.items() if key != "curve"})
        assert isinstance(out, MetricsAtFa)
        out.curve = OperatingCurve.from_state(curve)
        return out

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"fa": self.fa}
