"""Networks for infrared small-target detection, and how they are built from the configuration.

Names are resolved when they are asked for, so that `irstd --help` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irstd.config import Config
    from irstd.models.contract import Detections, SegmentationModel
    from irstd.models.ggl_net import GGLNet

__all__ = ["Detections", "GGLNet", "build_model"]


def __getattr__(name: str) -> Any:
    if name == "GGLNet":
        from irstd.models.ggl_net import GGLNet

        return GGLNet
    if name == "Detections":
        from irstd.models.contract import Detections

        return Detections
    raise AttributeError(f"module 'irstd.models' has no attribute {name!r}")


def build_model(config: Config) -> SegmentationModel:
    """The network that `config.model` names, with fresh weights, its loss, its threshold and the size of its input."""
    from irstd.models.ggl_net import GGLNet
    from irstd.models.resize import Resize

    options = config.model.model_dump(exclude={"name"})
    model = GGLNet(**options)
    model.loss_config = config.train.loss
    model.threshold = config.evaluate.threshold
    model.resize = Resize.of(config.data, config.model.operator if model.takes_gradient else None)
    return model
