"""Gradient-isolated low-level shortcut (GILS): fine detail for the pyramid, without a gradient path of its own.

    S = g(D_r(sg(C)))        P3' = P3 + alpha S

C is a fine map of the backbone, sg stops the gradient, D_r shrinks by r to the level's grid, g is a 1x1 convolution with
batch normalisation and SiLU. g learns; the backbone is not reached through the shortcut. The paper's own equation is not
public: what is its and what is our reading is in docs/bp-fpn.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from irstd.config import GILSConfig
from irstd.models.bp_fpn.backbone import STRIDES, scaled, widths
from irstd.models.bp_fpn.blocks import BatchNorm
from irstd.models.ggl_net.blocks import Float32Conv2d

LEVELS = {"p3": 8, "p4": 16, "c3_p3": 8}
"""Where a shortcut may join, with the stride there: the two levels' outputs, and the input of the last C3 block."""


ALL = slice(None)
"""The rows of a batch: all of them."""
Maps = Mapping[str, torch.Tensor]
"""The sources by the names of `STRIDES`, [N, C, H / stride, W / stride]."""


def places(config: GILSConfig) -> tuple[str, ...]:
    """The places of `LEVELS` where `config` injects."""
    if config.source == "none":
        return ()
    return {"p3": ("p3",), "p3+p4": ("p3", "p4"), "c3_p3": ("c3_p3",), "all": ("p3", "p4", "c3_p3")}[config.level]


