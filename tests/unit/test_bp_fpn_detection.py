"""From raw predictions to losses and detections: decoding, SimOTA, similarities, suppression, bad boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from irstd.config import LossConfig
from irstd.errors import InputError
from irstd.models.bp_fpn import BPFPN
from irstd.models.bp_fpn.assignment import assign
from irstd.models.bp_fpn.head import cells, decode
from irstd.models.bp_fpn.losses import detection_loss
from irstd.models.bp_fpn.postprocess import LARGEST, detections_of
from irstd.models.bp_fpn.similarity import gaussian, iou

CPU = torch.device("cpu")
HALF = math.log(2)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def raw(height: int = 4, width: int = 4, objectness: float = -20.0) -> torch.Tensor:
    """One key frame without any detection: each cell predicts 8 x 8 px around its top left corner."""
    found = torch.zeros(1, 6, height, width)
    found[:, 4] = objectness
    return found


def put(raw_BCHW: torch.Tensor, row: int, column: int, box: tuple, objectness: float, label: float = 20.0) -> None:
    """Let one cell predict the box (x, y, w, h)."""
    x, y, w, h = box
    raw_BCHW[0, :, row, column] = torch.tensor(
        [(x + w / 2) / 8 - column, (y + h / 2) / 8 - row, math.log(w / 8), math.log(h / 8), objectness, label]
    )


# Boxes and similarities


def test_decoding_by_hand():
    raw_BCHW = torch.zeros(1, 7, 2, 3)
    raw_BCHW[0, :, 1, 2] = torch.tensor([0.5, -0.25, 0.0, math.log(2), 3.0, 4.0, 5.0])
    boxes, objectness, classes = decode(raw_BCHW)
    assert boxes[0, 5].tolist() == pytest.approx([(2 + 0.5) * 8, (1 - 0.25) * 8, 8, 16])
    assert objectness[0, 5] == 3 and classes[0, 5].tolist() == [4, 5]
    assert boxes[0, 1].tolist() == [8, 0, 8, 8]
    raw_BCHW[:, 2:4] = 1e4
    assert decode(raw_BCHW)[0].isfinite().all()


def test_similarities_by_hand():
    a = torch.tensor([10.0, 10.0, 4.0, 4.0])
    b = torch.tensor([12.0, 10.0, 4.0, 8.0])
    assert iou(a, b).item() == pytest.approx(8 / (16 + 32 - 8))
    assert iou(a, a).item() == 1 and iou(a, a + torch.tensor([9.0, 0, 0, 0])).item() == 0
    # centres 2 px apart, half heights 2 px apart
    assert gaussian(a, b, 12.8).item() == pytest.approx(math.exp(-math.sqrt(4 + 4) / 12.8), rel=1e-6)
    assert gaussian(a, a, 12.8).item() == pytest.approx(1, abs=1e-4)


def test_similarities_have_finite_gradients_everywhere():
    for value in (iou, lambda a, b: gaussian(a, b, 12.8)):
        a = torch.tensor([[10.0, 10, 4, 4], [50, 10, 4, 4], [10, 10, 0, 0]], requires_grad=True)
        value(a, torch.tensor([10.0, 10, 4, 4])).sum().backward()
        assert a.grad.isfinite().all()


# SimOTA


def assigned(targets, boxes, **more):
    """On a grid of 4 x 4 cells, all of one objectness and class."""
    count = len(targets)
    return assign(
        torch.tensor(targets, dtype=torch.float32).reshape(-1, 4),
        torch.zeros(count, dtype=torch.long),
        boxes,
        torch.zeros(16),
        torch.zeros(16, 1),
        cells(4, 4, CPU),
        **more,
    )


def far() -> torch.Tensor:
    """What each cell predicts: a box far from everything."""
    return torch.tensor([500.0, 500.0, 8.0, 8.0]).repeat(16, 1)


def test_a_target_gets_its_best_cell():
    target, boxes = (12.0, 12.0, 8.0, 8.0), far()
    boxes[5] = torch.tensor(target)  # the cell of its centre
    boxes[6] = torch.tensor([14.0, 12.0, 8.0, 8.0])  # IoU 48 / 80
    found = assigned([target], boxes)
    # The similarities sum to 1.6: one cell.
    assert found.cell_K.tolist() == [5] and found.target_K.tolist() == [0]
    assert found.overlap_K.tolist() == [1]


def test_a_target_gets_as_many_cells_as_its_similarities_sum_to():
    target, boxes = (16.0, 16.0, 16.0, 16.0), far()
    for cell in (5, 6, 9):
        boxes[cell] = torch.tensor(target)
    boxes[10] = torch.tensor([20.0, 16.0, 16.0, 16.0])  # IoU .6
    assert assigned([target], boxes).cell_K.tolist() == [5, 6, 9]


def test_cells_outside_the_box_or_far_from_its_centre_cost_more():
    """A perfect prediction by a cell beside the target loses against a poor one by a cell in it."""
    target, boxes = (12.0, 12.0, 8.0, 8.0), far()
    boxes[6] = torch.tensor(target)  # centre (20, 12): near, but outside the box
    boxes[5] = torch.tensor([13.0, 13.0, 20.0, 20.0])
    assert assigned([target], boxes).cell_K.tolist() == [5]


def test_only_cells_in_the_box_or_near_its_centre_are_asked():
    target, boxes = (4.0, 4.0, 4.0, 4.0), far()
    boxes[15] = torch.tensor(target)  # centre (28, 28), more than 20 px away
    assert assigned([target], boxes).cell_K.tolist() == [0]


def test_a_contested_cell_goes_to_the_target_that_it_costs_least():
    boxes = far()
    boxes[5] = torch.tensor([12.0, 12.0, 8.0, 8.0])
    found = assigned([(11.0, 12.0, 8.0, 8.0), (12.0, 12.0, 8.0, 8.0)], boxes)
    assert found.target_K[found.cell_K == 5].tolist() == [1]
    assert len(set(found.cell_K.tolist())) == len(found.cell_K)


@pytest.mark.parametrize("better", [5, 6])
def test_cells_that_score_the_class_are_preferred(better):
    target = torch.tensor([[16.0, 16.0, 16.0, 16.0]])
    boxes, objectness, classes = far(), torch.zeros(16), torch.zeros(16, 2)
    boxes[[5, 6]] = target
    boxes[[5, 6], 2] = 11.0  # IoU .6875 each: the sum is 1.375, one cell
    classes[better] = torch.tensor([-5.0, 5.0])
    found = assign(target, torch.tensor([1]), boxes, objectness, classes, cells(4, 4, CPU))
    assert found.cell_K.tolist() == [better]


def test_the_gaussian_similarity_tells_near_from_far_where_boxes_do_not_touch():
    """Two cells of one target of 2 px, neither box touches it: IoU cannot choose, the Gaussian distance takes the near one."""
    target = (16.0, 16.0, 2.0, 2.0)
    boxes = far()
    boxes[10] = torch.tensor([20.0, 16.0, 2.0, 2.0])  # a later cell, nearer
    boxes[5] = torch.tensor([30.0, 16.0, 2.0, 2.0])
    assert assigned([target], boxes).overlap_K.tolist() == [0]
    found = assigned([target], boxes, kind="gaussian")
    assert found.cell_K.tolist() == [10]
    assert found.overlap_K.item() == pytest.approx(math.exp(-4 / 12.8), rel=1e-4)


def test_no_target_assigns_nothing():
    found = assigned([], far())
    assert [len(part) for part in found] == [0, 0, 0]


# The loss


def test_the_loss_by_hand():
    """Two cells of one target: one assigned with IoU .6, all 16 cells at objectness 1/2, class at 1/2."""
    raw_BCHW = raw(objectness=0.0)
    raw_BCHW[:, 0] = 50
    put(raw_BCHW, 1, 1, (10, 8, 8, 8), 0.0, 0.0)
    loss, parts = detection_loss(raw_BCHW, [np.array([[8, 8, 8, 8]])], LossConfig())
    assert parts["cells"] == 1
    assert parts["box"].item() == pytest.approx(1 - 0.6**2, rel=1e-5)
    assert parts["objectness"].item() == pytest.approx(16 * HALF, rel=1e-5)
    assert parts["classification"].item() == pytest.approx(HALF, rel=1e-5)
    assert loss.item() == pytest.approx(5 * 0.64 + 17 * HALF, rel=1e-5)
    weighed, _ = detection_loss(raw_BCHW, [np.array([[8, 8, 8, 8]])], LossConfig(box=1, objectness=0, classification=2))
    assert weighed.item() == pytest.approx(0.64 + 2 * HALF, rel=1e-5)
    gaussian_loss, parts = detection_loss(raw_BCHW, [np.array([[8, 8, 8, 8]])], LossConfig(similarity="gaussian"))
    assert parts["box"].item() == pytest.approx(1 - math.exp(-2 / 12.8) ** 2, rel=1e-4)


def test_objectness_by_focal_loss():
    """The same as above: one of 16 cells is wanted, each at 1/2, so that every term has (1 - 1/2)^gamma."""
    raw_BCHW = raw(objectness=0.0)
    raw_BCHW[:, 0] = 50
    put(raw_BCHW, 1, 1, (10, 8, 8, 8), 0.0, 0.0)
    config = LossConfig(objectness_focal=True, focal_gamma=3, focal_alpha=0.2)
    _, parts = detection_loss(raw_BCHW, [np.array([[8, 8, 8, 8]])], config)
    assert parts["objectness"].item() == pytest.approx((0.2 + 15 * 0.8) * 0.5**3 * HALF, rel=1e-5)
    assert parts["box"].item() == pytest.approx(1 - 0.6**2, rel=1e-5)


def test_the_class_of_an_assigned_cell_should_score_its_overlap():
    raw_BCHW = torch.zeros(1, 7, 4, 4)
    raw_BCHW[:, 0] = 50
    put_in = torch.tensor([14 / 8 - 1, 12 / 8 - 1, 0.0, 0.0, 0.0])
    raw_BCHW[0, :5, 1, 1] = put_in
    raw_BCHW.requires_grad_()
    loss, _ = detection_loss(raw_BCHW, [np.array([[8, 8, 8, 8]])], LossConfig(), classes=[np.array([1])])
    loss.backward()
    # dBCE/dlogit = sigmoid(0) - target: the target's class should score its IoU of .6, the other one 0.
    assert raw_BCHW.grad[0, 5:, 1, 1].tolist() == pytest.approx([0.5, 0.5 - 0.6], abs=1e-5)


def test_cells_beyond_the_true_size_do_not_count():
    _, parts = detection_loss(raw(objectness=0.0), [np.zeros((0, 4))], LossConfig(), torch.tensor([[17, 32]]))
    assert parts["objectness"].item() == pytest.approx(8 * HALF, rel=1e-5)


@pytest.mark.parametrize("similarity", ["iou", "gaussian"])
def test_no_target_gives_a_finite_loss_and_gradients_for_all(similarity):
    raw_BCHW = torch.randn(2, 6, 4, 4, requires_grad=True)
    loss, parts = detection_loss(raw_BCHW, [np.zeros((0, 4))] * 2, LossConfig(similarity=similarity))
    loss.backward()
    assert parts["box"] == parts["classification"] == parts["cells"] == 0
    assert loss.isfinite() and raw_BCHW.grad.isfinite().all() and raw_BCHW.grad[:, 4].all()


# Detections


def test_detections_by_score_in_pixels():
    raw_BCHW = raw()
    put(raw_BCHW, 0, 0, (2, 3, 5, 6), 0.0)
    put(raw_BCHW, 2, 3, (20, 10, 8, 8), 3.0)
    (found,) = detections_of(raw_BCHW, 30, 30)
    np.testing.assert_allclose(found.boxes_N4, [[20, 10, 8, 8], [2, 3, 5, 6]], atol=1e-4)
    assert found.scores_N.tolist() == pytest.approx([1 / (1 + math.exp(-3)), 0.5], rel=1e-5)
    assert found.boxes_N4.dtype == found.scores_N.dtype == np.float32
    assert found.mask_HW is None and found.probability_HW is None
    assert found.above(0.5).scores_N.tolist() == pytest.approx([1 / (1 + math.exp(-3))])


def test_scores_are_objectness_times_class():
    raw_BCHW = raw()
    put(raw_BCHW, 1, 1, (8, 8, 8, 8), 0.0, 0.0)
    (found,) = detections_of(raw_BCHW, 32, 32)
    assert found.scores_N.tolist() == [0.25]
    assert len(detections_of(raw_BCHW, 32, 32, min_score=0.26)[0]) == 0


def test_of_two_that_overlap_more_than_the_threshold_the_better_one_stays():
    raw_BCHW = raw()
    put(raw_BCHW, 1, 1, (8, 8, 8, 8), 1.0)
    put(raw_BCHW, 1, 2, (9, 8, 8, 8), 2.0)  # IoU 56 / 72 = .78
    (found,) = detections_of(raw_BCHW, 32, 32)
    assert found.boxes_N4.tolist() == [pytest.approx([9, 8, 8, 8], abs=1e-4)]
    assert len(detections_of(raw_BCHW, 32, 32, nms=0.8)[0]) == 2
    put(raw_BCHW, 1, 2, (10, 8, 8, 8), 2.0)  # IoU 48 / 80 = .6
    assert len(detections_of(raw_BCHW, 32, 32)[0]) == 2


def test_classes_do_not_suppress_each_other():
    raw_BCHW = torch.cat((raw(), torch.full((1, 1, 4, 4), -20.0)), dim=1)
    for column, logits in ((1, (20.0, -20.0)), (2, (-20.0, 20.0))):
        raw_BCHW[0, :, 1, column] = torch.tensor([12 / 8 - column, 0.5, 0.0, 0.0, 1.0, *logits])
    assert len(detections_of(raw_BCHW, 32, 32)[0]) == 2


def test_boxes_end_at_the_border():
    raw_BCHW = raw()
    put(raw_BCHW, 0, 0, (-4, -2, 10, 10), 1.0)
    put(raw_BCHW, 3, 3, (26, 27, 8, 8), 0.0)
    put(raw_BCHW, 3, 0, (-9, 20, 8, 8), 5.0)  # outside
    (found,) = detections_of(raw_BCHW, 30, 31)
    np.testing.assert_allclose(found.boxes_N4, [[0, 0, 6, 8], [26, 27, 5, 3]], atol=1e-4)


def test_a_frame_gives_a_hundred_detections_at_most():
    raw_BCHW = raw(16, 16, objectness=2.0)
    raw_BCHW[:, 2:4] = -2.0  # small boxes, none overlaps
    assert len(detections_of(raw_BCHW, 128, 128)[0]) == LARGEST == 100


# The contract


def batch(sizes, frames=2, dtype=np.uint16):
    random = np.random.default_rng(0)
    height, width, count = max(h for h, _ in sizes), max(w for _, w in sizes), len(sizes)
    found = np.zeros((count, frames, height, width), dtype)
    for b, (h, w) in enumerate(sizes):
        found[b, :, :h, :w] = random.integers(7000, 7300, (frames, h, w))
    return {
        "frames": found,
        "offset": np.full(count, 7000, np.float32),
        "scale": np.full(count, 1 / 300, np.float32),
        "size": np.array(sizes, np.int64),
        "boxes": [np.array([[4, 5, 6, 7]], np.float32)] * count,
        "key": [("s/q", b) for b in range(count)],
    }


def small(**switches) -> BPFPN:
    return BPFPN(2, width=0.125, **switches)


def test_prediction_does_not_see_padding_or_neighbours():
    model, given = small().eval(), batch([(33, 40), (21, 18)])
    both = model.predict(given)
    alone = {k: v[1:] for k, v in given.items()}
    alone["frames"] = alone["frames"][..., :21, :18]
    (single,) = model.predict(alone)
    np.testing.assert_allclose(both[1].boxes_N4, single.boxes_N4, atol=1e-4)
    np.testing.assert_allclose(both[1].scores_N, single.scores_N, atol=1e-5)
    assert ((both[1].boxes_N4[:, :2] + both[1].boxes_N4[:, 2:]) <= (18, 21)).all()


def test_prediction_is_the_networks_output_decoded():
    model, given = small(min_score=0.2, nms=0.5).eval(), batch([(32, 40)])
    x = (torch.from_numpy(given["frames"].astype(np.float32)) - 7000) / 300
    with torch.no_grad():
        (expected,) = detections_of(model(x), 32, 40, 0.2, 0.5)
    (found,) = model.predict(given)
    np.testing.assert_allclose(found.boxes_N4, expected.boxes_N4, atol=1e-4)
    np.testing.assert_allclose(found.scores_N, expected.scores_N, atol=1e-5)


def test_a_batch_without_any_target_trains_without_nan():
    model, given = small().train(), batch([(32, 32), (32, 32)])
    given["boxes"] = [np.zeros((0, 4), np.float32)] * 2
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(3):
        loss, parts = model.loss(given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.isfinite() and parts["cells"] == 0
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_motion_branch_pulls_p3():
    """Its part is the mean square between P3 and what it makes of the frames, and enters with its weight."""
    model = small(motion_branch=True, bp=False).train()
    loss, parts = model.loss(batch([(32, 32)]))
    model.loss_config = LossConfig(motion=3)
    assert set(parts) == {"box", "objectness", "classification", "cells", "motion"}
    rest = 5 * parts["box"] + parts["objectness"] + parts["classification"]
    assert (loss - rest).item() == pytest.approx(parts["motion"].item(), rel=1e-3, abs=1e-4)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.nn.init.zeros_(model.motion.mapping2[0].weight)
    x = torch.rand(1, 2, 32, 32)
    p3 = model.levels(x).p3
    image = model.image(x[0])[0]
    assert model.motion(image[None], p3[None]).item() == pytest.approx(p3.square().mean().item(), rel=1e-5)


def test_slices_carry_a_state_on():
    """The first slice's state starts at 0, so that attention has something to look at from the second one on."""
    model = small(motion_branch=True, motion_slices=3).train()
    model.loss(batch([(32, 32)]))[0].backward()
    assert all(p.grad is not None for p in model.parameters())
    first, second, last = (part.motion for part in model.motion.slices)
    assert first.gates.weight.grad.any() and second.past.in_proj_weight.grad.any()
    assert second.future.in_proj_weight.grad.any() and last is None


