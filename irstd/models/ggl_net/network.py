"""GGL-Net: an encoder-decoder for single infrared frames, guided by the gradient map at five scales.

Source: Zhao, Yu, Shi, Liu, Zhang, "Gradient-Guided Learning Network for Infrared Small Target Detection", IEEE GRSL
2023, doi 10.1109/LGRS.2023.3308783, and the authors' released code. Where the two could differ the code is followed: it
has the number of parameters that the authors print, 8.99 M.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from irstd.data.gradient import GradientSpec, Operator, gradient_magnitude_torch
from irstd.errors import InputError, nearest
from irstd.models.batch import finite
from irstd.models.contract import SegmentationModel
from irstd.models.fold import folded
from irstd.models.ggl_net.blocks import (
    DownBlock,
    Float32Conv2d,
    ResidualBlock,
    SqueezeExcitation,
    conv_bn_relu,
    local_contrast,
)
from irstd.models.ggl_net.fusion import ChannelGuide, SpatialGuide, build_fusion
from irstd.models.ggl_net.gradient_supplement import GradientSupplement
from irstd.models.recompute import kept, recomputed
from irstd.models.winograd import with_winograd

Border = Literal["replicate", "authors"]
FusionName = Literal["tgfm", "sbam", "add"]
Guidance = Literal["two-way", "channel", "spatial"]
Supplement = Literal["gsm", "add"]

STRIDE = 16
"""Height and width inside the network are multiples of this."""


class GGLNet(SegmentationModel):
    """Segments small targets in single frames.

    The defaults are the network of the released code, except that the gradient map is taken before the image is
    padded and with its border replicated; `border="authors"` is theirs. The remaining switches are for ablations.

    Training needs more than one value a channel at the deepest stage, as batch normalisation does: either two images
    or more than 16 x 16 pixels.

    Args:
        in_channels: channels of the image, and of the gradient map. 3 (grey tripled) has 8,988,093 parameters and is
            what the authors use, 1 has 8,978,877.
        width: channels of the first stage, at least 4; the stages have width * (1, 2, 4, 8, 16).
        operator: of the gradient map that the network computes: "central", "sobel" or "scharr".
        border: "replicate": the map is given, or computed from the image with a replicated border, and then padded
            like the image. "authors": always computed here, from the padded image with a border of zeros.
        gradient_branch: False leaves out the gradient supplementary modules; no gradient map is used.
        squeeze_excitation: False leaves the squeeze-and-excitation out of the gradient supplementary modules; the
            main branch keeps its own.
        supplement: how a stage takes the gradient features in: "gsm", or "add" for their plain sum.
        fusion: how the decoder joins two levels: "tgfm", ALCL-Net's "sbam", or "add".
        guidance: of "tgfm": "two-way", or one way only, "channel" (high guides low) or "spatial" (low guides high).

    Raises:
        InputError (a ValueError): a switch has an unknown value, or the sizes are too small.
    """

    checkpoints = True

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 16,
        *,
        operator: Operator = "central",
        border: Border = "replicate",
        gradient_branch: bool = True,
        squeeze_excitation: bool = True,
        supplement: Supplement = "gsm",
        fusion: FusionName = "tgfm",
        guidance: Guidance = "two-way",
    ) -> None:
        super().__init__()
        _check_choice("border", border, get_args(Border))
        _check_choice("supplement", supplement, get_args(Supplement))
        _check_choice("fusion", fusion, get_args(FusionName))
        _check_choice("guidance", guidance, get_args(Guidance))
        if in_channels < 1 or width < 4:
            raise InputError(f"GGLNet needs in_channels >= 1 and width >= 4, got {in_channels} and {width}")
        if guidance != "two-way" and fusion != "tgfm":
            raise InputError(f"guidance={guidance!r} is a part of fusion='tgfm', and fusion is {fusion!r}")

        self.in_channels = in_channels
        self.border = border
        spec = GradientSpec(operator, "zero" if border == "authors" else "replicate")
        self.gradient_spec: GradientSpec | None = spec if gradient_branch else None
        """What gradient map the network works with, to be compared with that of stored maps; None without one."""
        self.takes_gradient = gradient_branch and border == "replicate"
        """Whether forward() has a use for a stored gradient map."""

        channels = [width * 2**level for level in range(5)]
        self.stem = nn.Sequential(conv_bn_relu(in_channels, width, conv=Float32Conv2d), conv_bn_relu(width, width))
        self.stages = nn.ModuleList([nn.Sequential(ResidualBlock(width, squeeze_excitation=False))])
        self.stages.extend(nn.Sequential(DownBlock(c // 2, c)) for c in channels[1:])
        for stage, c in zip(self.stages, channels, strict=True):
            stage.append(ResidualBlock(c)).append(ResidualBlock(c))
        self.supplements = nn.ModuleList(
            GradientSupplement(in_channels, c, squeeze_excitation, supplement) if gradient_branch else nn.Identity()
            for c in channels
        )
        self.contrasts = nn.ModuleList(local_contrast(c) for c in channels)
        self.fusions = nn.ModuleList(build_fusion(fusion, guidance, 2 * c, c) for c in channels[:-1])
        self.head = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, 1, 1))
        _initialise(self)

    def forward(self, image_BCHW: torch.Tensor, gradient_BCHW: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of the target mask.

        Args:
            image_BCHW: float [B, in_channels, H, W], or [B, 1, H, W], which stands for equal channels; H, W >= 1;
                intensities normalised, about [0, 1].
            gradient_BCHW: gradient map of that image in the same units, float [B, in_channels or 1, H, W]; None
                computes it here. Without a gradient branch it is not looked at.

        Returns:
            logit_B1HW, of the image's size; the sigmoid is the probability of a target.

        Raises:
            InputError (a ValueError): the image is not floating, holds NaN or has another shape, the gradient map does
                not fit it, or one is given although `border` is "authors".
        """
        self._check_image(image_BCHW)
        height, width = image_BCHW.shape[-2:]
        bottom, right = _missing(height), _missing(width)
        padded_BCHW = F.pad(image_BCHW, (0, right, 0, bottom), mode="replicate")
        # Activation checkpointing of all levels: with the finest three alone more than half of the resident memory stayed.
        run = recomputed if self.training and self.activation_checkpointing else kept
        x_BCHW = run(self.stem, padded_BCHW)
        map_BCHW = self._gradient(image_BCHW, padded_BCHW, gradient_BCHW)

        levels = []
        for index, stage in enumerate(self.stages):
            for block in stage:
                x_BCHW = run(block, x_BCHW)
            if map_BCHW is not None:
                if index:
                    # The map is computed once and pooled, not computed again at each scale (released code).
                    map_BCHW = F.max_pool2d(map_BCHW, 2)
                x_BCHW = run(self.supplements[index], x_BCHW, map_BCHW)
            levels.append(run(self.contrasts[index], x_BCHW))

        fused_BCHW = levels.pop()
        for index in reversed(range(len(self.fusions))):
            fused_BCHW = run(self.fusions[index], fused_BCHW, levels[index])
        # Padding without a condition, and cropping by padding with less than nothing: a slice would tie an exported
        # graph to whether the example's size was a multiple of the stride.
        return F.pad(run(self.head, fused_BCHW), (0, -right, 0, -bottom))

    def folded(self) -> GGLNet:
        found = with_winograd(folded(self))
        for module in found.modules():
            if isinstance(module, SqueezeExcitation):
                module.inplace = True
        return found

    def _gradient(
        self, image_BCHW: torch.Tensor, padded_BCHW: torch.Tensor, gradient_BCHW: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The gradient map at the padded size, or None without a gradient branch."""
        spec = self.gradient_spec
        if spec is None:
            return None
        if not self.takes_gradient:
            if gradient_BCHW is not None:
                raise InputError("border='authors' computes the gradient map from the padded image; give None")
            return gradient_magnitude_torch(padded_BCHW, spec.operator, spec.padding)
        if gradient_BCHW is None:
            gradient_BCHW = gradient_magnitude_torch(image_BCHW, spec.operator, spec.padding)
        batch, _, height, width = image_BCHW.shape
        channels = gradient_BCHW.shape[1] if gradient_BCHW.ndim == 4 else 0
        if channels not in (1, self.in_channels) or gradient_BCHW.shape != (batch, channels, height, width):
            raise InputError(
                f"the gradient map {tuple(gradient_BCHW.shape)} does not fit the image {tuple(image_BCHW.shape)}; it "
                f"takes [{batch}, {self.in_channels} or 1, {height}, {width}]"
            )
        if not finite(gradient_BCHW):
            raise InputError("the gradient map holds NaN or infinity")
        return F.pad(gradient_BCHW.float(), (0, _missing(width), 0, _missing(height)), mode="replicate")

    def _check_image(self, image_BCHW: torch.Tensor) -> None:
        if not image_BCHW.is_floating_point():
            raise InputError(f"GGLNet takes normalised floating images, got {image_BCHW.dtype}")
        if not finite(image_BCHW):
            raise InputError("the image holds NaN or infinity")
        shape = tuple(image_BCHW.shape)
        if len(shape) != 4 or shape[1] not in (1, self.in_channels) or min(shape[2:]) < 1:
            raise InputError(f"GGLNet takes images [B, {self.in_channels} or 1, H >= 1, W >= 1], got {shape}")


def _missing(side: int) -> int:
    """Pixels that `side` lacks to a multiple of the stride."""
    # Written as a product, from which an exported graph can tell that each stage halves the size.
    return (side + STRIDE - 1) // STRIDE * STRIDE - side


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} {value!r} is not known; known: {', '.join(known)}{nearest(str(value), known)}")


def _initialise(module: nn.Module) -> None:
    """Kaiming-normal (fan out) convolutions with zero biases, batch normalisations 1 and 0.

    In the released code the hook reaches neither the linear layers of the squeeze-and-excitations nor the two guides
    of TGFM: these keep PyTorch's default.
    """
    if isinstance(module, ChannelGuide | SpatialGuide):
        return
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    for child in module.children():
        _initialise(child)
