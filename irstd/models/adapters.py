"""Other people's modules as networks of irstd, in five lines:

    class MyNet(SegmentationAdapter):
        def __init__(self, depth=4):
            super().__init__(UNet(in_channels=1, classes=1, depth=depth), stride=16)

    irstd train my_package.nets:MyNet model.options.depth=5

A plain module needs not even those: `irstd train` puts it into an adapter (docs/MODELS.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from irstd.config.networks import ForeignConfig, Network
from irstd.errors import InputError, NonFinite
from irstd.models.batch import Batch, finite, normalised, with_claimed_targets
from irstd.models.contract import Detections, Model, SegmentationModel
from irstd.models.resize import Placement

CERTAIN = 1e-6
"""Probabilities are kept this far from 0 and 1, where logits are infinite."""


@dataclass(frozen=True)
class Feed:
    """What a module gets of grey clips [B, T, H, W] (about [0, 1], key frame last), padded with copies of the border.

    in_channels: grey is repeated to these channels of each frame. stack: True gives [B, T * in_channels, H, W], False
    [B, in_channels, T, H, W]. stride: height and width become multiples of it.
    """

    in_channels: int = 1
    stack: bool = True
    stride: int = 1

    def __call__(self, frames_BTHW: torch.Tensor) -> torch.Tensor:
        height, width = frames_BTHW.shape[-2:]
        x_BTHW = F.pad(frames_BTHW, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        if self.stack:
            return x_BTHW.repeat_interleave(self.in_channels, 1)
        return x_BTHW.unsqueeze(1).repeat(1, self.in_channels, 1, 1, 1)


class SegmentationAdapter(SegmentationModel):
    """A module that gives maps of targets, turned into the contract.

    Args:
        module: float [B, in_channels, H, W], grey about [0, 1], to float [B, 1, H, W], or to a list or dict of such maps.
        in_channels, stride: see `Feed`.
        frames: T of the clips; 1 is the key frame alone. stack: see `Feed`.
        output: what the maps hold, "logits" or "probability".
        pick: of several maps, which is the prediction: its place in a list (-1: the last) or its key in a dict.
        deep: the training loss is the mean over all maps, the smaller ones enlarged; False: that of the prediction.
    """

    takes_gradient = False
    spares = True

    def __init__(
        self,
        module: nn.Module,
        in_channels: int = 1,
        frames: int = 1,
        stride: int = 1,
        *,
        stack: bool = True,
        output: Literal["logits", "probability"] = "logits",
        pick: int | str = -1,
        deep: bool = False,
    ) -> None:
        super().__init__()
        self.module, self.frames = module, frames
        self.feed = Feed(in_channels, stack, stride)
        self.output, self.pick, self.deep = output, pick, deep

    def compiled_parts(self) -> list[nn.Module]:
        return [self.module]

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, None]:
        return normalised(batch), None

    def forward(self, frames_BTHW: torch.Tensor, gradient_B1HW: None = None) -> torch.Tensor:
        """Logits [B, 1, H, W] of the prediction. `InputError` where the module gives something else."""
        return self.maps(frames_BTHW)[0]

    def maps(self, frames_BTHW: torch.Tensor) -> list[torch.Tensor]:
        """Logits of the prediction, and then of the other maps that the module gives, all [B, 1, H, W]."""
        fed = self.feed(frames_BTHW)
        found = self.module(fed)
        others: list[Any] = []
        if isinstance(found, Mapping | list | tuple):
            picked = _picked(found, self.pick, self.module)
            if self.deep:
                others = [m for m in _leaves(found) if m is not picked]
            found = picked
        name = type(self.module).__name__
        wanted = (fed.shape[0], 1, *fed.shape[-2:])  # len() would tie an exported graph to the number of frames
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != wanted:
            given = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise InputError(f"{name} gives {given} for frames {list(fed.shape)}, expected a map {list(wanted)}")
        height, width = frames_BTHW.shape[-2:]
        logits = []
        for map_B1HW in (found, *others):
            if not finite(map_B1HW):
                raise NonFinite(f"{name} gives NaN or infinity for finite frames")
            logit = map_B1HW.float()
            if self.output == "probability":
                # A graph that is traced has no values yet.
                if not torch.compiler.is_compiling() and (logit.detach().amin() < 0 or logit.detach().amax() > 1):
                    raise InputError(f"{name} gives values outside [0, 1], and its output is said to be probability")
                logit = torch.logit(logit.clamp(CERTAIN, 1 - CERTAIN))
            if logit.shape[-2:] != fed.shape[-2:]:
                logit = F.interpolate(logit, fed.shape[-2:], mode="bilinear", align_corners=False)
            # A negative padding crops: a slice would tie an exported graph to whether a size was a multiple of the stride.
            logits.append(F.pad(logit, (0, width - fed.shape[-1], 0, height - fed.shape[-2])))
        return logits

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if not self.deep:
            return super().loss(batch)
        self.require_masks(batch)
        batch, _ = self.resize(self.arrived(batch))
        found = [self.loss_of(logit_B1HW, batch) for logit_B1HW in self.maps(self.inputs(batch)[0])]
        # The parts are those of the prediction.
        return torch.stack([total for total, _ in found]).mean(), found[0][1]


class DetectionAdapter(Model):
    """A module that gives boxes, as torchvision's detectors do, turned into the contract.

    Args:
        module: in evaluation `module(frames)` is a list of B dicts with "boxes" [N, 4] (x1, y1, x2, y2 in px) and "scores"
            [N]; in training `module(frames, targets)` is a dict of losses, which are added up. `targets` are B dicts with
            "boxes" float32 [M, 4] (x1, y1, x2, y2) and "labels" int64 [M]. Suppressing overlaps is the module's work.
        in_channels, stride: see `Feed`.
        frames: T of the clips; 1 is the key frame alone. stack: see `Feed`.
        label: the number of the target class; to torchvision 0 is the background.
    """

    task = "detection"
    spares = True

    def __init__(
        self,
        module: nn.Module,
        in_channels: int = 1,
        frames: int = 1,
        stride: int = 1,
        *,
        stack: bool = True,
        label: int = 1,
    ) -> None:
        super().__init__()
        self.module, self.frames, self.label = module, frames, label
        self.feed = Feed(in_channels, stack, stride)

    def compiled_parts(self) -> list[nn.Module]:
        return [self.module]

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The sum of the module's losses, and they. `InputError` where the batch has no boxes, or impossible ones."""
        if batch.get("boxes") is None:
            raise InputError(f"{type(self.module).__name__} learns from boxes, and the batch has none")
        batch, _ = self.resize(self.arrived(batch))
        batch = with_claimed_targets(batch)
        targets = []
        for boxes in batch["boxes"]:
            boxes_M4 = torch.as_tensor(np.asarray(boxes, np.float32).reshape(-1, 4), device=self.device)
            corners_M4 = torch.cat((boxes_M4[:, :2], boxes_M4[:, :2] + boxes_M4[:, 2:]), dim=1)
            labels_M = torch.full((len(corners_M4),), self.label, dtype=torch.int64, device=self.device)
            targets.append({"boxes": corners_M4, "labels": labels_M})
        found = self.module(self.feed(normalised(batch)), targets)
        if (
            not isinstance(found, Mapping)
            or not found
            or not all(isinstance(v, torch.Tensor) and v.numel() == 1 for v in found.values())
        ):
            raise InputError(
                f"{type(self.module).__name__} gives no dict of losses in training, but {_described(found)}"
            )
        parts = {str(name): value.reshape(()).float() for name, value in found.items()}
        return torch.stack(list(parts.values())).sum(), {name: value.detach() for name, value in parts.items()}

    def detect(self, batch: Batch, placements: list[Placement]) -> list[Detections]:
        name = type(self.module).__name__
        found = self.module(self.feed(normalised(batch)))
        if not isinstance(found, list | tuple) or len(found) != len(placements):
            raise InputError(
                f"{name} gives {_described(found)} for {len(placements)} frames, not a list of a dict each"
            )
        return [self._detections(item, placement) for item, placement in zip(found, placements, strict=True)]

    def _detections(self, found: Any, placement: Placement) -> Detections:
        """Boxes as (x, y, w, h) in original pixels, cut at the frame's border, by falling score."""
        name = type(self.module).__name__
        if not isinstance(found, Mapping) or not {"boxes", "scores"} <= found.keys():
            raise InputError(f"{name} gives {_described(found)}, not a dict with boxes and scores")
        boxes_N4, scores_N = (found[key].detach().float().cpu().numpy() for key in ("boxes", "scores"))
        if boxes_N4.shape != (len(scores_N), 4) or scores_N.ndim != 1:
            raise InputError(f"{name} gives boxes {list(boxes_N4.shape)} with scores {list(scores_N.shape)}")
        if not (np.isfinite(boxes_N4).all() and np.isfinite(scores_N).all()):
            raise InputError(f"{name} gives boxes or scores that are NaN or infinite")
        height, width = placement.placed
        top, left = placement.origin
        boxes_N4 = boxes_N4 - [left, top, left, top]
        corners_N4 = boxes_N4.clip(0, [width, height, width, height])
        sides_N2 = corners_N4[:, 2:] - corners_N4[:, :2]
        kept_N = (sides_N2 > 0).all(1)
        order = np.argsort(-scores_N[kept_N], kind="stable")
        xywh_N4 = np.concatenate((corners_N4[:, :2], sides_N2), axis=1)[kept_N][order].astype(np.float32)
        return Detections(placement.boxes_back(xywh_N4), scores_N[kept_N][order].astype(np.float32))


