"""A network that is not ours takes one small batch before anything starts: what it does wrong is then one line."""

from __future__ import annotations

from pathlib import Path

import torch

from irstd import foreign
from irstd.config import Config, ForeignConfig
from irstd.data.manifest import Manifest
from irstd.errors import InputError
from irstd.models import build_model
from irstd.models.adapters import SegmentationAdapter
from irstd.models.batch import normalised
from irstd.models.contract import Detections, Model


def rehearse(config: Config, shards: str | Path, manifests: list[Manifest]) -> None:
    """Loss, gradient and prediction of a foreign network on up to two key frames of the train split.

    Raises: InputError where it cannot be made, breaks, or gives what is no loss or no detections.
    """
    if not isinstance(config.model, ForeignConfig):
        return
    name = config.model.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        _rehearse(name, config, shards, manifests)


def _rehearse(name: str, config: Config, shards: str | Path, manifests: list[Manifest]) -> None:
    from irstd.training.loop import loader_for

    model = build_model(config)
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(f"{name}: has no parameters to train")
    batch = next(
        iter(loader_for(config, shards, config.data.train_on, manifests, batch_size=min(2, config.train.batch)))
    )
    shape = list(batch["frames"].shape)
    try:
        _step(name, model, batch)
    except InputError as error:
        raise InputError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
    except Exception as error:
        raise InputError(f"{name}: fails on a batch of frames {shape}: {foreign.line(error)}") from error
    adapter = config.model.adapter
    if isinstance(model, SegmentationAdapter) and adapter.output is None and model.output == "logits":
        _ask_for_output(name, model, batch)


def _step(name: str, model: Model, batch: dict) -> None:
    loss, parts = model.train().loss(batch)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise InputError("its loss is not one number that depends on its parameters")
    if not torch.isfinite(loss.detach()).all():
        given = ", ".join(f"{k} {float(v.detach()):g}" for k, v in parts.items())
        raise InputError(f"its loss is {float(loss.detach()):g} on the first batch ({given})")
    loss.backward()
    found = model.eval().predict(batch)
    if len(found) != len(batch["frames"]) or not all(isinstance(item, Detections) for item in found):
        raise InputError(
            f"predict gives {len(found)} results for {len(batch['frames'])} key frames, not Detections each"
        )
    for item in found:
        if model.task == "segmentation" and item.probability_HW is None:
            raise InputError("predict gives no probability_HW, which a segmentation is measured by")


@torch.no_grad()
def _ask_for_output(name: str, model: SegmentationAdapter, batch: dict) -> None:
    """`InputError` where maps stay in [0, 1] whatever the weights: no logits do, and a sigmoid of a sigmoid learns nothing."""
    x_BTHW = normalised(model.resize(model.arrived(batch))[0])
    for _ in range(3):
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=10)
        try:
            map_B1HW = model(x_BTHW)
        except InputError:  # beyond all bounds
            return
        if map_B1HW.min() < 0 or map_B1HW.max() > 1:
            return
    raise InputError(
        f"{name}: gives values in [0, 1] alone; if these are probabilities set model.adapter.output=probability, else "
        "model.adapter.output=logits"
    )
