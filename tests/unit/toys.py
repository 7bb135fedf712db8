"""Runs of tiny networks, for tests of the loop; they import nothing of the upper stack."""

from __future__ import annotations

import sys
from pathlib import Path

TOYS = str(Path(__file__).parents[1] / "toy_networks")


def quiet(line: str) -> None:
    """A run that nobody watches."""


def toy(name: str = "Plain", **more):
    """A run of a network of two convolutions, whose steps take milliseconds."""
    from irstd import config as configuration

    if TOYS not in sys.path:
        sys.path.insert(0, TOYS)
    given = {"data.crop": 32, "train.batch": 4, "train.epochs": 3, "train.loss.bce": 1, "train.ema": 0.5}
    given |= {"train.checkpoint_every": 1} | {k.replace("__", "."): v for k, v in more.items()}
    return configuration.load(overrides=given, model=f"toy_irstd.nets:{name}")


def written(folder: Path, step: int = 1, size: int = 8) -> Path:
    """A checkpoint of a single layer, as of step `step`."""
    import torch

    from irstd.config import TrainConfig
    from irstd.training import checkpoint, optimizer

    torch.manual_seed(0)
    model = torch.nn.Linear(size, size)
    chosen = optimizer.build_optimizer(model, TrainConfig())
    model(torch.ones(1, size)).sum().backward()
    chosen.step()
    weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
    checkpoint.write(folder, weights, chosen, None, weights, {"history": [{"step": step}], "step": step})
    return folder
