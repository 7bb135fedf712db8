"""GGL-Net trained beside the plain form of its authors' module: the same weights, batches and optimizer, loss by loss."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from irstd import config as configuration
from irstd.bench.plain_ggl_net import PlainGGLNet
from irstd.models import build_model
from irstd.training.step import Stepper

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "ggl-net-sirst-authors.yaml"
PLAIN = {
    "data.flips": False,
    "data.quarter_turns": False,
    "data.contrast": 0,
    "data.brightness": 0,
    "data.zoom": 0,
    "data.shift": 0,
    "data.noise": 0,
    "data.resize": "native",
    "model.width": 8,
}
STEPS = 6


def soft_iou(probability_B1HW: torch.Tensor, mask_B1HW: torch.Tensor) -> torch.Tensor:
    """As the released code writes it, on probabilities."""
    overlap = (probability_B1HW * mask_B1HW).sum((1, 2, 3))
    union = probability_B1HW.sum((1, 2, 3)) + mask_B1HW.sum((1, 2, 3)) - overlap
    return 1 - ((overlap + 1) / (union + 1)).mean()


def batches(count: int, batch: int = 4, side: int = 32) -> list[dict]:
    """Noise with a bright target of 3 x 3 pixels."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        frames = random.integers(60, 120, (batch, 1, side, side), dtype=np.uint8)
        masks = np.zeros((batch, side, side), np.uint8)
        for b, (y, x) in enumerate(random.integers(2, side - 5, (batch, 2))):
            frames[b, 0, y : y + 3, x : x + 3] = 240
            masks[b, y : y + 3, x : x + 3] = 1
        found.append(
            {
                "frames": frames,
                "offset": np.zeros(batch, np.float32),
                "scale": np.full(batch, 1 / 255, np.float32),
                "size": np.full((batch, 2), side),
                "masks": masks,
                "boxes": [np.zeros((0, 4), np.float32)] * batch,
                "key": [("s/q", b) for b in range(batch)],
                "seeds": np.zeros(batch, np.uint64),
            }
        )
    return found


@pytest.mark.parametrize("synchronised", [True, False])
def test_ours_and_the_plain_module_lose_the_same_step_by_step(synchronised):
    """By the recipe of the authors' way, without augmentation.

    Synchronised: ours begins each step with the plain module's weights, and the losses are equal but for rounding. Left alone,
    Adam turns the rounding of its first steps into steps of their own; the losses stay close.
    """
    config = configuration.load(recipe=RECIPE, overrides=PLAIN, model="ggl-net")
    torch.manual_seed(0)
    ours = build_model(config).train()
    plain = PlainGGLNet(width=8).train()
    plain.load_state_dict(copy.deepcopy(ours.state_dict()))
    stepper = Stepper(ours, config, STEPS)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)
    losses = []
    for step, batch in enumerate(batches(STEPS)):
        if synchronised:
            ours.load_state_dict(plain.state_dict())
        stepper(batch, step)
        image = torch.from_numpy(batch["frames"].astype(np.float32) / 255).repeat(1, 3, 1, 1)
        logit = plain(image)
        loss = soft_iou(torch.sigmoid(logit), torch.from_numpy(batch["masks"].astype(np.float32)).unsqueeze(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((stepper.means()["loss"], float(loss.detach())))
    mine, theirs = np.array(losses).T
    np.testing.assert_allclose(mine, theirs, rtol=2e-6 if synchronised else 2e-3)
    assert len(set(np.round(theirs, 5))) == STEPS
