"""Switches of the training that other codes need to be followed: rates, decay, averages, epochs that stop early."""

from __future__ import annotations

import json
import math

import pytest
import torch
from runs import Keeper
from safetensors.torch import load_file
from toys import toy

from irstd import config as configuration
from irstd.errors import InputError
from irstd.training import loop
from irstd.training.optimizer import AveragedWeights, build_optimizer, learning_rate

SSTNET = {
    "train.optimizer": "sgd",
    "train.momentum": 0.937,
    "train.weight_decay": 5e-4,
    "train.decayed": "kernels",
    "train.lr": 6.25e-4,
    "train.schedule": "yolox",
    "train.rate_by": "epoch",
    "train.floor": 0.01,
    "train.warmup_epochs": 3,
    "train.warmup_from": 0.1,
    "train.ema": 0.9999,
    "train.ema_ramp": 2000,
    "train.epochs": 100,
}
TINY = {
    "model.width": 4,
    "model.in_channels": 1,
    "data.crop": 32,
    "train.batch": 4,
    "train.epochs": 2,
    "train.lr": 2e-3,
}


class Recording:
    """A stepper that notes the keys of its batches."""

    def __init__(self, stepper, seen: list) -> None:
        self.stepper, self.seen = stepper, seen

    def __call__(self, batch, step):
        self.seen.append(batch["key"])
        self.stepper(batch, step)

    def __getattr__(self, name):
        return getattr(self.stepper, name)


def made(**more):
    return configuration.load(overrides=SSTNET | {k.replace("__", "."): v for k, v in more.items()}).train


def test_the_rate_of_sstnet_by_epochs():
    """Quadratic from a tenth over three epochs, half a cosine, the last five at a hundredth; constant within an epoch."""
    config, steps = made(), 449
    by_epoch = [learning_rate(config, epoch * steps, 100 * steps) for epoch in range(100)]
    for epoch in (0, 1, 2, 3, 50, 94, 95, 99):
        if epoch < 3:
            wanted = 0.1 + 0.9 * (epoch / 3) ** 2
        elif epoch < 95:
            wanted = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (epoch - 3) / 92))
        else:
            wanted = 0.01
        assert by_epoch[epoch] == pytest.approx(6.25e-4 * wanted, rel=1e-9), epoch
        within = {learning_rate(config, epoch * steps + step, 100 * steps) for step in (0, 1, 200, 448)}
        assert within == {by_epoch[epoch]}
    assert learning_rate(config, 100 * steps, 100 * steps) == by_epoch[99]  # what the last report asks for
    stepwise = made(train__rate_by="step")
    assert learning_rate(stepwise, 1, 100 * steps) > learning_rate(stepwise, 0, 100 * steps) == pytest.approx(6.25e-5)


def test_a_floor_under_the_cosine():
    config = made(train__schedule="cosine", train__floor=0.2, train__rate_by="step", train__warmup_epochs=None,
                  train__warmup_from=None, train__lr=1.0, train__epochs=1)  # fmt: skip
    rates = [learning_rate(config, step, 1000) for step in range(1001)]
    assert rates[0] == 1.0 and min(rates) == rates[-1] == pytest.approx(0.2)


def test_decay_of_kernels_alone():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(3, 1)
    )
    network.register_parameter("alpha", torch.nn.Parameter(torch.ones(())))
    before = {k: v.detach().clone() for k, v in network.named_parameters()}
    found = build_optimizer(network, made(train__lr=0.5, train__weight_decay=0.1))
    assert {group["momentum"] for group in found.param_groups} == {0.937}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    found.step()
    moved = {k for k, v in network.named_parameters() if not torch.equal(v, before[k])}
    assert moved == {"0.weight", "3.weight"}
    everything = build_optimizer(network, made(train__lr=0.5, train__weight_decay=0.1, train__decayed="all"))
    everything.step()
    assert all(not torch.equal(v, before[k]) for k, v in network.named_parameters() if before[k].any())


def test_averages_rise_as_yolox_has_it():
    network = torch.nn.Linear(1, 1, bias=False)
    average = AveragedWeights(network, 0.9999, 2000)
    value = float(network.weight.detach())
    for n in range(1, 6):
        with torch.no_grad():
            network.weight.fill_(n)
        average.update(network)
        decay = 0.9999 * (1 - math.exp(-n / 2000))
        value = decay * value + (1 - decay) * n
        assert float(average.values["weight"]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"train.momentum": 0.8}, ["train.momentum=0.8", "optimizer=adamw"]),
        ({"train.floor": 0.1, "train.schedule": "constant"}, ["train.floor=0.1", "schedule=constant"]),
        ({"train.ema_ramp": 2000}, ["train.ema_ramp=2000", "ema=0"]),
        ({"train.warmup_from": 0.1}, ["train.warmup_from=0.1", "no warm-up"]),
        ({"train.warmup_epochs": 3, "train.warmup": 5}, ["train.warmup_epochs=3", "warmup=5"]),
        ({"train.epoch_share": 0}, ["train.epoch_share", "greater than 0"]),
    ],
)
def test_a_switch_that_decides_nothing_is_refused(changed, words):
    with pytest.raises(InputError) as caught:
        configuration.load(overrides=changed)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_switches_that_are_not_used_leave_a_run_what_it_was():
    names = {"decayed", "ema_ramp", "epoch_share", "floor", "momentum", "rate_by", "warmup_epochs", "warmup_from"}
    assert not names & configuration.load().identity()["train"].keys()
    changed = configuration.load(overrides=SSTNET | {"train.epoch_share": 0.2}).identity()["train"]
    assert names <= changed.keys()


def test_an_epoch_that_stops_early_and_goes_on_from_within(sample_shards, tmp_path):
    """A share of the steps; the next epoch has an order of its own; a run that was killed ends with the same bits."""
    config = toy(train__epochs=2, train__epoch_share=0.5, train__val_steps=2)
    whole = loop.Run(config, sample_shards, "cpu", lambda line: None)
    steps = len(whole.loader) // 2
    assert whole.steps_per_epoch == steps and whole.total == 2 * steps and steps > 3
    seen: list = []
    whole.stepper = Recording(whole.stepper, seen)
    keeper = Keeper(tmp_path / "whole", by="step")
    whole.go(keeper)
    assert whole.step == 2 * steps and whole.epoch == 2
    first, second = seen[:steps], seen[steps:]
    assert len(seen) == 2 * steps and len({key for batch in first for key in batch}) == 4 * steps
    assert first != second
    with pytest.raises(KeyboardInterrupt):
        loop.fit(config, sample_shards, Keeper(tmp_path, die_after=2, by="step"), log=lambda line: None)
    loop.fit(config, sample_shards, Keeper(tmp_path, by="step"), resume=tmp_path / "step-2", log=lambda line: None)
    last = f"step-{2 * steps}"
    left, went_on = (load_file(f / last / "model.safetensors") for f in (tmp_path / "whole", tmp_path))
    assert all(torch.equal(left[name], went_on[name]) for name in left)
    state = json.loads((tmp_path / last / "state.json").read_text())
    assert state["loader"]["epoch"] == 2 and state["loader"]["consumed"] == 0
