"""The contract that every network keeps: batches of counts in, a loss or detections out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from irstd import config as configuration
from irstd.config import LossConfig
from irstd.errors import InputError
from irstd.models import build_model
from irstd.models.batch import normalised, to_device
from irstd.models.contract import detections_of
from irstd.models.losses import bce, edge_hard, focal, focal_terms, segmentation_loss, soft_iou


def batch(sizes, dtype=np.uint16, offset=7000.0, scale=1 / 300, seed=0):
    """Frames of `sizes`, zero-padded into one array, as the loader gives them."""
    random = np.random.default_rng(seed)
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    frames = np.zeros((len(sizes), 1, height, width), dtype)
    masks = np.zeros((len(sizes), height, width), np.uint8)
    for b, (h, w) in enumerate(sizes):
        frames[b, 0, :h, :w] = random.integers(offset, offset + 300, (h, w))
        masks[b, h // 2, w // 2] = 1
    count = len(sizes)
    return {
        "frames": frames,
        "masks": masks,
        "offset": np.full(count, offset, np.float32),
        "scale": np.full(count, scale, np.float32),
        "size": np.array(sizes, np.int64),
        "boxes": [np.zeros((0, 4), np.float32)] * count,
        "key": [("s/q", b) for b in range(count)],
        "seeds": np.zeros(count, np.uint64),
    }


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(configuration.load(overrides={"model.width": 4, "train.loss.bce": 1})).eval()


def test_sixteen_bits_reach_the_device_unchanged():
    counts = np.array([0, 1, 32767, 32768, 65535], np.uint16).reshape(1, 1, 1, 5)
    moved = to_device({"frames": counts}, "cpu")["frames"]
    assert moved.flatten().tolist() == counts.flatten().tolist()


def test_neighbouring_counts_stay_apart_after_normalisation():
    """300 counts at offset 7000 are 300 different values of x, exactly as (counts - offset) * scale."""
    counts = np.arange(7000, 7300, dtype=np.uint16).reshape(1, 1, 15, 20)
    given = {
        "frames": counts,
        "offset": np.array([7000], np.float32),
        "scale": np.array([1 / 300], np.float32),
        "size": np.array([[15, 20]]),
    }
    with torch.autocast("cpu", torch.bfloat16):
        x = normalised(to_device(given, "cpu"))
    assert x.dtype == torch.float32
    assert torch.equal(
        x.flatten(), (torch.arange(300, dtype=torch.float32)) * torch.tensor(1 / 300, dtype=torch.float32)
    )


def test_padding_becomes_a_copy_of_the_edge():
    x = normalised(to_device(batch([(6, 7), (4, 5)]), "cpu"))
    assert torch.equal(x[1, 0, 4:, :5], x[1, 0, 3:4, :5].expand(2, -1))
    assert torch.equal(x[1, 0, :, 5:], x[1, 0, :, 4:5].expand(-1, 2))


def test_prediction_does_not_see_padding_or_neighbours(model):
    both = model.predict(batch([(33, 40), (21, 18)]))
    given = batch([(33, 40), (21, 18)])
    alone = dict(given)
    for name in ("frames", "masks", "offset", "scale", "size"):
        alone[name] = given[name][1:]
    alone["frames"] = alone["frames"][..., :21, :18]
    alone["masks"] = alone["masks"][..., :21, :18]
    (single,) = model.predict(alone)
    assert both[0].probability_HW.shape == (33, 40)
    np.testing.assert_allclose(both[1].probability_HW, single.probability_HW, atol=1e-6)


def test_loss_is_finite_without_any_target_and_has_its_parts(model):
    given = batch([(32, 32), (32, 32)])
    given["masks"][:] = 0
    loss, parts = model.train().loss(given)
    model.eval()
    loss.backward()
    assert set(parts) == {"soft_iou", "bce"} and torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_masks_are_asked_for(model):
    given = batch([(32, 32)])
    del given["masks"]
    with pytest.raises(InputError, match="masks"):
        model.loss(given)


def test_a_stored_gradient_gives_what_a_computed_one_gives(model):
    from irstd.data.gradient import gradient_map

    given = batch([(32, 48)])
    computed = model.predict(given)[0].probability_HW
    stored = gradient_map(given["frames"][0]) * np.float32(1 / 300)
    np.testing.assert_allclose(
        model.predict(given | {"gradient": stored.astype(np.float32)})[0].probability_HW, computed, atol=2e-3
    )


def test_components_become_boxes_by_score():
    probability = np.zeros((10, 12), np.float32)
    probability[1, 1] = 0.6
    probability[2, 2] = 0.7  # touches by a corner: one component
    probability[6:8, 5:9] = 0.9
    probability[9, 0] = 0.5  # not above the threshold
    found = detections_of(probability, 0.5)
    assert found.boxes_N4.tolist() == [[5, 6, 4, 2], [1, 1, 2, 2]]
    assert found.scores_N.tolist() == pytest.approx([0.9, 0.7])
    assert found.mask_HW.sum() == 10 and len(found) == 2


def test_soft_iou_by_hand():
    logit = torch.tensor([[[[100.0, -100.0, 0.0, -100.0]]]])
    mask = torch.tensor([[[[1.0, 0.0, 0.0, 1.0]]]])
    # p = 1, 0, .5, 0: overlap 1, sums 1.5 and 2, so 1 - (1 + 1) / (1.5 + 2 - 1 + 1)
    assert float(soft_iou(logit, mask)) == pytest.approx(1 - 2 / 3.5)
    # two images are averaged, not pooled
    both = soft_iou(logit.repeat(2, 1, 1, 1), torch.cat([mask, torch.zeros_like(mask)]))
    assert float(both) == pytest.approx((1 - 2 / 3.5 + 1 - 1 / 2.5) / 2)


def test_edge_hard_by_hand():
    mask = torch.zeros(1, 1, 8, 8)
    logit = torch.zeros(1, 1, 8, 8)
    assert float(edge_hard(logit, mask)) == pytest.approx(float(bce(logit, mask)))
    mask[0, 0, 4, 4] = 1
    # 9 pixels around the target weigh 4; the hardest half are these and 23 others, each log 2
    assert float(edge_hard(logit, mask)) == pytest.approx((9 * 4 + 23) / 32 * float(np.log(2)), rel=1e-5)


def test_focal_by_hand():
    logit = torch.logit(torch.tensor([[[[0.9, 0.3, 0.2, 0.6]]]]))
    mask = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    terms = [0.25 * 0.1**2 * -np.log(0.9), 0.25 * 0.7**2 * -np.log(0.3)]
    terms += [0.75 * 0.2**2 * -np.log(0.8), 0.75 * 0.6**2 * -np.log(0.4)]
    assert float(focal(logit, mask)) == pytest.approx(sum(terms) / 2, rel=1e-5)
    # Without focus and with equal shares it is half of the cross-entropy; without a target the divisor is 1.
    assert float(focal(logit, mask, 0, 0.5)) == pytest.approx(float(bce(logit, mask)) * 4 / 2 / 2, rel=1e-5)
    assert float(focal(logit, 0 * mask, 0, 0.5)) == pytest.approx(float(bce(logit, 0 * mask)) * 4 / 2, rel=1e-5)
    total, parts = segmentation_loss(
        logit, mask, LossConfig(soft_iou=0, bce=0, focal=2, focal_gamma=0, focal_alpha=0.5)
    )
    assert float(total) == pytest.approx(2 * float(parts["focal"])) and set(parts) == {"focal"}
    assert float(parts["focal"]) == pytest.approx(float(focal(logit, mask, 0, 0.5)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_its_gradient_everywhere(gamma):
    target = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    logit = torch.tensor([0.3, -0.7, -2.0, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: focal_terms(x, target, gamma, 0.25), logit)
    sure = torch.tensor([200.0, -200.0, -200.0, 200.0], requires_grad=True)
    focal_terms(sure, target.float(), gamma, 0.25).sum().backward()
    assert torch.isfinite(sure.grad).all() and sure.grad[2] < 0 < sure.grad[3]


def test_a_weight_of_zero_leaves_a_term_out():
    logit, mask = torch.randn(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    total, parts = segmentation_loss(logit, mask, LossConfig(soft_iou=2, bce=0, edge_hard=0.5))
    assert set(parts) == {"soft_iou", "edge_hard"}
    assert float(total) == pytest.approx(2 * float(parts["soft_iou"]) + 0.5 * float(parts["edge_hard"]))
