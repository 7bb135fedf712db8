"""The gradient map: hand-checked values, exactness, and one result in NumPy, in PyTorch and in the shards."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from irstd.data import gradient
from irstd.data.gradient import GradientSpec, gradient_magnitude, gradient_magnitude_torch, gradient_map

OPERATORS = ("central", "sobel", "scharr")
PADDINGS = ("replicate", "zero")
WEIGHTS = {"central": (0, 1, 0, 2), "sobel": (1, 2, 1, 8), "scharr": (3, 10, 3, 32)}


def reference(frame_HW: np.ndarray, operator: str, padding: str) -> np.ndarray:
    """The definition, window by window, with Python's whole numbers and one float64 root."""
    first, middle, last, divisor = WEIGHTS[operator]
    padded = np.pad(frame_HW.astype(object), 1, mode="edge" if padding == "replicate" else "constant")
    result = np.empty(frame_HW.shape)
    for i, j in np.ndindex(frame_HW.shape):
        window = padded[i : i + 3, j : j + 3]
        gx = sum(w * (window[k, 2] - window[k, 0]) for k, w in enumerate((first, middle, last)))
        gy = sum(w * (window[0, k] - window[2, k]) for k, w in enumerate((first, middle, last)))
        result[i, j] = np.sqrt(float(int(gx) ** 2 + int(gy) ** 2)) / divisor
    return result


def in_numpy(frame_HW: np.ndarray, operator: str = "central", padding: str = "replicate") -> np.ndarray:
    return gradient_magnitude(frame_HW, operator, padding)


def in_torch(frame_HW: np.ndarray, operator: str = "central", padding: str = "replicate") -> np.ndarray:
    return gradient_magnitude_torch(torch.from_numpy(frame_HW)[None, None], operator, padding)[0, 0].numpy()


def stored(frame_HW: np.ndarray, operator: str = "central", padding: str = "replicate") -> np.ndarray:
    return gradient_map(frame_HW[None], operator, padding)[0].astype(np.float32)


EVERYWHERE = pytest.mark.parametrize("magnitude", [in_numpy, in_torch, stored])


@EVERYWHERE
def test_an_isolated_pixel_has_no_gradient_itself_and_half_its_value_beside(magnitude):
    frame_HW = np.zeros((5, 5), np.uint8)
    frame_HW[2, 2] = 1
    expected = np.zeros((5, 5))
    expected[[1, 2, 2, 3], [2, 1, 3, 2]] = 0.5
    np.testing.assert_array_equal(magnitude(frame_HW), expected)


@EVERYWHERE
@pytest.mark.parametrize(("operator", "side", "corner"), [("sobel", 2 / 8, 1 / 8), ("scharr", 10 / 32, 3 / 32)])
def test_the_smoothing_operators_spread_an_isolated_pixel(magnitude, operator, side, corner):
    frame_HW = np.zeros((5, 5), np.uint8)
    frame_HW[2, 2] = 64
    slant = 2**0.5 * corner
    expected = 64 * np.array([[slant, side, slant], [side, 0, side], [slant, side, slant]])
    result = magnitude(frame_HW, operator)
    np.testing.assert_allclose(result[1:4, 1:4], expected, rtol=2**-10)
    assert np.count_nonzero(result) == 8


@EVERYWHERE
@pytest.mark.parametrize(
    ("padding", "corner", "side", "last"),
    [
        # [[1, 2, 4], [8, 16, 32]]: at (0, 0), (0, 1) and (1, 2)
        ("replicate", (0.5, 3.5), (1.5, 7), (8, 14)),
        ("zero", (1, 4), (1.5, 8), (8, 2)),
    ],
)
def test_border_values_by_hand(magnitude, padding, corner, side, last):
    frame_HW = np.array([[1, 2, 4], [8, 16, 32]], np.uint8)
    result = magnitude(frame_HW, "central", padding)
    np.testing.assert_allclose(
        [result[0, 0], result[0, 1], result[1, 2]], [np.hypot(*corner), np.hypot(*side), np.hypot(*last)], rtol=2**-10
    )


