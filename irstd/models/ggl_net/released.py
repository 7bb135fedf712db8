"""The names of tensors in the authors' released GGL-Net, and ours.

Source: `model/GGL_Net/model_GGL.py` of YuChuang1205/MSDA-Net. Modules in their order, layers of Sequential by number.
"""

from __future__ import annotations

from pathlib import Path

import torch

from irstd.errors import InputError

LEVELS = 5
# Within a block: what lies where in ours, and in theirs.
PLAIN = {"first.0": "layer.0", "first.1": "layer.1", "second.0": "layer.3", "second.1": "layer.4"}
DOWN = {"main.0": "layer1.0", "main.1": "layer1.1", "main.4": "layer1.4", "main.5": "layer1.5"} | {
    "shortcut.0": "layer2.0",
    "shortcut.1": "layer2.1",
}
ATTENTIVE = {"first.0": "layer1.0", "first.1": "layer1.1", "second.0": "layer2.0", "second.1": "layer2.1"} | {
    "attention.squeeze": "SEAttention.fc.0",
    "attention.excite": "SEAttention.fc.2",
}
STEM = {"0.0": "0", "0.1": "1", "1.0": "3", "1.1": "4"}
# Convolution, normalisation, squeeze-and-excitation, convolution, normalisation: both halves of a GSM.
GSM = {"0.0": "0", "0.1": "1", "1.squeeze": "3.fc.0", "1.excite": "3.fc.2", "2.0": "4", "2.1": "5"}
FUSION = {"reduce.0": "hl_layer.1", "reduce.1": "hl_layer.2", "spatial_guide.conv": "ll_layer.conv"} | {
    "channel_guide.mlp.0": "hl_layer_2.se.0",
    "channel_guide.mlp.2": "hl_layer_2.se.2",
}


def modules() -> dict[str, str]:
    """Our module with weights -> theirs."""
    found = {f"stem.{ours}": f"stage.layer1.{theirs}" for ours, theirs in STEM.items()}
    found |= {"head.0": "layer.0", "head.2": "layer.2"}
    for level in range(LEVELS):
        for place in range(3):
            block = ATTENTIVE if place else DOWN if level else PLAIN
            theirs = f"stage.resnet{level + 1}_{place + 1}"
            found |= {f"stages.{level}.{place}.{o}": f"{theirs}.{t}" for o, t in block.items()}
        for half, layer in (("gradient_block", "layer1"), ("merge", "layer2")):
            found |= {f"supplements.{level}.{half}.{o}": f"stage.Res{level + 1}.{layer}.{t}" for o, t in GSM.items()}
        found |= {f"contrasts.{level}.{n}": f"lcl{level + 1}.layer1.{n}" for n in (0, 2)}
        if level < LEVELS - 1:
            found |= {f"fusions.{level}.{o}": f"sbam{level + 1}.{t}" for o, t in FUSION.items()}
    return found


def from_released(
    tensors: dict[str, torch.Tensor], where: Path
) -> tuple[dict[str, torch.Tensor], dict[str, int], list[str]]:
    """Tensors of the authors' GGL-Net under our names, the options `in_channels` and `width`, and what is not of it.

    Raises: InputError that names what is missing, or says that the file is of another network.
    """
    known = modules()
    ours = {theirs: name for name, theirs in known.items()}
    found, left = {}, []
    for name, value in tensors.items():
        module, _, leaf = name.rpartition(".")
        if module in ours and leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            found[f"{ours[module]}.{leaf}"] = value
        else:
            left.append(name)
    missing = [theirs for name, theirs in known.items() if f"{name}.weight" not in found]
    if len(missing) > len(known) // 2:
        raise InputError(
            f"{where}: is not the authors' GGL-Net: of its {len(tensors)} tensors {len(found)} have the names of one "
            f"({next(iter(known.values()))}.weight and so on)"
        )
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"{where}: the authors' GGL-Net is not whole, it lacks {', '.join(missing[:3])}{more}")
    width, in_channels = (int(n) for n in found["stem.0.0.weight"].shape[:2])
    return found, {"in_channels": in_channels, "width": width}, left
