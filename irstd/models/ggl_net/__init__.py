"""GGL-Net: the gradient-guided learning network (Zhao et al., IEEE GRSL 2023)."""

from irstd.models.ggl_net.network import GGLNet

__all__ = ["GGLNet"]
