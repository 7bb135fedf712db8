"""The gradient supplementary module (GSM): brings the gradient map into a stage of the main branch."""

from __future__ import annotations

import torch
from torch import nn

from irstd.models.convolution import Conv2d
from irstd.models.ggl_net.blocks import Float32Conv2d, SqueezeExcitation, conv_bn, conv_bn_relu


def gradient_block(in_channels: int, channels: int, squeeze_excitation: bool = True) -> nn.Sequential:
    """Features of the gradient map: Conv-BN-ReLU, squeeze-and-excitation, Conv-BN-ReLU."""
    attention = SqueezeExcitation(channels) if squeeze_excitation else nn.Identity()
    return nn.Sequential(
        conv_bn_relu(in_channels, channels, conv=Float32Conv2d), attention, conv_bn_relu(channels, channels)
    )


class GradientSupplement(nn.Module):
    """GSM of one stage (Zhao et al. 2023, released code).

    G = gradient block of the gradient map, pooled to this stage's size
    Z = BN(Conv(SE(ReLU(BN(Conv [M, G])))))        out = ReLU(Z + M)

    The gradient branch keeps no state: each stage starts from the map again.

    Args:
        gradient_channels: channels of the gradient map.
        channels: channels of the main branch's features M at this stage.
        squeeze_excitation: False leaves out both squeeze-and-excitations (ablation).
        mode: "gsm", or "add" for the ablation out = M + G (our reading of fusing by addition).
    """

    def __init__(
        self, gradient_channels: int, channels: int, squeeze_excitation: bool = True, mode: str = "gsm"
    ) -> None:
        super().__init__()
        self.gradient_block = gradient_block(gradient_channels, channels, squeeze_excitation)
        self.merge: nn.Sequential | None = None
        if mode == "gsm":
            attention = SqueezeExcitation(channels) if squeeze_excitation else nn.Identity()
            self.merge = nn.Sequential(conv_bn_relu(2 * channels, channels), attention, conv_bn(channels, channels))

    def forward(self, main_BCHW: torch.Tensor, gradient_BCHW: torch.Tensor) -> torch.Tensor:
        features_BCHW = self.gradient_block(gradient_BCHW)
        if self.merge is None:
            return main_BCHW + features_BCHW
        (conv, *others), *rest = self.merge
        if isinstance(conv, Conv2d):
            x_BCHW = conv.of_pair(main_BCHW, features_BCHW)
        else:  # Winograd's, for inference
            x_BCHW = conv(torch.cat((main_BCHW, features_BCHW), dim=1))
        for module in (*others, *rest):
            x_BCHW = module(x_BCHW)
        return x_BCHW.add_(main_BCHW).relu_()
