"""BP-FPN on its host SSTNet: backbone and pyramid for each frame, motion-coupling neck, head of stride 8.

Sources: the host's released code (Chen et al., SSTNet) for everything but GILS and DGR; Zhang et al., "You Only Look Omni
Gradient Backpropagation for Moving Infrared Small Target Detection", arXiv 2511.13013, for what these two are for. What
of them is the paper's and what is our reading: docs/bp-fpn.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from irstd.config import DGRConfig, GILSConfig
from irstd.errors import InputError
from irstd.models.batch import Batch, finite, ignored, normalised, with_claimed_targets
from irstd.models.bp_fpn.backbone import scaled, widths
from irstd.models.bp_fpn.dgr import AuxiliaryHeads, consistency
from irstd.models.bp_fpn.gils import ALL
from irstd.models.bp_fpn.head import STRIDE, Head
from irstd.models.bp_fpn.losses import detection_loss
from irstd.models.bp_fpn.motion import MotionBranch
from irstd.models.bp_fpn.neck import MotionNeck
from irstd.models.bp_fpn.postprocess import detections_of
from irstd.models.bp_fpn.pyramid import Levels, Pyramid
from irstd.models.contract import Detections, Model
from irstd.models.fold import folded
from irstd.models.resize import Placement

if TYPE_CHECKING:
    from irstd.models.bp_fpn.stream import Stream

COARSEST = 32
"""Height and width inside the network are multiples of this."""
# ImageNet's mean and deviation, as the host's weights expect them; of grey, those of the three colours together.
MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
DEVIATION = {3: (0.229, 0.224, 0.225), 1: (0.226,)}


class BPFPN(Model):
    """Detects moving small targets in the last frame of a clip.

    Training needs more than one value a channel at the coarsest level, as batch normalisation does: more than one frame
    or more than 32 x 32 pixels.

    Args:
        frames: T, frames of a clip, the key frame last. 1 leaves the motion neck out: there is no past.
        in_channels: 3 (grey tripled) is the host, with 11,949,003 parameters at T = 5; or 1.
        bp: False is the host, without GILS and DGR.
        classes: target classes of the head.
        width: multiple of the published numbers of channels.
        motion_branch: True adds the host's training-only motion loss.
        motion_slices: slices of its ConvLSTM, 1 as released.
        frame_weights: "fixed" keeps the neck's at their start, as the host's training does.
        batch_statistics: in training, over all frames of the "clip" at once, or of each "place" in it, as the host.
        gils, dgr: what BP-FPN adds; None: the defaults, or nothing where `bp` is False.
        prior: probability that objectness and class start at, as YOLOX has it; None: biases as PyTorch draws them, as the
            host has it.
        min_score, nms: of `predict`: detections below are dropped; of two that overlap more the better one stays.

    Raises:
        InputError (a ValueError): sizes that cannot be, or gils or dgr with bp=False.
    """

    task = "detection"
    checkpoints = True

    def __init__(
        self,
        frames: int = 5,
        in_channels: int = 3,
        bp: bool = True,
        classes: int = 1,
        width: float = 1.0,
        motion_branch: bool = False,
        *,
        motion_slices: int = 1,
        frame_weights: str = "trained",
        batch_statistics: str = "clip",
        gils: GILSConfig | None = None,
        dgr: DGRConfig | None = None,
        prior: float | None = None,
        min_score: float = 0.001,
        nms: float = 0.65,
    ) -> None:
        super().__init__()
        if frames < 1 or classes < 1 or not width > 0:
            raise InputError(f"BPFPN needs frames, classes >= 1 and width > 0, got {frames}, {classes} and {width}")
        if in_channels not in MEAN:
            raise InputError(f"BPFPN takes in_channels 3 (grey tripled) or 1, got {in_channels}")
        if motion_branch and frames == 1:
            raise InputError("motion_branch needs frames of a clip, and frames=1 has no past")
        none = GILSConfig(source="none"), DGRConfig(variant="none")
        if not bp and ((gils or none[0]) != none[0] or (dgr or none[1]) != none[1]):
            raise InputError("bp=False is the host without GILS and DGR; leave gils and dgr out, or set bp=True")
        self.gils_config = gils or (GILSConfig() if bp else none[0])
        self.dgr_config = dgr or (DGRConfig() if bp else none[1])
        self.frames, self.in_channels, self.classes = frames, in_channels, classes
        self.min_score, self.nms = min_score, nms
        self.by_place = batch_statistics == "place" and frames > 1
        c = widths(width)
        # Named as in YOLOX, so that its weights load by name.
        self.backbone = Pyramid(in_channels, width, self.gils_config, self.dgr_config)
        self.neck = MotionNeck(c["dark3"], frames) if frames > 1 else None
        self.head = Head(c["dark3"], scaled(256, width), classes)
        self.motion = MotionBranch(in_channels, c["dark3"], frames, width, motion_slices) if motion_branch else None
        self.auxiliary = AuxiliaryHeads(c["dark4"]) if self.dgr_config.variant == "auxiliary" else None
        self.apply(_initialise)
        if frame_weights == "fixed" and self.neck is not None:
            self.neck.weight.requires_grad_(False)
        if prior is not None:
            self.head.start_at(prior)

    # -- forward -------------------------------------------------------------------------------------------------

    def forward(self, frames_BTHW: torch.Tensor) -> torch.Tensor:
        """Raw predictions for the last frame of each clip.

        Args:
            frames_BTHW: grey float [B, T, H, W], oldest first, key frame last; H, W >= 1; about [0, 1].

        Returns:
            raw [B, 5 + classes, ceil(H / 8), ceil(W / 8)]: x, y, w, h, objectness, classes, not activated. With column j
            and row i of a cell the box's centre is (x + j, y + i) * 8 px, its size (exp w, exp h) * 8 px; sigmoids
            give the probabilities.

        Raises:
            InputError (a ValueError): another type or shape, NaN or infinity.
        """
        self.check(frames_BTHW)
        return self.heads(self.levels(frames_BTHW).p3, frames_BTHW)

    def check(self, frames_BTHW: torch.Tensor, frames: int | None = None) -> None:
        """`InputError` for what the network cannot take. `frames`: T, where it is not the network's."""
        frames = frames or self.frames
        shape = tuple(frames_BTHW.shape)
        if not frames_BTHW.is_floating_point():
            raise InputError(f"BPFPN takes grey floating frames, about [0, 1], got {frames_BTHW.dtype}")
        if len(shape) != 4 or min(shape) < 1:
            raise InputError(f"BPFPN takes grey clips [B, T={frames}, H >= 1, W >= 1] without channels, got {shape}")
        if shape[1] != frames:
            raise InputError(f"BPFPN takes clips of T={frames} frames, got {shape[1]} in {shape}")
        if not finite(frames_BTHW):
            raise InputError("the frames hold NaN or infinity")

    def image(self, frames_NHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames padded to multiples of 32 at the bottom and right by their last row and column.

        Returns: the network's input float32 [N, in_channels, H', W'], normalised and repeated, and grey [N, 1, H', W'].
        """
        height, width = frames_NHW.shape[-2:]
        # Written as a product, from which an exported graph can tell that each stage halves the size.
        right, bottom = _up_to(width, COARSEST) - width, _up_to(height, COARSEST) - height
        grey_N1HW = F.pad(frames_NHW.float().unsqueeze(1), (0, right, 0, bottom), mode="replicate")
        channels = zip(MEAN[self.in_channels], DEVIATION[self.in_channels], strict=True)
        return torch.cat([(grey_N1HW - mean) / deviation for mean, deviation in channels], dim=1), grey_N1HW

    def levels(self, frames_BTHW: torch.Tensor) -> Levels:
        """The pyramid's maps of all frames, N = B * T, frames of a clip together."""
        everywhere = self.gils_config.frames == "all"
        rows = ALL if everywhere else slice(self.frames - 1, None, self.frames)
        self.backbone.backbone.recompute = self.training and self.activation_checkpointing
        if self.training and self.by_place:
            places = [
                self.backbone(*self.image(frames_BHW), ALL if everywhere or t == self.frames - 1 else None)
                for t, frames_BHW in enumerate(frames_BTHW.unbind(1))
            ]
            maps = zip(*places, strict=True)
            return Levels(*(None if each[0] is None else torch.stack(each, 1).flatten(0, 1) for each in maps))
        return self.backbone(*self.image(frames_BTHW.flatten(0, 1)), rows)

    def heads(self, p3_NCHW: torch.Tensor, frames_BTHW: torch.Tensor) -> torch.Tensor:
        """Neck and head on the P3 maps of whole clips; cropped to the cells that hold frame."""
        *past, key = p3_NCHW.unflatten(0, (-1, self.frames)).unbind(1)
        return self.coupled(past, key, *frames_BTHW.shape[-2:])

    def coupled(self, past: list[torch.Tensor], key_BCHW: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Neck and head on the P3 maps of the past frames, oldest first, and of the key frame [height, width] px."""
        raw_BCHW = self.head(key_BCHW if self.neck is None else self.neck(past, key_BCHW))
        # A negative padding crops: a slice would tie an exported graph to whether a size was a multiple of 32.
        right, bottom = ((_up_to(side, COARSEST) - _up_to(side, STRIDE)) // STRIDE for side in (width, height))
        return F.pad(raw_BCHW, (0, -right, 0, -bottom))

    def stream(self) -> Stream:
        """Frame by frame with the features of the last T - 1 frames kept; see `Stream`."""
        from irstd.models.bp_fpn.stream import Stream

        return Stream(self)

    def folded(self) -> BPFPN:
        return folded(self)

    # -- the contract --------------------------------------------------------------------------------------------

    def compiled_parts(self) -> list[nn.Module]:
        return [part for part in (self.backbone, self.neck, self.head) if part is not None]

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The training loss of a batch and its parts. `InputError` where the batch has no boxes, or impossible ones."""
        if batch.get("boxes") is None:
            raise InputError(f"{type(self).__name__} learns from boxes, and the batch has none")
        if self.classes > 1 and batch.get("classes") is None:
            raise InputError(
                f"a head of {self.classes} classes learns from the targets' classes, and the batch has none"
            )
        batch, _ = self.resize(self.arrived(batch))
        batch = with_claimed_targets(batch)
        boxes, classes = batch["boxes"], batch.get("classes")
        frames_BTHW = normalised(batch)
        self.check(frames_BTHW)
        levels = self.levels(frames_BTHW)
        raw_BCHW = self.heads(levels.p3, frames_BTHW)
        total, parts = detection_loss(raw_BCHW, boxes, self.loss_config, batch["size"], classes, ignored(batch, STRIDE))
        dgr = self.dgr_config
        if dgr.variant in ("feature", "gradient", "auxiliary"):
            if self.auxiliary is not None:
                value = self.auxiliary(levels, boxes, batch.get("ignore"))
                more = {"dgr": value.detach()}
            else:
                value, more = consistency(levels, dgr, boxes, total)
            ramp = min(1.0, self.progress / dgr.warmup) if dgr.warmup else 1.0
            total, parts = total + dgr.weight * ramp * value, parts | more
        if self.motion is not None:
            image_NCHW, _ = self.image(frames_BTHW.flatten(0, 1))
            shape = (-1, self.frames)
            value = self.motion(image_NCHW.unflatten(0, shape), levels.p3.unflatten(0, shape))
            total, parts = total + self.loss_config.motion * value, parts | {"motion": value.detach()}
        return total, parts

    def detect(self, batch: Batch, placements: list[Placement]) -> list[Detections]:
        """All with a score of at least `min_score`, without masks."""
        return self.decoded(self(normalised(batch)), placements)

    def decoded(self, raw_BCHW: torch.Tensor, placements: list[Placement]) -> list[Detections]:
        """What raw predictions say, in original pixels."""
        found = []
        for raw_CHW, placement in zip(raw_BCHW, placements, strict=True):
            (item,) = detections_of(raw_CHW.unsqueeze(0), *placement.placed, self.min_score, self.nms, placement.origin)
            found.append(replace(item, boxes_N4=placement.boxes_back(item.boxes_N4)))
        return found


def _up_to(side: int, multiple: int) -> int:
    return (side + multiple - 1) // multiple * multiple


def _initialise(module: nn.Module) -> None:
    """Convolutions N(0, 0.02), batch normalisations' weights N(1, 0.02) and biases 0, as the host does."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
