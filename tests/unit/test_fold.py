"""Networks folded for inference are the trained ones up to rounding, and leave these as they are; so is the plain module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from irstd.bench.plain_ggl_net import PlainGGLNet
from irstd.config import GILSConfig
from irstd.models.bp_fpn import BPFPN
from irstd.models.bp_fpn.blocks import BatchNorm
from irstd.models.contract import Model
from irstd.models.fold import folded
from irstd.models.ggl_net import GGLNet


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@torch.no_grad()
def trained(model: Model, *inputs: torch.Tensor) -> Model:
    """Statistics and scales as if it had learned: the batch normalisations do something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = 1.0
    model.train()(*inputs)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize(
    "switches",
    [{}, {"fusion": "sbam"}, {"supplement": "add"}, {"gradient_branch": False}, {"border": "authors"}],
    ids=str,
)
def test_ggl_net(switches):
    model = trained(GGLNet(3, 4, **switches), torch.rand(2, 1, 64, 64))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    image_BCHW, before = torch.rand(2, 1, 50, 33), norms(model)
    fast = model.folded()
    assert norms(fast) == 0 and norms(model) == before > 0
    logit_B1HW, copied = model(image_BCHW), image_BCHW.clone()
    torch.testing.assert_close(torch.sigmoid(fast(image_BCHW)), torch.sigmoid(logit_B1HW), rtol=0, atol=1e-5)
    assert torch.equal(image_BCHW, copied) and torch.equal(fast(image_BCHW), fast(image_BCHW))
    assert logit_B1HW.std() > 0.1
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(image_BCHW), logit_B1HW)


@pytest.mark.parametrize(
    ("gils", "left"),
    [
        (GILSConfig(), 0),
        (GILSConfig(op="maxpool", level="all", fuse="gate"), 0),
        (GILSConfig(source="stem+dark2"), 1),
        (GILSConfig(norm=False), 0),
        (None, 0),
    ],
    ids=["s2d", "maxpool", "two sources", "no norm", "host"],
)
def test_bp_fpn(gils, left):
    model = BPFPN(3, width=0.125, bp=gils is not None, gils=gils)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for alpha in model.backbone.gils.alpha.values():
        nn.init.constant_(alpha, 0.7)
    model.eval()
    frames_BTHW = torch.rand(1, 3, 50, 40)
    fast = model.folded()
    assert norms(fast) == left and norms(model) > 0
    raw_BCHW = model(frames_BTHW).detach()
    assert raw_BCHW.std() > 0.1
    limit = 1e-5 * float(raw_BCHW.abs().max())
    torch.testing.assert_close(fast(frames_BTHW), raw_BCHW, rtol=0, atol=limit)
    stream, other = fast.stream(), model.stream()
    for t in range(3):
        torch.testing.assert_close(stream(frames_BTHW[:, t]), other(frames_BTHW[:, t]), rtol=0, atol=limit)


def test_only_what_follows_one_another_is_joined():
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(F.relu(self.conv(x)))

    model = trained(Apart(), torch.randn(4, 1, 8, 8))
    assert norms(folded(model)) == 1
    between = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), BatchNorm(2))
    assert norms(folded(between)) == 1


def test_a_network_without_a_folded_form_is_itself():
    class Own(Model):
        task = "segmentation"
        loss = detect = None

    model = Own()
    assert model.folded() is model and model.stream() is None


# The plain module of the benchmark


@pytest.fixture
def both() -> tuple[GGLNet, PlainGGLNet]:
    ours = trained(GGLNet(width=8, border="authors"), torch.rand(2, 1, 64, 64))
    plain = PlainGGLNet(8)
    plain.load_state_dict(ours.state_dict())
    return ours, plain.eval()


def test_the_plain_module_has_the_published_size_and_the_same_values(both):
    assert sum(p.numel() for p in PlainGGLNet().parameters()) == 8_988_093
    ours, plain = both
    image_BCHW = torch.rand(2, 1, 64, 48)
    expected = torch.sigmoid(plain(image_BCHW.repeat(1, 3, 1, 1)))
    for model in (ours, ours.folded(), ours.folded().to(memory_format=torch.channels_last)):
        torch.testing.assert_close(torch.sigmoid(model(image_BCHW)), expected, rtol=0, atol=1e-4)


def test_a_training_step_has_the_plain_modules_loss_gradients_and_statistics(both):
    ours, plain = (model.double().train() for model in both)  # rounding must not hide a difference
    for model in (ours, plain):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
    image_BCHW = torch.rand(2, 1, 48, 48, dtype=torch.float64).float().double()
    mask_BCHW = (torch.rand(2, 1, 48, 48) > 0.9).double()
    losses = []
    for model, given in ((ours, image_BCHW), (plain, image_BCHW.repeat(1, 3, 1, 1))):
        loss = F.binary_cross_entropy_with_logits(model(given), mask_BCHW)
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)
    theirs = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = float(theirs[name].grad.abs().max())
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-4 * scale + 1e-12, msg=name)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-5, atol=1e-7)
