"""Weights of YOLOX-s, trained on COCO, as a start: taken by name and shape from a local file, without unpickling."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from irstd.errors import InputError
from irstd.models.bp_fpn.network import BPFPN


@dataclass(frozen=True)
class Loaded:
    """Names of the network's tensors: those that were loaded, and those that the file lacks or has in another shape."""

    loaded: tuple[str, ...]
    left: tuple[str, ...]


def load_yolox(model: BPFPN, path: str | Path) -> Loaded:
    """Copy into `model`, in place, every tensor of the file that has the name and shape of one of the model's.

    path: YOLOX-s as released (`yolox_s.pth`: tensors under "model"), a plain file of tensors, or safetensors. At full
    width and in_channels=3 backbone and pyramid are loaded whole.

    Raises: InputError where the file cannot be read as tensors alone, or where none of the backbone's fits.
    """
    path = Path(path)
    found = _tensors(path)
    own = model.state_dict()
    fitting = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
    if not any(name.startswith("backbone.") and name.endswith("conv.weight") for name in fitting):
        raise InputError(
            f"{path}: none of its {len(found)} tensors fits the backbone of this BP-FPN; take YOLOX-s, and width=1"
        )
    model.load_state_dict(fitting, strict=False)
    return Loaded(tuple(fitting), tuple(name for name in own if name not in fitting))


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read as tensors alone ({first}); save its weights alone") from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    values = content if isinstance(content, dict) else {}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
