"""Weights that a run starts from: `train.init`, a model package or a file of `irstd weights import`."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from irstd.errors import InputError
from irstd.files import sha256_file
from irstd.models.contract import Model, load_weights


def weights_file(place: str) -> Path:
    """The safetensors behind `train.init`; `InputError` where there are none."""
    path = Path(place)
    found = path / "weights.safetensors" if path.is_dir() else path
    if not found.is_file():
        raise InputError(f"train.init={place}: no such file, and no folder of a model package")
    return found


def start_hash(place: str) -> str:
    """sha256 of the weights, which is what of `train.init` decides a result."""
    return sha256_file(weights_file(place))


def start_from(model: Model, place: str) -> str:
    """Copy the weights into the model; a line that says how many.

    All of the file's tensors must fit; the network's others keep their fresh values. Raises: InputError otherwise.
    """
    path = weights_file(place)
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"train.init={place}: not readable as safetensors ({error}); see irstd weights import"
        ) from None
    if not tensors:
        raise InputError(f"train.init={place}: holds no tensors")
    load_weights(model, tensors, f"train.init={place}", partial=True)
    return f"starts from {place}: {len(tensors)} of {len(model.state_dict())} tensors"