def test_classes_are_asked_for():
    model, given = small(classes=2).train(), batch([(32, 32)])
    with pytest.raises(InputError, match="head of 2 classes"):
        model.loss(given)
    assert model.loss(given | {"classes": [np.array([1])]})[0].isfinite()


@pytest.mark.parametrize(
    "box", [(40, 4, 6, 7), (-3, 4, 6, 7), (4, 30, 6, 7), (4, 4, 0, 7), (4, 4, 6, -1), (math.nan, 4, 6, 7)]
)
def test_a_box_that_no_frame_can_have_is_named(box):
    given = batch([(32, 32)])
    given["boxes"] = [np.array([box], np.float32)]
    with pytest.raises(InputError, match="s/q.*empty or outside its frame 32 x 32") as caught:
        small().loss(given)
    assert "\n" not in str(caught.value)


def test_boxes_are_asked_for():
    given = batch([(32, 32)])
    del given["boxes"]
    with pytest.raises(InputError, match="learns from boxes"):
        small().loss(given)


@pytest.mark.parametrize("name", ["loss", "predict"])
def test_frames_that_are_no_numbers_or_too_few_are_refused(name):
    model = small().eval()
    with pytest.raises(InputError, match="NaN or infinity"):
        getattr(model, name)(batch([(32, 32)]) | {"scale": np.array([np.inf], np.float32)})
    with pytest.raises(InputError, match="T=2 frames, got 3"):
        getattr(model, name)(batch([(32, 32)], frames=3))