def kept_contract(made: Any, section: Network) -> Model:
    """`made` where it keeps the contract, else in the adapter of `section.task`. `InputError` where that cannot be."""
    name = section.network
    if not isinstance(made, nn.Module):
        raise InputError(f"{name}: gives {_described(made)}, not a torch.nn.Module")
    if isinstance(made, Model):
        if isinstance(section, ForeignConfig) and section.adapter != type(section.adapter)():
            raise InputError(f"{name}: keeps the contract of networks itself; model.adapter decides nothing, remove it")
        for key, value in (("task", made.task), ("frames", made.frames)):
            if value != getattr(section, key):
                raise InputError(f"{name}: has {key} {value}; set model.{key}={value}")
        return made
    assert isinstance(section, ForeignConfig)
    given = section.adapter
    feed = _told(made, section)
    if section.task == "detection":
        return DetectionAdapter(made, *feed, given.stride, stack=_stacked(made, section), label=given.label)
    sigmoid = isinstance(list(made.modules())[-1], nn.Sigmoid)
    output = given.output or ("probability" if sigmoid else "logits")
    more = {"output": output, "pick": given.pick, "deep": given.deep}
    return SegmentationAdapter(made, *feed, given.stride, stack=_stacked(made, section), **more)


def _first(module: nn.Module) -> nn.Module | None:
    return next((m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)), None)


