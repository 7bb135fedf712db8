"""Synthetic sequences: exact labels, the stated SCR, determinism, and the source folder that is written of them."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from irstd.data import rle, synthetic
from irstd.data.annotations import Annotations
from irstd.data.contrast import scr
from irstd.data.synthetic import SceneSpec, render, sample_specs
from irstd.data.synthetic_targets import point_spread
from irstd.errors import InputError

SAMPLE = sample_specs()
SMALL = SceneSpec(
    height=64, width=80, frames=16, fps=25.0, seed=5, kind="clouds", offset=3000, span=120, targets=2, scr=6.0
)


@pytest.fixture(scope="module")
def scenes():
    return {name: render(spec) for name, spec in SAMPLE.items()}


def same(a, b):
    arrays = zip([*a.boxes, *a.points, *a.scr], [*b.boxes, *b.points, *b.scr], strict=True)
    frames = np.array_equal(a.frames_THW, b.frames_THW) and np.array_equal(a.masks_THW, b.masks_THW)
    return frames and all(np.array_equal(x, y) for x, y in arrays)


@pytest.mark.parametrize("kind", ["clouds", "horizon", "ground", "sea"])
def test_the_seed_decides_every_bit(kind):
    spec = replace(SMALL, kind=kind)
    assert same(render(spec), render(spec))
    assert not np.array_equal(render(spec).frames_THW, render(replace(spec, seed=6)).frames_THW)


def test_targets_leave_the_rest_of_the_scene_as_it_is():
    with_targets, without = render(SMALL), render(replace(SMALL, targets=0))
    difference_THW = with_targets.frames_THW.astype(int) - without.frames_THW
    for t, points in enumerate(with_targets.points):
        y, x = np.nonzero(difference_THW[t])
        near = [np.maximum(abs(x - px), abs(y - py)) <= 7 for px, py in points]
        assert np.any(near, axis=0).all() if near else y.size == 0


def test_frames_are_counts_of_the_stated_offset_span_and_bit_depth(scenes):
    for name, scene in scenes.items():
        spec = SAMPLE[name]
        assert scene.frames_THW.dtype == np.uint16
        assert scene.frames_THW.shape == (spec.frames, spec.height, spec.width)
        assert scene.frames_THW.max() < 2**14
        low, high = np.percentile(scene.frames_THW, [1, 99])
        assert abs(low - spec.offset) < 0.1 * spec.span
        assert 0.85 < (high - low) / spec.span < 1.15


def test_a_scene_brighter_than_the_bit_depth_saturates():
    scene = render(replace(SMALL, bit_depth=8, offset=70, span=120))
    assert scene.frames_THW.max() == 255


def test_the_measured_scr_is_the_stated_one(scenes):
    for name, scene in scenes.items():
        if SAMPLE[name].targets:
            assert np.concatenate(scene.scr).mean() == pytest.approx(SAMPLE[name].scr, rel=0.05), name


def test_scr_by_its_definition():
    # Background of mean 100 and deviation 2 (a chessboard of 98 and 102), far wider than the ring; target of 110.
    frame_HW = 100.0 + 2 * (np.indices((80, 80)).sum(axis=0) % 2 * 2 - 1)
    mask_HW, other_HW = np.zeros((2, 80, 80), dtype=np.uint8)
    mask_HW[40:42, 40:42] = 1
    other_HW[30:32, 30:32] = 1
    frame_HW[mask_HW == 1] = 110
    frame_HW[other_HW == 1] = 4000
    frame_HW[:20] = frame_HW[62:] = 9000  # rows outside the ring of 20 px
    assert scr(frame_HW, mask_HW, mask_HW | other_HW) == pytest.approx(5.0)
    assert scr(frame_HW, mask_HW) < 1


def test_scr_of_boxes_at_borders_and_of_flat_frames():
    frame_HW = np.full((50, 60), 7, np.uint16)
    assert scr(frame_HW, np.array([5, 5, 3, 3])) == 0  # flat: nothing stands out
    frame_HW[5:8, 5:8] = 9
    assert scr(frame_HW, np.array([5, 5, 3, 3])) == np.inf
    # Half of the ring 3, half 7: mean 5, deviation 2, and the box of 9 is 2 deviations away.
    frame_HW[:] = np.where(np.arange(60) % 2, 3, 7)
    frame_HW[0, 0:2] = 9
    frame_HW[3, 2:4] = 60000
    assert scr(frame_HW, np.array([-0.4, 0, 2.4, 1]), np.array([[0, 0, 2, 1], [2, 3, 2, 1]])) == pytest.approx(2)
    # Of a box smaller than a pixel the pixel that holds its centre; what lies outside the frame cannot be measured.
    whole = [scr(frame_HW, np.array(box)) for box in ([0, 0, 1, 1], [0.1, 0.1, 0.2, 0.2], [1, 0, 1, 1])]
    assert whole[0] == whole[1] != whole[2]
    assert np.isnan(scr(frame_HW, np.array([100, 5, 3, 3]))) and np.isnan(scr(frame_HW, np.zeros((50, 60), bool)))


def test_boxes_are_tight_and_make_up_the_mask(scenes):
    for scene in scenes.values():
        for mask_HW, boxes in zip(scene.masks_THW, scene.boxes, strict=True):
            count, _, stats, _ = cv2.connectedComponentsWithStats(mask_HW, connectivity=8)
            found = sorted(stats[1:, :4].astype(float).tolist())
            assert count - 1 == len(boxes)
            assert found == sorted(boxes.tolist())


def test_points_are_centres_in_the_convention_of_pixel_centres(scenes):
    for scene in scenes.values():
        for mask_HW, boxes, points in zip(scene.masks_THW, scene.boxes, scene.points, strict=True):
            for (x, y, w, h), (px, py) in zip(boxes, points, strict=True):
                assert x <= px + 0.5 < x + w
                assert y <= py + 0.5 < y + h
                assert mask_HW[int(np.floor(py + 0.5)), int(np.floor(px + 0.5))]


def test_targets_are_small_and_move_by_parts_of_pixels(scenes):
    sizes = np.concatenate([np.concatenate(scene.boxes)[:, 2:] for scene in scenes.values()])
    assert sizes.min() >= 1
    assert sizes.max() <= 3
    places = np.concatenate([np.concatenate(scene.points) for scene in scenes.values()])
    assert 0.2 < (places % 1).std() < 0.4  # uniform over the pixel: 0.29


def test_point_spread_is_integrated_over_pixels():
    # Against a fine sum over each pixel, at a place that favours no pixel.
    spread_HW, mask_HW = point_spread(10.3, 7.8, 0.8, 20, 24)
    fine = (np.arange(-0.5, 19.5, 0.02) + 0.01, np.arange(-0.5, 23.5, 0.02) + 0.01)
    lines = [np.exp(-((axis - c) ** 2) / (2 * 0.8**2)) for axis, c in zip(fine, (7.8, 10.3), strict=True)]
    sums_HW = np.outer(*(line.reshape(-1, 50).sum(axis=1) for line in lines))
    assert np.allclose(spread_HW, sums_HW / sums_HW.max(), atol=1e-4)
    assert spread_HW.max() == spread_HW[8, 10] == 1
    assert np.array_equal(mask_HW, spread_HW >= 0.5)
    weights_HW = spread_HW / spread_HW.sum()
    assert (weights_HW.sum(axis=0) * np.arange(24)).sum() == pytest.approx(10.3, abs=1e-3)
    assert (weights_HW.sum(axis=1) * np.arange(20)).sum() == pytest.approx(7.8, abs=1e-3)


def test_a_point_spread_at_the_border_is_cut_off():
    spread_HW, mask_HW = point_spread(-0.4, 63.4, 0.8, 64, 80)
    assert spread_HW[63, 0] == 1
    assert mask_HW[63, 0]


def test_targets_enter_and_leave():
    scene = render(replace(SMALL, targets=1, frames=24))
    seen = [len(points) for points in scene.points]
    assert seen[0] == seen[-1] == 0
    assert sum(seen) >= 8
    first = scene.points[seen.index(1)][0]
    assert min(first[0], first[1], 79 - first[0], 63 - first[1]) < 3
    entering = [len(points) for points in render(replace(SMALL, frames=24)).points]
    assert entering[0] == 0
    assert entering[-1] == 1


def test_a_short_sequence_shows_its_targets_throughout():
    assert [len(boxes) for boxes in render(replace(SMALL, frames=3)).boxes] == [2, 2, 2]


def test_the_sample_has_target_free_sequences_and_one_that_exceeds_the_rest():
    assert sum(spec.targets == 0 for spec in SAMPLE.values()) >= 2
    assert {spec.kind for spec in SAMPLE.values()} == {"clouds", "horizon", "ground", "sea"}
    by_span = sorted(SAMPLE.values(), key=lambda spec: spec.span)
    assert by_span[-1].span > 4 * by_span[-2].span
    assert by_span[-1].offset > 2 * max(spec.offset for spec in by_span[:-1])
    assert len({spec.seed for spec in SAMPLE.values()}) == len(SAMPLE)


def test_a_white_top_hat_does_not_solve_the_sample(scenes):
    """At 1e-4 false pixels a pixel it finds some targets and misses many: the sample is neither trivial nor void."""
    spans = {name: SAMPLE[name].span for name in scenes}
    kernel = np.ones((7, 7), np.uint8)
    hats, peaks = [], []
    for name, scene in scenes.items():
        for frame_HW, mask_HW, points in zip(scene.frames_THW, scene.masks_THW, scene.points, strict=True):
            hat_HW = cv2.morphologyEx(frame_HW, cv2.MORPH_TOPHAT, kernel) / spans[name]
            hats.append(hat_HW[cv2.dilate(mask_HW, kernel) == 0])
            peaks += [hat_HW[int(y + 0.5), int(x + 0.5)] for x, y in points]
    false_alarms = np.sort(np.concatenate(hats))
    pixels = sum(scene.masks_THW.size for scene in scenes.values())
    threshold = false_alarms[-int(1e-4 * pixels)]
    assert 0.2 < np.mean(np.array(peaks) > threshold) < 0.8


def test_write_source(tmp_path):
    folder = tmp_path / "source"
    specs = {"a-1": SMALL, "empty": replace(SMALL, targets=0, frames=12, fps=12.5)}
    synthetic.write_source(folder, specs)
    suffixes = (".annotations.json", ".mkv", ".yaml")
    assert sorted(path.name for path in folder.iterdir()) == sorted(n + s for n in specs for s in suffixes)
    for name, spec in specs.items():
        scene = render(spec)
        video = cv2.VideoCapture(str(folder / f"{name}.mkv"), cv2.CAP_FFMPEG, [cv2.CAP_PROP_CONVERT_RGB, 0])
        assert video.get(cv2.CAP_PROP_FPS) == spec.fps
        for frame_HW in scene.frames_THW:
            read, read_HW = video.read()
            assert read
            assert read_HW.dtype == np.uint16
            assert np.array_equal(read_HW, frame_HW)
        assert not video.read()[0]

        text = (folder / f"{name}.annotations.json").read_text()
        labels = json.loads(text)
        assert (labels["schema"], labels["masks"]) == (1, True)
        assert Annotations.from_json(text, name).validate(spec.frames, spec.height, spec.width, name).to_json() == text
        assert len(text.splitlines()) == spec.frames + 2
        assert [frame["index"] for frame in labels["frames"]] == list(range(spec.frames))
        for t, frame in enumerate(labels["frames"]):
            assert list(frame) == ["boxes", "classes", "index", "labelled", "mask", "points"]
            assert frame["labelled"] is True
            assert np.array_equal(np.reshape(frame["boxes"], (-1, 4)), scene.boxes[t])
            assert np.allclose(np.reshape(frame["points"], (-1, 2)), scene.points[t], atol=5e-5, rtol=0)
            assert frame["classes"] == ["target"] * len(scene.boxes[t])
            assert np.array_equal(rle.decode(frame["mask"], spec.height, spec.width), scene.masks_THW[t])
        sidecar = (folder / f"{name}.yaml").read_text()
        assert sidecar == f'bit_depth: 14\nfps: {spec.fps}\ngroup: "{name}"\nlicence: "CC0-1.0"\n'
    empty = json.loads((folder / "empty.annotations.json").read_text())["frames"]
    assert all(frame["labelled"] and frame["boxes"] == [] and frame["mask"] == [64 * 80] for frame in empty)


def test_a_name_that_is_no_slug_is_refused(tmp_path):
    with pytest.raises(InputError, match="Clouds A"):
        synthetic.write_source(tmp_path / "out", {"Clouds A": SMALL})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "cloud"},
        {"height": 8},
        {"frames": 0},
        {"span": 0},
        {"targets": -1},
        {"bit_depth": 17},
        {"offset": 16300},
    ],
)
def test_a_specification_out_of_range_is_refused(change):
    with pytest.raises(InputError):
        replace(SMALL, **change)


def test_too_many_targets_are_refused():
    with pytest.raises(InputError, match="no room for 60 targets"):
        render(replace(SMALL, height=32, width=32, frames=2, targets=60))


def test_the_command_writes_the_sequences_that_are_named(tmp_path, capsys):
    assert synthetic.main([str(tmp_path / "out"), "--sequences", "sea-b,clouds-empty", "--seed", "3"]) == 0
    assert {path.name.split(".")[0] for path in (tmp_path / "out").iterdir()} == {"sea-b", "clouds-empty"}
    labels = json.loads((tmp_path / "out" / "sea-b.annotations.json").read_text())
    expected = render(sample_specs(3)["sea-b"])
    assert [len(frame["boxes"]) for frame in labels["frames"]] == [len(boxes) for boxes in expected.boxes]
    assert "2 sequences" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "word"), [([], "not an empty folder"), (["--sequences", "sea-c"], "sea-c")])
def test_the_command_refuses_with_one_line(tmp_path, capsys, arguments, word):
    kept = tmp_path / "out" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    assert synthetic.main([str(kept.parent), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert word in error
    assert [path.name for path in kept.parent.iterdir()] == ["kept.txt"]
