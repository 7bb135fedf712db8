"""Files of weights as others publish them: read as tensors alone, never unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from irstd.errors import InputError

WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
"""Under what names files hold their tensors besides a training's other state."""


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file of torch.save or safetensors by name, without the `module.` of parallel training.

    Raises: InputError where the file is missing, or cannot be read as tensors alone.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        # What torch says of a pickle of other things is advice to trust it.
        other = isinstance(error, pickle.UnpicklingError)
        why = (
            "it holds other objects, or is no file of torch.save"
            if other
            else (str(error).strip() or type(error).__name__)
        )
        raise InputError(
            f"{path}: cannot be read as tensors alone ({why.splitlines()[0]}); save its weights alone, as "
            "torch.save(network.state_dict(), FILE) does"
        ) from None
    for name in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    values = content if isinstance(content, dict) else {}
    return {str(k).removeprefix("module."): v for k, v in values.items() if isinstance(v, torch.Tensor)}
