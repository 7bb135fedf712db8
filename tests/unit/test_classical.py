import importlib
import sys

import numpy as np
import pytest

from irstd.errors import InputError
from irstd.metrics import DetectionMetrics, pd_at_fa, threshold_within
from irstd.models.classical import CLASSICAL, chosen, local_contrast, low_rank, response_boxes, top_hat

low_rank_module = importlib.import_module("irstd.models.classical.low_rank")  # the package has the function's name

DTYPES = [np.uint8, np.uint16, np.float32]


def spot(dtype, size, height=20, pedestal=100, at=(40, 50)):
    frame = np.full((96, 112), pedestal, dtype)
    mask = np.zeros(frame.shape, bool)
    y, x = at
    mask[y : y + size, x : x + size] = True
    frame[mask] += dtype(height)
    return frame, mask


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_a_spot_of_1_to_9_px_stands_out_and_nothing_else(name, dtype, size):
    frame, mask = spot(dtype, size)
    score = CLASSICAL[name](frame)
    assert (score.dtype, score.shape) == (np.float32, frame.shape)
    assert score.min() == 0
    rows, columns = np.nonzero(score > score.max() / 2)
    assert (rows.mean(), columns.mean()) == (40 + size // 2, 50 + size // 2)
    assert score[:20].max() == score[:, :20].max() == 0
    assert pd_at_fa([score], [mask], 0.0).pd == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 9])
def test_scores_are_counts(dtype, size):
    frame, mask = spot(dtype, size)
    assert (top_hat(frame) == np.where(mask, 20, 0)).all()
    # A patch that is all target stands its height above all neighbours; one pixel is a ninth of the smallest patch.
    assert local_contrast(frame).max() == pytest.approx(20 if size > 1 else 20 / 9, rel=1e-5)


@pytest.mark.parametrize("name", CLASSICAL)
def test_sixteen_bits_are_kept(name):
    # 3 counts on a pedestal of 60,000: in 8 bits nothing is left of them, and float16 rounds to multiples of 32.
    frame, mask = spot(np.uint16, 3, height=3, pedestal=60_000)
    score = CLASSICAL[name](frame)
    assert score.max() == pytest.approx(3, rel=0.01)
    assert pd_at_fa([score], [mask], 0.0).pd == 1
    np.testing.assert_allclose(score, CLASSICAL[name]((frame - 59_900).astype(np.float32)), atol=0.05)


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_dark_spot_and_an_edge_score_nothing(name):
    frame, mask = spot(np.float32, 3, height=-20)
    assert CLASSICAL[name](frame)[mask].max() == 0
    edge = np.full((64, 64), 100, np.uint16)
    edge[:, 32:] += 50
    assert CLASSICAL[name](edge).max() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("at", [(0, 0), (0, 50), (95 - 2, 111 - 2), (40, 0)])
def test_a_spot_at_the_border_is_found(name, at):
    frame, mask = spot(np.uint16, 3, at=at)
    assert pd_at_fa([CLASSICAL[name](frame)], [mask], 0.0).pd == 1


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (5, 3)])
def test_frames_smaller_than_the_kernels(name, shape):
    assert (CLASSICAL[name](np.full(shape, 7, np.uint8)) == np.zeros(shape)).all()


def test_a_frame_that_is_a_view_is_read_as_it_looks():
    frame, _ = spot(np.uint16, 3)
    for detector in CLASSICAL.values():
        assert (detector(frame[::-1, ::2].T) == detector(frame[::-1, ::2].T.copy())).all()


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((3, 4, 4), np.uint8), r"shape \(3, 4, 4\)"),
        (np.zeros((0, 4), np.uint8), "not empty"),
        (np.zeros((4, 4), np.float64), "dtype float64"),
        (np.full((4, 4), np.nan, np.float32), "NaN"),
    ],
)
def test_what_is_not_a_frame_is_refused(name, frame, message):
    with pytest.raises(ValueError, match=message):
        CLASSICAL[name](frame)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="must be odd"):
        top_hat(np.zeros((20, 20), np.uint8), size=10)
    with pytest.raises(ValueError, match="must be odd"):
        local_contrast(np.zeros((20, 20), np.uint8), sizes=(3, 4))


# -- the slow one ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rank_two():
    """A background of rank two in patches, a target, and noise; and the target's mask."""
    rng = np.random.default_rng(0)
    rows, columns = np.arange(60)[:, None], np.arange(70)[None]
    background = 1000 + 50 * np.sin(rows / 9) + 30 * np.cos(columns / 11) + rng.normal(0, 1, (60, 70))
    mask = np.zeros(background.shape, bool)
    mask[30:33, 40:43] = True
    return background.astype(np.float32), mask


def test_robust_analysis_splits_low_rank_from_sparse():
    """What the baseline is built on: a matrix made of both comes apart again, whatever its scale."""
    pytest.importorskip("tensorly")
    rng = np.random.default_rng(1)
    low = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 60)) + 20
    sparse = np.where(rng.random(low.shape) < 0.02, 8.0, 0.0)
    for scale in (1.0, 1e4):
        found = low_rank_module._sparse((low + sparse) * scale) / scale
        assert np.linalg.norm(found - sparse) < 1e-3 * np.linalg.norm(sparse)
    assert not low_rank_module._sparse(np.zeros((9, 4))).any()


