"""Networks for infrared small-target detection, and how they are built from the configuration.

Names are resolved when they are asked for, so that `irstd --help` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from irstd.errors import InputError

if TYPE_CHECKING:
    from irstd.config import Config
    from irstd.models.adapters import DetectionAdapter, SegmentationAdapter
    from irstd.models.bp_fpn import BPFPN
    from irstd.models.contract import Detections, Model
    from irstd.models.ggl_net import GGLNet

__all__ = ["BPFPN", "DetectionAdapter", "Detections", "GGLNet", "SegmentationAdapter", "build_model"]

_PLACES = {
    "BPFPN": "bp_fpn",
    "DetectionAdapter": "adapters",
    "Detections": "contract",
    "GGLNet": "ggl_net",
    "SegmentationAdapter": "adapters",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'irstd.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"irstd.models.{_PLACES[name]}"), name)


def build_model(config: Config) -> Model:
    """The network that `config.model` names, with fresh weights, its loss, its threshold and the size of its input.

    A plain module is put into an adapter. Raises: InputError for what cannot be made, or is no network.
    """
    from irstd import foreign
    from irstd.models.adapters import kept_contract
    from irstd.models.resize import Resize

    section = config.model
    model = kept_contract(foreign.make(section.network, section.arguments()), section)
    if config.train.activation_checkpointing and not model.checkpoints:
        raise InputError(f"train.activation_checkpointing=true: {section.name} keeps its activations; leave it out")
    model.activation_checkpointing = config.train.activation_checkpointing
    model.loss_config = config.train.loss
    model.threshold = config.evaluate.threshold
    model.resize = Resize.of(config.data, section.stored_gradient)
    return model
