"""Infrared patch-image (IPI): a low-rank background, and what is sparse besides."""

from __future__ import annotations

import itertools

import numpy as np

from irstd.errors import InputError
from irstd.models.classical.frame import checked_frame

# Patches along a side, at most: the analysis takes the square of their number in time.
MOST = 16
_TOLERANCE = 1e-5  # of the matrix's largest singular value
_ITERATIONS = 200


def low_rank(frame_HW: np.ndarray, patch: int = 50, step: int = 10) -> np.ndarray:
    """What of a frame is bright, sparse and not explained by patches that resemble each other.

    The patches of a sliding window, as columns of a matrix, are split into a low-rank part (background) and a sparse one
    (targets) by robust principal component analysis; the sparse part is put back together, a pixel in several patches
    taking the median, and its negative values are left out.

    frame_HW: uint8, uint16 or float32 counts. patch, step: px, at least 1; a patch is at most half a side of the frame,
    and the step grows where there would be more than 16 patches along a side, as long as they overlap. Returns float32
    [H, W] in counts, at least 0. Raises InputError (a ValueError) for other frames, and where TensorLy, which does the
    analysis, is not installed.
    Source: Gao, Meng, Yang, Wang, Zhou and Hauptmann, Infrared patch-image model for small target detection in a single
    image, IEEE TIP 22 (2013); our reading: patches of 50 px, 10 px apart, weight of the sparse part 1 / sqrt(max(m, n)).
    """
    if patch < 1 or step < 1:
        raise InputError(f"the patch is {patch} px and the step {step} px: both must be at least 1")
    frame_HW = checked_frame(frame_HW)
    height, width = frame_HW.shape
    tall, wide = min(patch, -(-height // 2)), min(patch, -(-width // 2))
    rows, columns = _starts(height, tall, step), _starts(width, wide, step)
    windows = np.lib.stride_tricks.sliding_window_view(frame_HW.astype(np.float64), (tall, wide))
    matrix_MN = windows[np.ix_(rows, columns)].reshape(len(rows) * len(columns), -1).T
    sparse_MN = _sparse(matrix_MN).T.reshape(len(rows), len(columns), tall, wide)
    return np.maximum(_median(sparse_MN, rows, columns, (height, width)), 0).astype(np.float32)


def _starts(length: int, patch: int, step: int) -> np.ndarray:
    """First pixels of the patches along one side, evenly; together they cover it."""
    wanted = -((patch - length) // step) + 1
    count = min(wanted, max(MOST, -(-length // patch)))
    return np.unique(np.linspace(0, length - patch, count).astype(int))


def _sparse(matrix_MN: np.ndarray) -> np.ndarray:
    """The sparse part, in the matrix's units."""
    try:
        from tensorly.decomposition import robust_pca
    except ImportError:
        raise InputError("low-rank needs TensorLy: pip install 'irstd[baselines]'") from None
    largest = np.linalg.norm(matrix_MN, 2)
    if not largest:
        return np.zeros_like(matrix_MN)
    # Of a matrix TensorLy adds up the nuclear norms of both unfoldings, which are the same number: the weight is doubled
    # with them. Its tolerance is absolute, so the matrix gets the norm 1; 1.25 is the customary first penalty then.
    weight = 2 / np.sqrt(max(matrix_MN.shape))
    _, sparse_MN = robust_pca(
        matrix_MN / largest, reg_E=weight, mu_init=1.25, tol=_TOLERANCE, n_iter_max=_ITERATIONS, verbose=0
    )
    return sparse_MN * largest


def _median(patches_RCHW: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Overlapping patches as one image: the median of each pixel's values."""
    tall, wide = patches_RCHW.shape[2:]
    seen_HW = np.zeros(shape, np.intp)
    for row, column in itertools.product(rows, columns):
        seen_HW[row : row + tall, column : column + wide] += 1
    values_KHW = np.full((seen_HW.max(), *shape), np.nan)
    seen_HW[:] = 0
    for (r, row), (c, column) in itertools.product(enumerate(rows), enumerate(columns)):
        area = np.s_[row : row + tall, column : column + wide]
        np.put_along_axis(values_KHW[:, *area], seen_HW[area][None], patches_RCHW[r, c][None], axis=0)
        seen_HW[area] += 1
    return np.nanmedian(values_KHW, axis=0)
