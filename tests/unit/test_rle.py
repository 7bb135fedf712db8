"""Run lengths: COCO's order, exact round trips, and refusals."""

import numpy as np
import pytest

from irstd.data import rle


def test_counts_run_down_the_columns_and_begin_with_zeros():
    mask_HW = np.array([[0, 1, 1], [0, 0, 1]], dtype=np.uint8)
    # Columns: (0, 0), (1, 0), (1, 1).
    assert rle.encode(mask_HW) == [2, 1, 1, 2]


def test_a_mask_that_begins_with_a_one_has_no_leading_zeros():
    assert rle.encode(np.array([[1, 0], [0, 0]])) == [0, 1, 3]


@pytest.mark.parametrize(("fill", "counts"), [(0, [12]), (1, [0, 12])])
def test_uniform_masks(fill, counts):
    mask_HW = np.full((3, 4), fill, dtype=np.uint8)
    assert rle.encode(mask_HW) == counts
    assert np.array_equal(rle.decode(counts, 3, 4), mask_HW)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (17, 31), (96, 128)])
def test_round_trip(share, shape):
    mask_HW = np.random.default_rng(7).random(shape) < share
    counts = rle.encode(mask_HW)
    decoded_HW = rle.decode(counts, *shape)
    assert all(type(count) is int for count in counts)
    assert sum(counts) == mask_HW.size
    assert decoded_HW.dtype == np.uint8
    assert np.array_equal(decoded_HW, mask_HW)


def test_agrees_with_counting_one_pixel_after_the_other():
    mask_HW = np.random.default_rng(8).random((23, 19)) < 0.3
    counts, value = [0], False
    for pixel in mask_HW.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    assert rle.encode(mask_HW) == counts


def test_any_value_but_zero_is_set():
    assert rle.encode(np.array([[0, 255], [0, 7]], dtype=np.uint8)) == [2, 2]


@pytest.mark.parametrize("counts", [[5], [], [3, 2], [-1, 5], [1.5, 2.5], [[4]]])
def test_decode_refuses_counts_that_are_no_mask_of_this_size(counts):
    with pytest.raises(ValueError, match="run lengths"):
        rle.decode(counts, 2, 2)


def test_encode_refuses_a_stack_of_masks():
    with pytest.raises(ValueError, match="two axes"):
        rle.encode(np.zeros((2, 3, 4)))
