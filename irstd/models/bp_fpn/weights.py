"""Weights of YOLOX-s, trained on COCO, as a start: taken by name and shape from a local file, without unpickling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from irstd.errors import InputError
from irstd.models.bp_fpn.network import BPFPN
from irstd.models.released import read_tensors


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
    found = read_tensors(path)
    own = model.state_dict()
    fitting = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
    if not any(name.startswith("backbone.") and name.endswith("conv.weight") for name in fitting):
        raise InputError(
            f"{path}: none of its {len(found)} tensors fits the backbone of this BP-FPN; take YOLOX-s, and width=1"
        )
    model.load_state_dict(fitting, strict=False)
    return Loaded(tuple(fitting), tuple(name for name in own if name not in fitting))