def _stacked(module: nn.Module, section: ForeignConfig) -> bool:
    return not isinstance(_first(module), nn.Conv3d) if section.adapter.stack is None else section.adapter.stack


def _told(module: nn.Module, section: ForeignConfig) -> tuple[int, int]:
    """Channels of each frame as the module's first convolution takes them, and T."""
    if section.adapter.in_channels is not None:
        return section.adapter.in_channels, section.frames
    first, places = _first(module), section.frames if _stacked(module, section) else 1
    channels = getattr(first, "in_channels", 0)
    if not channels or channels % places:
        takes = f"its first convolution takes {channels} channels" if channels else "it has no convolution"
        raise InputError(
            f"{section.network}: cannot tell what {section.frames} frame(s) it takes: {takes}; set model.frames, or "
            "model.adapter.in_channels and model.adapter.stack"
        )
    return channels // places, section.frames


def _picked(found: Any, pick: int | str, module: nn.Module) -> Any:
    try:
        return found[pick]
    except (LookupError, TypeError):
        have = f"the keys {', '.join(map(str, found))}" if isinstance(found, Mapping) else f"{len(found)} maps"
        raise InputError(f"{type(module).__name__} gives {have}, and pick={pick!r} is none of them") from None


def _leaves(found: Any) -> list[torch.Tensor]:
    """The tensors in nested lists and dicts."""
    if isinstance(found, torch.Tensor):
        return [found]
    inner = found.values() if isinstance(found, Mapping) else found if isinstance(found, list | tuple) else ()
    return [leaf for part in inner for leaf in _leaves(part)]


def _described(value: Any) -> str:
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiou" else "a"
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    return f"a {kind} of {len(value)}" if isinstance(value, list | tuple) else f"{article} {kind}"
