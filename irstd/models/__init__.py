"""Networks for infrared small-target detection, and how they are built from the configuration.

Names are resolved when they are asked for, so that `irstd --help` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from irstd.errors import InputError

if TYPE_CHECKING:
    from irstd.config import Config
    from irstd.models.bp_fpn import BPFPN
    from irstd.models.contract import Detections, Model
    from irstd.models.ggl_net import GGLNet

__all__ = ["BPFPN", "Detections", "GGLNet", "build_model"]


def __getattr__(name: str) -> Any:
    if name == "GGLNet":
        from irstd.models.ggl_net import GGLNet

        return GGLNet
    if name == "BPFPN":
        from irstd.models.bp_fpn import BPFPN

        return BPFPN
    if name == "Detections":
        from irstd.models.contract import Detections

        return Detections
    raise AttributeError(f"module 'irstd.models' has no attribute {name!r}")


def build_model(config: Config) -> Model:
    """The network that `config.model` names, with fresh weights, its loss, its threshold and the size of its input."""
    from irstd.models.resize import Resize

    options = {name: getattr(config.model, name) for name in type(config.model).model_fields if name != "name"}
    if config.model.name == "bp-fpn":
        from irstd.models.bp_fpn import BPFPN

        if not options["bp"]:
            options |= {"gils": None, "dgr": None}
        model: Model = BPFPN(**options)
    else:
        from irstd.models.ggl_net import GGLNet

        model = GGLNet(**options)
    if config.train.activation_checkpointing and not model.checkpoints:
        raise InputError(
            f"train.activation_checkpointing=true: {config.model.name} keeps its activations; leave it out"
        )
    model.activation_checkpointing = config.train.activation_checkpointing
    model.loss_config = config.train.loss
    model.threshold = config.evaluate.threshold
    model.resize = Resize.of(config.data, config.model.operator if getattr(model, "takes_gradient", False) else None)
    return model
