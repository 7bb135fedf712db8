"""Activation checkpointing: the same bits, statistics counted once, less kept; alone and under DDP."""

from __future__ import annotations

import pytest
import torch
from runs import Keeper
from safetensors.torch import load_file
from torch import distributed, nn
from torch.autograd.graph import saved_tensors_hooks

from irstd import config as configuration
from irstd.config import DGRConfig
from irstd.data.manifest import read_all
from irstd.errors import InputError
from irstd.models import build_model
from irstd.models.bp_fpn import BPFPN
from irstd.models.contract import Model
from irstd.models.ggl_net import GGLNet
from irstd.models.recompute import recomputed
from irstd.training import loop
from irstd.training.identity import identity

NETWORKS = {
    "ggl-net": (lambda: GGLNet(width=4), (2, 1, 64, 48), 0.22),
    "sbam": (lambda: GGLNet(1, 4, fusion="sbam", supplement="add"), (2, 1, 64, 48), 0.24),
    "bp-fpn": (lambda: BPFPN(3, width=0.125, dgr=DGRConfig(hard_isolation=True)), (2, 3, 64, 64), 0.75),
}
"""How to build each, its input, and the share of the kept memory that checkpointing may leave at the most."""


def passed(model: nn.Module, given: torch.Tensor, checkpointing: bool) -> tuple[dict[str, torch.Tensor], int]:
    """One forward and backward pass: gradients and buffers by name, and the bytes that were kept between the two."""
    kept: dict[int, torch.Tensor] = {}
    model.activation_checkpointing = checkpointing

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x  # and hold it: an address that is given again is another tensor
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        output = model(given)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    size = sum(x.untyped_storage().nbytes() for place, x in kept.items() if place not in own)
    output.square().mean().backward()
    found = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return found | dict(model.named_buffers()) | {"output": output.detach()}, size


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_statistics_are_the_same_to_the_bit(name):
    build, shape, share = NETWORKS[name]
    given = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found, sizes = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        values, size = passed(build().train().to(memory_format=torch.channels_last), given, checkpointing)
        found.append(values)
        sizes.append(size)
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        other = found[1][key]
        assert (value is None and other is None) or torch.equal(value, other), key
    assert sizes[1] < share * sizes[0], sizes


def test_statistics_are_added_once():
    block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True)).train()
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    y = recomputed(block, x)
    after_forward = {k: v.clone() for k, v in block.state_dict().items()}
    y.sum().backward()
    assert all(torch.equal(v, after_forward[k]) for k, v in block.state_dict().items())
    assert int(block[1].num_batches_tracked) == 1 and x.grad is not None


def test_evaluation_recomputes_nothing():
    model = GGLNet(1, 4).eval()
    image = torch.rand(1, 1, 32, 32)
    calls = []
    model.stem.register_forward_hook(lambda *_: calls.append(1))
    expected = model(image)
    model.activation_checkpointing = True
    found = model(image)
    found.sum().backward()
    assert torch.equal(found, expected) and len(calls) == 2


# In a run


def tiny(**more):
    base = {"model.width": 4, "model.in_channels": 1, "data.crop": 32, "train.batch": 4, "train.epochs": 1}
    return configuration.load(overrides=base | {k.replace("__", "."): v for k, v in more.items()})


def weights(config, shards, folder):
    folder.mkdir()
    loop.fit(config, shards, Keeper(folder), log=lambda line: None)
    return load_file(folder / "epoch-1" / "model.safetensors")


@pytest.mark.slow
def test_a_run_under_ddp_ends_with_the_same_bits(sample_shards, tmp_path):
    checkpointing = tiny(train__activation_checkpointing=True)
    expected = weights(tiny(), sample_shards, tmp_path / "kept")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        grouped = weights(checkpointing, sample_shards, tmp_path / "grouped")
    finally:
        distributed.destroy_process_group()
    assert grouped.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in grouped.items())


def test_it_is_no_part_of_a_runs_identity(sample_shards):
    manifests = read_all(sample_shards)
    assert identity(tiny(train__activation_checkpointing=True), manifests) == identity(tiny(), manifests)


def test_compilation_beside_it_is_refused():
    """torch.compile follows no statistics that are put aside: it would stop in the first step."""
    with pytest.raises(InputError, match=r"train\.compile.*train\.activation_checkpointing.*choose one"):
        tiny(train__activation_checkpointing=True, train__compile=True)


def test_a_network_that_cannot_is_refused_in_one_line(monkeypatch):
    assert build_model(tiny(train__activation_checkpointing=True)).activation_checkpointing
    monkeypatch.setattr(GGLNet, "checkpoints", Model.checkpoints)
    with pytest.raises(InputError, match=r"activation_checkpointing=true: ggl-net keeps") as caught:
        build_model(tiny(train__activation_checkpointing=True))
    assert "\n" not in str(caught.value)