@EVERYWHERE
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_ramp_has_its_slope_under_every_operator(magnitude, operator):
    frame_HW = np.add.outer(3 * np.arange(9), 4 * np.arange(11)).astype(np.uint8)
    np.testing.assert_array_equal(magnitude(frame_HW, operator)[1:-1, 1:-1], 5.0)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (2, 2), (13, 9)])
def test_counts_are_exact_and_rounded_once(shape, dtype, operator, padding):
    random = np.random.default_rng(0)
    largest = np.iinfo(dtype).max
    for low, high in ((0, largest), (0, 30), (0, 1), (largest - 10, largest)):
        frame_HW = random.integers(low, high, shape, dtype, endpoint=True)
        expected = reference(frame_HW, operator, padding)
        np.testing.assert_array_equal(gradient_magnitude(frame_HW, operator, padding), expected.astype(np.float32))
        np.testing.assert_array_equal(gradient_map(frame_HW[None], operator, padding)[0], expected.astype(np.float16))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int8, np.int16, np.int32, np.bool_])
def test_integers_do_not_wrap(dtype):
    low, high = (0, 1) if dtype is np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    frame_HW = np.array([[high, low, low], [low, low, low], [low, low, high]], dtype)
    span = float(high) - float(low)
    expected = np.float32(span / 2) * np.array([[2**0.5, 1, 0], [1, 0, 1], [0, 1, 2**0.5]])
    np.testing.assert_allclose(gradient_magnitude(frame_HW), expected, rtol=1e-6)


def test_the_largest_stored_gradient_is_finite():
    frame_HW = np.zeros((3, 3), np.uint16)
    frame_HW[1, 0] = frame_HW[0, 1] = frame_HW[0, 0] = 65535
    for operator in OPERATORS:
        for padding in PADDINGS:
            assert np.isfinite(gradient_map(frame_HW[None], operator, padding)).all()
    assert gradient_map(frame_HW[None]).max() == np.float16(65535 / 2**0.5)


