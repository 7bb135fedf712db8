import numpy as np
import pytest

from irstd.metrics import pd_at_fa
from irstd.models.classical import CLASSICAL, local_contrast, top_hat

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