def test_low_rank_finds_a_target_and_not_its_background(rank_two):
    pytest.importorskip("tensorly")
    frame, mask = rank_two[0], rank_two[1].astype(np.float32)
    score = low_rank(frame + 40 * mask, patch=20)
    assert (score.dtype, score.shape) == (np.float32, frame.shape) and score.min() == 0
    assert score[mask > 0].mean() == pytest.approx(40, rel=0.15) and score[mask == 0].max() < 10
    assert pd_at_fa([score], [mask], 0.0).pd == 1
    # Bright targets alone, in counts, of any integer type.
    assert low_rank(frame - 40 * mask, patch=20)[mask > 0].max() < 5
    np.testing.assert_allclose(
        low_rank((frame + 40 * mask).astype(np.uint16), patch=20)[mask > 0], score[mask > 0], atol=3
    )


@pytest.mark.parametrize("length", [7, 50, 51, 96, 240, 640, 900, 2000])
def test_patches_cover_a_side(length):
    patch = min(50, length)
    starts = low_rank_module._starts(length, patch, 10)
    covered = np.zeros(length, bool)
    for start in starts:
        covered[start : start + patch] = True
    assert covered.all() and starts[-1] + patch == length
    assert len(starts) <= max(low_rank_module.MOST, -(-length // patch))
    assert length > 200 or np.diff(starts, append=starts[-1]).max() <= 10


@pytest.mark.parametrize("shape", [(1, 30), (5, 3), (34, 46)])
def test_low_rank_of_small_frames(shape):
    pytest.importorskip("tensorly")
    frame = np.full(shape, 100, np.uint8)
    assert low_rank(frame).max() == pytest.approx(0, abs=1e-3)
    frame[shape[0] // 3, shape[1] // 3] = 200
    found = low_rank(frame)
    assert found.shape == shape and (min(shape) < 10 or found.argmax() == frame.argmax())


def test_overlapping_patches_take_the_median():
    patches = np.full((1, 3, 2, 4), 5.0)
    patches[0, 1] = 100  # seen by one patch of three
    found = low_rank_module._median(patches, np.array([0]), np.array([0, 1, 2]), (2, 6))
    assert found[:, 2:4].tolist() == [[5, 5], [5, 5]]
    assert found[0].tolist() == [5, 52.5, 5, 5, 52.5, 5]


def test_without_tensorly_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorly.decomposition", None)
    with pytest.raises(InputError, match=r"low-rank needs TensorLy: pip install 'irstd\[baselines\]'"):
        low_rank(np.ones((20, 20), np.uint8))


def test_baselines_are_chosen_by_name():
    assert list(chosen(None)) == ["top-hat", "local-contrast"]
    assert list(chosen(["low-rank", "top-hat"])) == ["low-rank", "top-hat"]
    with pytest.raises(InputError, match="no baseline 'low-rnk' .did you mean 'low-rank'"):
        chosen(["low-rnk"])


# -- boxes of a response -----------------------------------------------------------------------------------------


def test_components_of_a_response_are_boxes_by_falling_score():
    score = np.zeros((60, 80), np.float32)
    score[10:13, 20:24] = 50
    score[11, 21] = 90
    score[40:42, 60:62] = 60
    boxes_N4, scores_N = response_boxes(score)
    assert boxes_N4.tolist() == [[20, 10, 4, 3], [60, 40, 2, 2]]
    deviation = score.std(dtype=float)
    assert scores_N.tolist() == pytest.approx(
        [(90 - score.mean()) / deviation, (60 - score.mean()) / deviation], rel=1e-5
    )
    # The same in other units.
    again = response_boxes(score * 1000)
    assert (again[0] == boxes_N4).all() and again[1].tolist() == pytest.approx(scores_N.tolist(), rel=1e-5)


def test_a_flat_response_has_no_box():
    boxes_N4, scores_N = response_boxes(np.full((20, 20), 3, np.float32))
    assert boxes_N4.shape == (0, 4) and scores_N.shape == (0,)


def test_the_best_hundred_boxes_are_kept():
    score = np.zeros((200, 200), np.float32)
    score[::14, ::14] = 100 + np.arange(225).reshape(15, 15)
    boxes_N4, scores_N = response_boxes(score)
    assert len(boxes_N4) == 100 and (np.diff(scores_N) <= 0).all() and boxes_N4[0].tolist() == [196, 196, 1, 1]


def test_the_threshold_within_a_rate_of_false_alarms():
    """By hand: false alarms score 9, 7, 7 and 3, targets are hit at 8 and 5, in four frames."""
    metrics = DetectionMetrics("strict")
    box, far = [10.0, 10, 4, 4], [50.0, 50, 4, 4]
    for hit, alarms in ((8, [9]), (None, [7, 7]), (5, []), (None, [3])):
        boxes = [box] * (hit is not None) + [far] * len(alarms)
        scores = [hit] * (hit is not None) + alarms
        metrics.update(np.array(boxes), np.array(scores, float), np.array([box] if hit else []))

    def above(rate):
        metrics.threshold = threshold_within(metrics, rate)
        row = metrics.compute()
        return row["hits"], row["false_alarms"]

    assert [above(rate) for rate in (0, 0.25, 0.5, 0.75, 1, 5)] == [(0, 0), (1, 1), (1, 1), (2, 3), (2, 4), (2, 4)]
    empty = DetectionMetrics("strict")
    empty.update(np.zeros((0, 4)), np.zeros(0), np.array([box]))
    assert threshold_within(empty, 1) == 0