def blur_pool(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Half the size after the binomial filter (1, 3, 3, 1) / 8 in each direction; the border is replicated."""
    channels = x_BCHW.shape[1]
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x_BCHW.device, dtype=x_BCHW.dtype) / 8
    kernel = torch.outer(row, row).expand(channels, 1, 4, 4)
    # In the precision of the map: for the image that is float32, whatever autocast says.
    with torch.autocast(x_BCHW.device.type, enabled=False):
        return F.conv2d(F.pad(x_BCHW, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=channels)


def shrink(x_NCHW: torch.Tensor, op: str, factor: int) -> torch.Tensor:
    """D_r without parameters: [N, C, H, W] to 1 / `factor` of the size by "maxpool", "avgpool" or "blurpool"."""
    if op == "maxpool":
        return F.max_pool2d(x_NCHW, factor)
    if op == "avgpool":
        return F.avg_pool2d(x_NCHW, factor)
    while factor > 1:
        x_NCHW, factor = blur_pool(x_NCHW), factor // 2
    return x_NCHW


class Shortcut(nn.Module):
    """S of one place: the sources, shrunk to its grid and projected to `out_channels`.

    "s2d", space to depth and a 1x1 convolution, is one linear map of each block of r x r pixels: a convolution of that size
    and stride, which is how it is computed, without a copy of the map. "conv" is therefore the same function.

    Args:
        sources: channels of each source, by the names of `STRIDES`.
        stride: of the place.
    """

    def __init__(self, sources: Mapping[str, int], stride: int, out_channels: int, config: GILSConfig) -> None:
        super().__init__()
        self.op, self.detach = config.op, config.detach
        self.factors = {name: stride // STRIDES[name] for name in sources}
        # From the image this is the first convolution of a branch.
        conv = Float32Conv2d if "image" in sources else nn.Conv2d
        self.blocks = nn.ModuleDict()
        if config.op in ("s2d", "conv", "conv3"):
            # Shrinks and projects at once. Several sources are added, as one convolution over all of them does.
            for number, (name, channels) in enumerate(sources.items()):
                size, padding = (3, 1) if config.op == "conv3" else (self.factors[name], 0)
                bias = not config.norm and not number
                self.blocks[name] = conv(channels, out_channels, size, self.factors[name], padding, bias=bias)
        else:
            self.project = conv(sum(sources.values()), out_channels, 1, bias=not config.norm)
        self.norm = BatchNorm(out_channels) if config.norm else nn.Identity()
        # What `irstd.models.fold` may make one; a sum of several convolutions stands between them and the norm.
        alone = [f"blocks.{name}" for name in self.blocks] or ["project"]
        self.chain = (alone[0], "norm") if len(alone) == 1 else ()
        self.act = nn.SiLU(inplace=True) if config.act else nn.Identity()

    def forward(self, maps: Maps) -> torch.Tensor:
        found = {name: maps[name].detach() if self.detach else maps[name] for name in self.factors}
        if self.blocks:
            first, *others = (conv(found[name]) for name, conv in self.blocks.items())
            total = sum(others, first)
        else:
            shrunk = [shrink(x, self.op, self.factors[name]) for name, x in found.items()]
            total = self.project(torch.cat(shrunk, dim=1))
        return self.act(self.norm(total))


class GILS(nn.Module):
    """The shortcuts of all places, and how each joins its map.

    "add" is P + alpha S, "gate" P + alpha P sigmoid(S), alpha one learnable scalar a place, 0 at the start: the network
    then begins as its host. "concat" gives [P, S] to the C3 block that makes the level. With the source "none" there is
    nothing here, and maps pass as they are.
    """

    def __init__(self, config: GILSConfig, width: float) -> None:
        super().__init__()
        self.fuse = config.fuse
        c = widths(width)
        level = {"p3": c["dark3"], "p4": c["dark4"], "c3_p3": c["dark3"]}
        concat = scaled(config.channels or 64, width)
        self.channels = {p: concat if self.fuse == "concat" else level[p] for p in places(config)}
        sources = {name: (c | {"image": 1})[name] for name in config.source.split("+")} if self.channels else {}
        self.shortcuts = nn.ModuleDict(
            {place: Shortcut(sources, LEVELS[place], channels, config) for place, channels in self.channels.items()}
        )
        self.alpha = nn.ParameterDict()
        if self.fuse != "concat":
            self.alpha.update({place: nn.Parameter(torch.zeros(())) for place in self.channels})

    def widens(self, place: str) -> int:
        """Channels that "concat" adds to the input of the C3 block of `place`."""
        return self.channels.get(place, 0) if self.fuse == "concat" else 0

    def widen(self, place: str, x_NCHW: torch.Tensor, maps: Maps, rows: slice | None) -> torch.Tensor:
        """The input of a C3 block; under "concat" with S beside it, zeros for frames that are not among `rows`."""
        added = self.widens(place)
        if not added:
            return x_NCHW
        s_NCHW = x_NCHW.new_zeros(x_NCHW.shape[0], added, *x_NCHW.shape[2:])
        if rows is not None:
            s_NCHW = _spread(self.shortcuts[place](_rows(maps, rows)), s_NCHW, rows)
        return torch.cat((x_NCHW, s_NCHW), dim=1)

    def add(self, place: str, x_NCHW: torch.Tensor, maps: Maps, rows: slice | None) -> torch.Tensor:
        """A map with S joined under "add" and "gate"; frames that are not among `rows` (None: none) stay as they are."""
        if place not in self.alpha or rows is None:
            return x_NCHW
        s_NCHW = self.shortcuts[place](_rows(maps, rows))
        if self.fuse == "gate":
            s_NCHW = x_NCHW[rows] * torch.sigmoid(s_NCHW)
        return torch.addcmul(x_NCHW, self.alpha[place], _spread(s_NCHW, x_NCHW, rows))


def _rows(maps: Maps, rows: slice) -> Maps:
    return {name: x[rows] for name, x in maps.items()}


def _spread(s: torch.Tensor, like_NCHW: torch.Tensor, rows: slice) -> torch.Tensor:
    """`s`, which belongs to `rows`, as [N, C, H, W] with zeros elsewhere."""
    if rows == ALL:
        return s
    found = torch.zeros_like(like_NCHW, dtype=s.dtype)
    found[rows] = s
    return found