def scene(dtype: type, seed: int = 0, shape: tuple[int, int] = (70, 90)) -> np.ndarray:
    """Smooth background, noise, one step and two small targets, over the whole range of `dtype` or 334 counts of it."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    frame = 60 + 40 * np.sin(rows / 15) * np.cos(columns / 22) + random.normal(0, 2, shape)
    frame[:, shape[1] // 2 :] += 60
    frame[20:22, 30:32] += 80
    frame[50, 70] += 30
    frame = frame.clip(0, 255)
    return (7000 + frame * 1.3).astype(dtype) if dtype is np.uint16 else frame.astype(dtype)


@pytest.mark.parametrize("operator", OPERATORS)
def test_bytes_do_not_depend_on_how_they_were_computed(monkeypatch, operator):
    frames = [scene(np.uint8), scene(np.uint16), np.random.default_rng(1).integers(0, 2**16, (70, 90), np.uint16)]
    maps = [gradient_map(frame_HW[None], operator) for frame_HW in frames]
    for name, value in (("_BAND_PIXELS", 1), ("_BAND_PIXELS", 700), ("_TABLE_SIZE", 0), ("_FLOAT32_WHOLE", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(gradient, name, value)
            for frame_HW, map_HW in zip(frames, maps, strict=True):
                assert gradient_map(frame_HW[None], operator).tobytes() == map_HW.tobytes(), name


def test_rounding_a_root_twice_gives_what_rounding_once_gives():
    # Every sum that the float32 way can meet: the claim on which equal bytes rest.
    for start in range(0, 2**24, 2**21):
        sums = np.arange(start, start + 2**21, dtype=np.float32)
        twice = np.sqrt(sums).astype(np.float16)
        np.testing.assert_array_equal(twice, np.sqrt(sums.astype(np.float64)).astype(np.float16))


def test_bytes_are_the_same_on_every_machine():
    rows, columns = np.mgrid[:67, :131]
    noise = (rows * 7919 + columns * 104729 + rows * columns * 31) % 65536
    digest = hashlib.sha256()
    for operator in OPERATORS:
        for padding in PADDINGS:
            digest.update(gradient_map(noise.astype(np.uint16)[None], operator, padding).tobytes())
            digest.update(gradient_map((noise % 256).astype(np.uint8)[None], operator, padding).tobytes())
    assert digest.hexdigest() == "81100ca5f58e041c27dc1505d36dfda781d347299b440470a118e998ee214632"


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("dtype", "offset", "scale"), [(np.uint8, 0.0, 1 / 255), (np.uint16, 7050.0, 1 / 320)])
def test_stored_and_computed_maps_agree(dtype, offset, scale, operator, padding):
    """Within 2^-10 relative, in the units that the network sees."""
    frame_HW = scene(dtype)
    if padding == "zero":
        offset = 0.0  # zero padding means zero counts in the stored map
    image_BCHW = (torch.from_numpy(frame_HW.astype(np.float32))[None, None] - offset) * scale
    from_tensor = gradient_magnitude_torch(image_BCHW, operator, padding)[0, 0].numpy()
    from_frame = gradient_magnitude(frame_HW, operator, padding, scale)
    from_shard = gradient_map(frame_HW[None], operator, padding)[0].astype(np.float32) * np.float32(scale)
    # Where the frame is flat the tensor may have kept a rounding of its intensities.
    floor = 2**-23 * float(image_BCHW.abs().max())
    np.testing.assert_allclose(from_shard, from_frame, rtol=2**-10)
    np.testing.assert_allclose(from_tensor, from_frame, rtol=2**-10, atol=floor)
    np.testing.assert_allclose(from_tensor, from_shard, rtol=2**-10, atol=floor)


def test_scale_multiplies_and_its_sign_does_not_matter():
    frame_HW = scene(np.uint16)
    expected = 0.003 * gradient_magnitude(frame_HW).astype(np.float64)
    for scale in (0.003, -0.003):
        np.testing.assert_allclose(gradient_magnitude(frame_HW, scale=scale), expected, rtol=2**-22)


def test_flips_and_quarter_turns_move_the_map_with_the_frame():
    frame_HW = scene(np.uint8)
    for operator in OPERATORS:
        map_HW = gradient_magnitude(frame_HW, operator)
        for move in (np.flipud, np.fliplr, np.rot90, np.transpose):
            np.testing.assert_array_equal(gradient_magnitude(move(frame_HW), operator), move(map_HW))


def test_floating_frames_and_views():
    frame_HW = scene(np.uint8).astype(np.float64) / 255
    expected = reference(scene(np.uint8)[:20, :20], "sobel", "replicate")[1:-1, 1:-1] / 255
    for dtype in (np.float32, np.float64):
        result = gradient_magnitude(frame_HW.astype(dtype), "sobel")
        assert result.dtype == np.float32
        np.testing.assert_allclose(result[1:19, 1:19], expected, rtol=1e-4, atol=1e-7)
    # Slopes whose squares float32 could not hold.
    np.testing.assert_allclose(gradient_magnitude(np.array([[0.0, 1e-30, 2e-30]]))[0, 1], 1e-30, rtol=1e-6)
    view = scene(np.uint16)[::2, ::-3]
    np.testing.assert_array_equal(gradient_magnitude(view), gradient_magnitude(view.copy()))


def test_maps_of_many_frames_and_of_none():
    frames_nHW = np.stack([scene(np.uint8, seed) for seed in range(3)])
    maps_nHW = gradient_map(frames_nHW)
    assert maps_nHW.dtype == np.float16
    for frame_HW, map_HW in zip(frames_nHW, maps_nHW, strict=True):
        np.testing.assert_array_equal(map_HW, gradient_magnitude(frame_HW).astype(np.float16))
    assert gradient_map(frames_nHW[:0]).shape == (0, 70, 90)


def test_the_tensor_version_stays_float32_under_autocast():
    image_BCHW = torch.from_numpy(scene(np.uint8).astype(np.float32) / 255)[None, None]
    plain = gradient_magnitude_torch(image_BCHW)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = gradient_magnitude_torch(image_BCHW)
    assert plain.dtype == under_autocast.dtype == torch.float32
    assert gradient_magnitude_torch(image_BCHW.bfloat16()).dtype == torch.float32
    assert torch.equal(plain, under_autocast)


@pytest.mark.parametrize("operator", OPERATORS)
def test_backward_is_finite_on_flat_images_and_right_elsewhere(operator):
    flat_BCHW = torch.full((1, 2, 4, 5), 0.3, requires_grad=True)
    magnitude = gradient_magnitude_torch(flat_BCHW, operator)
    assert torch.equal(magnitude, torch.zeros_like(magnitude))
    magnitude.sum().backward()
    assert torch.equal(flat_BCHW.grad, torch.zeros_like(flat_BCHW))

    image_BCHW = torch.rand(1, 1, 5, 6, generator=torch.manual_seed(0))
    image_BCHW[..., :3] = 0.5
    learnt_BCHW = image_BCHW.clone().requires_grad_()
    magnitude = gradient_magnitude_torch(learnt_BCHW, operator)
    assert torch.equal(magnitude, gradient_magnitude_torch(image_BCHW, operator))
    magnitude.square().sum().backward()
    direction = torch.randn(image_BCHW.shape, generator=torch.manual_seed(1))
    step = 1e-2
    ends = [gradient_magnitude_torch(image_BCHW + s * direction, operator).square().sum() for s in (step, -step)]
    slope = (ends[0] - ends[1]) / (2 * step)  # exact for a quadratic, up to rounding
    torch.testing.assert_close((learnt_BCHW.grad * direction).sum(), slope, rtol=1e-3, atol=1e-3)


def test_a_broken_pixel_is_not_hidden():
    image_BCHW = torch.zeros(1, 1, 5, 5)
    image_BCHW[0, 0, 2, 2] = torch.nan
    for image in (image_BCHW, image_BCHW.clone().requires_grad_()):
        assert gradient_magnitude_torch(image).isnan().sum() == 4
    assert np.isnan(gradient_magnitude(image_BCHW[0, 0].numpy())).sum() == 4


def test_importing_it_does_not_import_torch():
    code = "import sys, irstd.data.gradient; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_specification_round_trip():
    spec = GradientSpec("sobel", "zero")
    assert spec.to_dict() == {"operator": "sobel", "padding": "zero", "version": 1}
    assert GradientSpec.from_dict(spec.to_dict()) == spec != GradientSpec()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GradientSpec("sobol"), "'sobol' is not known.*did you mean 'sobel'"),
        (lambda: GradientSpec(padding="reflect"), "padding 'reflect' is not known; known: replicate, zero"),
        (lambda: GradientSpec(version=2), "version 2 is not version 1"),
        (lambda: GradientSpec.from_dict({"operator": "central"}), "has the fields"),
        (lambda: GradientSpec.from_dict({**GradientSpec().to_dict(), "sigma": 1}), "sigma"),
        (lambda: gradient_magnitude(np.zeros((2, 2)), "none"), "'none' is not known"),
        (lambda: gradient_magnitude(np.zeros((1, 2, 2))), r"\[H, W\]"),
        (lambda: gradient_magnitude(np.zeros((0, 2))), "non-empty"),
        (lambda: gradient_magnitude(np.zeros((2, 2), complex)), "real numbers"),
        (lambda: gradient_magnitude(np.zeros((2, 2)), scale=float("nan")), "finite"),
        (lambda: gradient_map(np.zeros((1, 2, 2), np.int32)), "uint8 or uint16"),
        (lambda: gradient_map(np.zeros((2, 2), np.uint8)), r"\[n, H, W\]"),
        (lambda: gradient_map(np.zeros((2, 0, 2), np.uint8)), r"\[n, H, W\]"),
        (lambda: gradient_map(np.zeros((1, 2, 2), np.uint8), padding=None), "None is not known"),
        (lambda: gradient_magnitude_torch(torch.zeros(2, 2)), r"\[B, C, H, W\]"),
        (lambda: gradient_magnitude_torch(torch.zeros(1, 1, 2, 2), "prewitt"), "'prewitt' is not known"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
