"""Backbone and top-down pyramid of SSTNet with GILS in it: one map of stride 8 for each frame."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from irstd.config import DGRConfig, GILSConfig
from irstd.models.bp_fpn.backbone import CSPDarknet, Stages, widths
from irstd.models.bp_fpn.blocks import BaseConv, CSPLayer
from irstd.models.bp_fpn.coupling import project_gradient, scale_gradient
from irstd.models.bp_fpn.gils import ALL, GILS, Maps
from irstd.models.recompute import statistics_aside


class Levels(NamedTuple):
    """What the pyramid gives: `p3`, which the neck takes, and the maps that DGR compares.

    p3, a3 [N, c, H/8, W/8]: with and without what GILS adds. a4r [N, c, H/16, W/16]: what goes down into a3's block.
    a4 [N, 2c, H/16, W/16]. a5 [N, 2c, H/32, W/32]: what goes down into a4's block. isolated_a3, isolated_a4: the same
    maps once more, without their dependence on what comes down, or None.
    """

    p3: torch.Tensor
    a3: torch.Tensor
    a4r: torch.Tensor
    a4: torch.Tensor
    a5: torch.Tensor
    isolated_a3: torch.Tensor | None = None
    isolated_a4: torch.Tensor | None = None

    def pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Two adjacent maps of one width, fine and coarse: "a" is (a4, a5), "b" is (a3, a4r)."""
        return {"a": (self.a4, self.a5), "b": (self.a3, self.a4r)}[name]

    def moved(self, name: str) -> torch.Tensor:
        """The fine map of a pair as DGR's loss reaches it: the isolated one, where there is one."""
        isolated = {"a": self.isolated_a4, "b": self.isolated_a3}[name]
        return self.pair(name)[0] if isolated is None else isolated


class Pyramid(nn.Module):
    """Frames float [N, in_channels, H, W] (H and W multiples of 32) to `Levels`.

    Named as in YOLOX, where the pyramid holds the backbone.
    """

    def __init__(self, in_channels: int, width: float, gils: GILSConfig, dgr: DGRConfig) -> None:
        super().__init__()
        c = widths(width)
        self.dgr = dgr
        self.backbone = CSPDarknet(in_channels, width)
        self.gils = GILS(gils, width)
        self.lateral_conv0 = BaseConv(c["dark5"], c["dark4"], 1)
        self.C3_p4 = CSPLayer(2 * c["dark4"] + self.gils.widens("p4"), c["dark4"], 1, shortcut=False)
        self.reduce_conv1 = BaseConv(c["dark4"], c["dark3"], 1)
        self.C3_p3 = CSPLayer(2 * c["dark3"] + self.gils.widens("p3"), c["dark3"], 1, shortcut=False)

    def forward(self, image_NCHW: torch.Tensor, grey_N1HW: torch.Tensor, rows: slice | None = ALL) -> Levels:
        """`grey_N1HW`: the frames before normalisation, GILS's source "image". `rows`: see `top_down`."""
        return self.top_down(self.backbone(image_NCHW), grey_N1HW, rows)

    def top_down(self, stages: Stages, grey_N1HW: torch.Tensor, rows: slice | None = ALL) -> Levels:
        """The pyramid on the backbone's maps. `rows`: the frames of the batch that get a shortcut; None: none."""
        maps = {"image": grey_N1HW, **stages._asdict()}
        a5 = self.lateral_conv0(stages.dark5)
        a4 = self._block_p4(self._down(a5, "a"), maps, rows)
        a4r = self.reduce_conv1(self.gils.add("p4", a4, maps, rows))
        a3 = self._block_p3(self._down(a4r, "b"), maps, rows)
        levels = Levels(self.gils.add("p3", a3, maps, rows), a3, a4r, a4, a5)
        if self.training and self.dgr.variant == "projection":
            for pair in self.dgr.pairs.split("+"):
                project_gradient(*levels.pair(pair), self.dgr.projection)
        if self.training and self.dgr.hard_isolation:
            with statistics_aside(self.C3_p3), statistics_aside(self.C3_p4):
                levels = levels._replace(
                    isolated_a3=self._block_p3(a4r.detach(), maps, rows),
                    isolated_a4=self._block_p4(a5.detach(), maps, rows),
                )
        return levels

    def _block_p4(self, down: torch.Tensor, maps: Maps, rows: slice | None) -> torch.Tensor:
        return self.C3_p4(self.gils.widen("p4", torch.cat((_up(down), maps["dark4"]), dim=1), maps, rows))

    def _block_p3(self, down: torch.Tensor, maps: Maps, rows: slice | None) -> torch.Tensor:
        lateral = self.gils.add("c3_p3", maps["dark3"], maps, rows)
        return self.C3_p3(self.gils.widen("p3", torch.cat((_up(down), lateral), dim=1), maps, rows))

    def _down(self, high: torch.Tensor, pair: str) -> torch.Tensor:
        """The coarse map on its way into the finer level's block."""
        if self.training and self.dgr.variant == "scaling" and pair in self.dgr.pairs.split("+"):
            return scale_gradient(high, self.dgr.beta)
        return high


def _up(x_NCHW: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x_NCHW, scale_factor=2, mode="nearest")
