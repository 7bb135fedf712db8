"""Whether two frames show the same view: how near-duplicates are found.

A frame is reduced to local contrast: the longest side becomes a fixed number of pixels, a band-pass leaves edges and
texture, and each pixel is divided by the contrast around it. Brightness, gain, vignetting and one strong edge then weigh
little. Coarse maps of all frames are correlated with each other over all shifts; where the peak is high, finer maps are
aligned by an affine transform (G. Evangelidis, E. Psarakis, "Parametric image alignment using enhanced correlation
coefficient maximization", PAMI 2008) and correlated where they overlap.

Two horizons correlate well wherever they are: alike along one direction says nothing of the other. So the derivatives in
the direction in which the frames vary least (the minor axis of their structure tensor) have to correlate too; that is the
similarity. Measure and thresholds are our reading: docs/FORMATS.md says what they find.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

VERSION = 1  # of the measure: results of another one are not used again
COARSE, FINE = 32, 96  # pixels of the longest side
CANDIDATE = 0.65  # correlation of the coarse maps
CANDIDATE_MINOR = 0.15  # of their derivatives along the minor axis, aligned to a pixel
ALIGNED = 0.7  # of the fine maps
SAME = 0.6  # of their derivatives along the minor axis
STRUCTURE = 0.3  # rms of the fine map; noise alone stays below a third of it
OVERLAP, ALIGNED_OVERLAP = 0.6, 0.4  # of the smaller frame, at least: of the coarse maps, of the aligned ones
LARGEST_SCALE = 1.15
_BATCH = 256
_NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@dataclass(frozen=True, eq=False)
class View:
    """What is compared of a frame: maps of local contrast, float32 [h, w]; and whether there is any structure in it."""

    coarse_hw: np.ndarray
    fine_hw: np.ndarray
    structured: bool


def view(frame_HW: np.ndarray) -> View:
    """The view in a uint8 or uint16 [H, W] frame of counts."""
    counts_HW = frame_HW.astype(np.float32)
    # J. Immerkaer, "Fast noise variance estimation", 1996; the median leaves edges and targets out.
    noise = float(np.median(np.abs(cv2.filter2D(counts_HW, -1, _NOISE)))) / (0.6745 * 6)
    fine_hw = _local_contrast(counts_HW, FINE, 1.0, 6.0, noise)
    structured = float(np.sqrt(np.mean(fine_hw**2))) >= STRUCTURE
    return View(_local_contrast(counts_HW, COARSE, 0.7, 3.0, noise), fine_hw, structured)


def _local_contrast(counts_HW: np.ndarray, side: int, inner: float, outer: float, noise: float) -> np.ndarray:
    """Band-pass between two widths in pixels of the map, over its own rms within the outer one."""
    height, width = counts_HW.shape
    scale = side / max(height, width)
    size = max(4, round(width * scale)), max(4, round(height * scale))
    small_hw = cv2.resize(counts_HW, size, interpolation=cv2.INTER_AREA)
    band_hw = _blur(small_hw, inner) - _blur(small_hw, outer)
    # What noise or rounding leave after averaging is no contrast.
    floor = max(3 * noise * min(1.0, scale), 0.5)
    return band_hw / np.sqrt(_blur(band_hw**2, outer) + floor**2)


def _blur(image_hw: np.ndarray, width: float) -> np.ndarray:
    return cv2.GaussianBlur(image_hw, (0, 0), width, borderType=cv2.BORDER_REFLECT)


def candidates(views: list[View], part_N: np.ndarray) -> Iterator[tuple[float, int, int, tuple[int, int]]]:
    """Pairs of views from different parts that may be the same: (correlation, a, b, shift (y, x) in coarse pixels).

    `part_N` int [N]: views with equal numbers are not compared. Pixel p of a lies at p + shift in b.
    """
    from scipy import fft  # stays in float32, and is twice as fast as NumPy's

    if not views:
        return
    side = COARSE * 3 // 2  # shifts beyond what `OVERLAP` allows may wrap around
    maps_Nss = np.zeros((len(views), side, side), np.float32)
    for map_ss, each in zip(maps_Nss, views, strict=True):
        map_ss[: each.coarse_hw.shape[0], : each.coarse_hw.shape[1]] = each.coarse_hw
    sides_N2 = np.array([each.coarse_hw.shape for each in views])
    rms_N = np.sqrt((maps_Nss**2).sum((1, 2)) / sides_N2.prod(1)).astype(np.float32)
    spectra_Nsf = fft.rfft2(maps_Nss)
    shifts_s = (np.arange(side) + side // 2) % side - side // 2
    usable_N = np.array([each.structured for each in views])
    for a in np.flatnonzero(usable_N):
        others = a + 1 + np.flatnonzero((part_N[a + 1 :] != part_N[a]) & usable_N[a + 1 :])
        for start in range(0, len(others), _BATCH):
            other_M = others[start : start + _BATCH]
            sums_Mss = fft.irfft2(spectra_Nsf[other_M] * spectra_Nsf[a].conj(), s=(side, side))
            rows_Ms, columns_Ms = (_overlap(sides_N2[a, k], sides_N2[other_M, k], shifts_s) for k in (0, 1))
            area_Mss = (rows_Ms[:, :, None] * columns_Ms[:, None, :]).astype(np.float32)
            least_M = OVERLAP * np.minimum(sides_N2[a].prod(), sides_N2[other_M].prod(1))
            found_Mss = np.where(area_Mss >= least_M[:, None, None], sums_Mss / np.maximum(area_Mss, 1), 0)
            found_MS = found_Mss.reshape(len(other_M), -1)
            peak_M = found_MS.argmax(1)
            value_M = found_MS[np.arange(len(other_M)), peak_M] / (rms_N[a] * rms_N[other_M])
            for m in np.flatnonzero(value_M >= CANDIDATE):
                shift = int(shifts_s[peak_M[m] // side]), int(shifts_s[peak_M[m] % side])
                maps = _shifted(views[a].coarse_hw, views[other_M[m]].coarse_hw, *shift)
                if _minor_correlation([np.gradient(map_hw) for map_hw in maps]) >= CANDIDATE_MINOR:
                    yield float(value_M[m]), int(a), int(other_M[m]), shift


def _overlap(length: int, others_M: np.ndarray, shifts_s: np.ndarray) -> np.ndarray:
    """[M, s]: how much of a side lies over another one that is shifted against it."""
    return np.clip(np.minimum(length + shifts_s, others_M[:, None]) - np.maximum(0, shifts_s), 0, None)


def similarity(a: View, b: View, shift: tuple[int, int] = (0, 0)) -> float:
    """How far two views are the same, from `shift` (see `candidates`) on: `SAME` or more for near-duplicates, 1 at most.

    0 where they cannot be aligned.
    """
    step = FINE / COARSE
    warp = np.array([[1, 0, shift[1] * step], [0, 1, shift[0] * step]], np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
    try:
        _, warp = cv2.findTransformECC(a.fine_hw, b.fine_hw, warp, cv2.MOTION_AFFINE, criteria, None, 5)
    except cv2.error:  # it did not converge
        return 0.0
    scales = np.linalg.svd(warp[:, :2], compute_uv=False)
    if not 1 / LARGEST_SCALE <= scales.min() <= scales.max() <= LARGEST_SCALE:
        return 0.0
    size, flags = a.fine_hw.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    common_hw = cv2.warpAffine(np.ones_like(b.fine_hw), warp, size, flags=flags) > 0.99
    if common_hw.sum() < ALIGNED_OVERLAP * min(a.fine_hw.size, b.fine_hw.size):
        return 0.0
    maps = a.fine_hw, cv2.warpAffine(b.fine_hw, warp, size, flags=flags)
    if _correlation(*(map_hw[common_hw] for map_hw in maps)) < ALIGNED:
        return 0.0
    inside_hw = cv2.erode(common_hw.astype(np.uint8), np.ones((3, 3)), borderValue=0) > 0
    return max(0.0, _minor_correlation([[slope_hw[inside_hw] for slope_hw in _slopes(map_hw)] for map_hw in maps]))


def _slopes(map_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return cv2.Sobel(map_hw, cv2.CV_32F, 0, 1), cv2.Sobel(map_hw, cv2.CV_32F, 1, 0)


def _shifted(a_hw: np.ndarray, b_hw: np.ndarray, down: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """The parts of two maps that lie over each other: pixel p of a over p + (down, right) of b."""
    top, left = max(0, -down), max(0, -right)
    bottom, end = min(a_hw.shape[0], b_hw.shape[0] - down), min(a_hw.shape[1], b_hw.shape[1] - right)
    return a_hw[top:bottom, left:end], b_hw[top + down : bottom + down, left + right : end + right]


def _minor_correlation(slopes: Iterable[Iterable[np.ndarray]]) -> float:
    """Of two frames' derivatives (down, right), along the direction in which both together vary least."""
    slopes_22K = np.stack([[slope.ravel() for slope in pair] for pair in slopes])
    tensor_22 = sum(slopes_2K @ slopes_2K.T for slopes_2K in slopes_22K)
    return _correlation(*(np.linalg.eigh(tensor_22)[1][:, 0] @ slopes_22K))


def _correlation(a_K: np.ndarray, b_K: np.ndarray) -> float:
    """Of values whose mean is about 0."""
    energy = float(a_K @ a_K) * float(b_K @ b_K)
    return float(a_K @ b_K) / energy**0.5 if energy else 0.0
