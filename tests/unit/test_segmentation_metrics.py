import itertools
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from irstd.metrics import (
    SEGMENTATION,
    OperatingCurve,
    SegmentationMetrics,
    curve,
    lowest_threshold,
    pd_at_fa,
    threshold_for_fa,
)
from irstd.metrics.components import MAX_BANDS, components
from irstd.metrics.matching import optimal_match

CASES = json.loads((Path(__file__).parents[1] / "golden" / "segmentation_cases.json").read_text())["cases"]


def picture(rows):
    letters = np.array([list(row) for row in rows])
    return np.isin(letters, ["p", "b"]).astype(np.float32), np.isin(letters, ["t", "b"])


def scene(rng, shape=(60, 70), targets=3, noise=0.02):
    """A probability map with blobs on and off its targets, and the mask."""
    mask = np.zeros(shape, bool)
    probability = rng.random(shape, np.float32) ** (1 / noise)
    for _ in range(targets):
        y, x = (int(rng.integers(0, n - 5)) for n in shape)
        h, w = rng.integers(1, 5, 2)
        mask[y : y + h, x : x + w] = True
        dy, dx = rng.integers(-2, 3, 2)
        window = probability[max(y + dy, 0) : y + dy + h, max(x + dx, 0) : x + dx + w]
        window[:] = np.maximum(window, rng.random(window.shape, np.float32))
    return probability, mask


@pytest.mark.parametrize("protocol", SEGMENTATION)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden(case, protocol):
    metrics = SegmentationMetrics(protocol)
    pixels = 0
    for index, rows in enumerate(case["images"]):
        probability, mask = picture(rows)
        metrics.update(probability, mask, ignore_K4=case["ignore"][index] if "ignore" in case else None)
        pixels += mask.size
    pixels = case.get("pixels", pixels)
    result = metrics.compute()
    counts = dict(case["counts"])
    if "hits" in case:
        counts["hits"] = case["hits"][protocol]
    assert {name: result[name] for name in counts} == counts
    assert result["pixels"] == pixels
    assert result["images"] == len(case["images"])
    assert result["fa"] == case["fa_pixels"][protocol] / pixels
    assert result["iou"] == (case["iou"] and case["iou"][0] / case["iou"][1])
    assert result["pd"] == (counts["hits"] / counts["targets"] if counts["targets"] else None)
    if protocol in case.get("niou", {}):
        assert result["niou"] == case["niou"][protocol]
    if protocol == "strict" and "surplus_pixels" in case:
        assert result["fa_surplus"] == case["surplus_pixels"] / pixels
    assert ("fa_surplus" in result) == (protocol == "strict")


@pytest.mark.parametrize("protocol", SEGMENTATION)
def test_three_px_between_centroids_in_thirds_is_a_miss_at_every_offset(protocol):
    # Without a margin for rounding some of these 400 offsets are hits.
    for y, x in itertools.product(range(20), range(20)):
        probability, mask = np.zeros((24, 28), np.float32), np.zeros((24, 28), bool)
        for array, shift in ((mask, 0), (probability, 3)):
            array[y, x + shift] = array[y + 1, x + shift] = array[y + 1, x + shift + 1] = 1
        metrics = SegmentationMetrics(protocol)
        metrics.update(probability, mask)
        assert metrics.compute()["hits"] == 0, (y, x)


def test_the_threshold_itself_is_not_exceeded():
    probability, mask = np.full((4, 4), 0.3, np.float32), np.ones((4, 4), bool)
    for threshold, pd in ((0.3, 0), (0.29, 1)):
        metrics = SegmentationMetrics(threshold=threshold)
        metrics.update(probability, mask)
        assert metrics.compute()["pd"] == pd


@pytest.mark.parametrize("density", [0.002, 0.05, 0.3, 0.45, 0.9])
@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (37, 64), (150, 41)])
def test_components_as_an_independent_labelling_gives_them(shape, density):
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random(shape) < density
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        # By first pixel, whatever the order of the labelling.
        order = sorted(range(1, count + 1), key=lambda k: int(np.flatnonzero(labels.ravel() == k)[0]))
        found = components(mask)
        assert len(found) == count
        for index, label in enumerate(order):
            rows, columns = np.nonzero(labels == label)
            assert found.areas_N[index] == len(rows)
            assert found.centroids_N2[index] == pytest.approx((rows.mean(), columns.mean()), abs=1e-9)
            x, y, w, h = found.boxes_N4[index]
            assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (found.crop(index, 0, 0, *shape) == (labels == label)).all()


def test_components_in_more_bands_than_are_labelled_apart():
    mask = np.zeros((4 * MAX_BANDS, 9), bool)
    mask[::2, 4] = True
    found = components(mask)
    assert found.centroids_N2.tolist() == [[y, 4] for y in range(0, 4 * MAX_BANDS, 2)]


def test_optimal_match_has_most_pairs_then_least_distance():
    rng = np.random.default_rng(1)
    for _ in range(60):
        targets, blobs = rng.random((4, 2)) * 7, rng.random((5, 2)) * 7
        distance = np.linalg.norm(targets[:, None] - blobs[None], axis=-1)
        best = (0, 0.0)
        for chosen in itertools.permutations([*range(5), None, None, None, None], 4):
            pairs = [(t, b) for t, b in enumerate(chosen) if b is not None and distance[t, b] < 3]
            best = min(best, (-len(pairs), sum(distance[pair] for pair in pairs)))
        rows, columns = optimal_match(targets, blobs)
        assert len(set(columns.tolist())) == len(columns) == len(set(rows.tolist()))
        assert (-len(rows), pytest.approx(distance[rows, columns].sum())) == best


@pytest.mark.parametrize("protocol", SEGMENTATION)
def test_parts_add_up_in_any_order(protocol):
    rng = np.random.default_rng(2)
    frames = [(*scene(rng), f"sequence {i % 3}") for i in range(12)]
    whole = SegmentationMetrics(protocol)
    for frame in frames:
        whole.update(*frame)
    random.Random(0).shuffle(frames)
    merged = SegmentationMetrics(protocol)
    for start in (0, 1, 7):
        part = SegmentationMetrics(protocol)
        for frame in frames[start : {0: 1, 1: 7, 7: 12}[start]]:
            part.update(*frame)
        merged.merge(SegmentationMetrics.from_state(json.loads(json.dumps(part.state()))))
    assert whole.compute()["hits"] > 0
    assert whole.compute()["false_alarms"] > 0
    assert merged.compute() == whole.compute()
    assert sorted(merged.groups) == sorted(whole.groups)
    twice = merged.compute(["sequence 0", "sequence 0", "sequence 1"])
    single = [merged.compute([name]) for name in ("sequence 0", "sequence 1")]
    assert twice["hits"] == 2 * single[0]["hits"] + single[1]["hits"]
    assert twice["images"] == 12


def test_parts_of_other_settings_are_refused():
    with pytest.raises(ValueError, match="measured differently"):
        SegmentationMetrics("strict").merge(SegmentationMetrics("dnanet"))


def test_grid():
    mask = np.zeros((8, 8), np.uint8)
    mask[1, 1] = mask[4, 4] = 1  # 2:1 takes pixel centres, so the odd ones stay, as with Pillow
    metrics = SegmentationMetrics(grid=4)
    metrics.update(np.zeros((8, 8)), mask)
    assert (metrics.compute()["targets"], metrics.compute()["pixels"]) == (1, 16)
    # A prediction made on the grid is taken as it is.
    on_grid = np.zeros((4, 4), np.float32)
    on_grid[0, 0] = 1
    metrics = SegmentationMetrics(grid=4)
    metrics.update(on_grid, mask)
    assert (metrics.compute()["iou"], metrics.compute()["grid"]) == (1, 4)
    # Probabilities are interpolated: between 1 and 0 there is .75 and .25.
    for threshold, area in ((0.8, 2), (0.7, 4), (0.2, 6)):
        metrics = SegmentationMetrics(threshold=threshold, grid=4)
        metrics.update(np.array([[1, 0]] * 2), np.zeros((2, 2), bool))
        assert metrics.compute()["fa"] == area * 2 / 16, threshold
    # 3 px are those of the grid: 2 px apart natively are 4 px apart on twice the grid.
    probability, mask = picture([".......", ".t.p...", "......."])
    metrics = SegmentationMetrics(grid=14)
    metrics.update(probability, mask)
    assert metrics.compute()["hits"] == 0


@pytest.mark.parametrize(
    ("probability", "mask", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 5), bool), "probability is 4 x 4, its mask 4 x 5"),
        (np.zeros((1, 4, 4)), np.zeros((4, 4), bool), "probability has shape (1, 4, 4)"),
        (np.zeros((0, 4)), np.zeros((0, 4), bool), "not empty"),
        (np.full((4, 4), np.nan), np.zeros((4, 4), bool), "NaN"),
        (np.full((4, 4), 7.0), np.zeros((4, 4), bool), "expected [0, 1]"),
        (np.full((4, 4), -1.0), np.zeros((4, 4), bool), "expected [0, 1]"),
        (np.zeros((4, 4)), np.full((4, 4), 255, np.uint8), "up to 255"),
        (np.zeros((4, 4)), np.full((4, 4), 0.5), "up to 0.5"),
        (np.zeros((4, 4)), np.full((4, 4), -1), "the mask holds"),
        (np.zeros((4, 4), complex), np.zeros((4, 4), bool), "dtype complex128"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_one_line(probability, mask, message):
    metrics = SegmentationMetrics()
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        metrics.update(probability, mask)
    assert "\n" not in str(caught.value)
    assert metrics.compute()["images"] == 0


def test_unknown_protocol_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'strict'"):
        SegmentationMetrics("strickt")


@pytest.mark.parametrize("protocol", SEGMENTATION)
def test_the_curve_agrees_with_the_metrics_at_every_threshold(protocol):
    rng = np.random.default_rng(3)
    frames = [scene(rng) for _ in range(6)]
    frames[0] = frames[0][0].round(2), frames[0][1]  # probabilities that are thresholds
    points = curve(*zip(*frames, strict=True), protocol).compute()
    assert len(points["thresholds"]) == 101
    for index in range(0, 101, 5):
        metrics = SegmentationMetrics(protocol, points["thresholds"][index])
        for frame in frames:
            metrics.update(*frame)
        result = metrics.compute()
        assert (points["pd"][index], points["fa"][index]) == (result["pd"], result["fa"])
    assert points["fa"][-1] == 0 < points["fa"][0]
    parts = [curve(*zip(*part, strict=True), protocol) for part in (frames[:2], frames[2:])]
    restored = OperatingCurve.from_state(json.loads(json.dumps(parts[0].state())))
    assert restored.merge(parts[1]).compute() == points


def test_threshold_for_fa_stays_below_from_there_upwards():
    # Fa over rising thresholds: .5 1 0 .75 .25 0 (x 1e-2): at 1e-2 * .5 the dip at index 2 must not be taken.
    found = OperatingCurve([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    found.pixels = 40_000
    found.false_alarm_pixels[:] = [200, 400, 0, 300, 100, 0]
    assert threshold_for_fa(found, 0.005) == 0.4
    assert threshold_for_fa(found, 0.0025) == 0.4
    assert threshold_for_fa(found, 0.0024) == 0.5
    assert threshold_for_fa(found, 0.01) == 0.0
    with pytest.raises(ValueError, match="too little to tell"):
        threshold_for_fa(found, 1e-4)
    found.false_alarm_pixels[:] = 400
    with pytest.raises(ValueError, match="at every threshold"):
        threshold_for_fa(found, 0.005)
    with pytest.raises(ValueError, match="greater than 0"):
        threshold_for_fa(found, 0)


@pytest.mark.parametrize("protocol", SEGMENTATION)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_pd_at_fa_is_what_trying_every_score_finds(protocol, dtype):
    rng = np.random.default_rng(4)
    frames = [scene(rng, (30, 31), 2) for _ in range(3)]
    scores, masks = [(p * 200).astype(dtype) for p, _ in frames], [m for _, m in frames]
    tried = []
    for value in np.unique(np.concatenate([s.ravel() for s in scores]))[::-1]:
        metrics = SegmentationMetrics(protocol, float(value), any_range=True)
        for score, mask in zip(scores, masks, strict=True):
            metrics.update(score, mask)
        tried.append((float(value), metrics.compute()))
        if tried[-1][1]["fa"] > 0.03:
            break
    for fa in (0, 0.001, 0.004, 0.01, 0.03):
        exceeded = [result["fa"] > fa for _, result in tried].index(True)
        threshold, result = tried[exceeded - 1]
        assert pd_at_fa(scores, masks, fa, protocol) == (threshold, result["pd"], result["fa"])
    # The Fa that a detector had is a budget that it meets again.
    assert pd_at_fa(scores, masks, result["fa"], protocol).fa == result["fa"]


def test_operating_points_leave_out_ignore_regions():
    rng = np.random.default_rng(9)
    frames = [scene(rng, (40, 41), 3) for _ in range(5)]
    scores, masks = [p for p, _ in frames], [m for _, m in frames]
    regions = [np.array([[20.5, 0, 30, 18], [0, 30, 4, 4]]), None, np.zeros((0, 4)), np.array([[0, 0, 41, 20]]), None]
    point = pd_at_fa(scores, masks, 0.02, ignores=regions)
    assert point != pd_at_fa(scores, masks, 0.02)
    results = []
    for threshold in (point.threshold, np.nextafter(np.float32(point.threshold), np.float32(0))):
        metrics = SegmentationMetrics("strict", threshold)
        for score, mask, region in zip(scores, masks, regions, strict=True):
            metrics.update(score, mask, ignore_K4=region)
        results.append(metrics.compute())
    assert (point.pd, point.fa) == (results[0]["pd"], results[0]["fa"]) and results[0]["fa"] <= 0.02 < results[1]["fa"]
    found = OperatingCurve([0.2, 0.5, 0.8])
    metrics = SegmentationMetrics("strict", 0.5)
    for score, mask, region in zip(scores, masks, regions, strict=True):
        found.update(score, mask, ignore_K4=region)
        metrics.update(score, mask, ignore_K4=region)
    values, expected = found.compute(), metrics.compute()
    names = {"pd": "pd", "fa": "fa", "iou": "iou", "false_alarms_per_frame": "false_alarms_per_frame"}
    assert {name: values[name][1] for name in names} == {name: expected[name] for name in names}
    assert (values["targets"], values["pixels"]) == (expected["targets"], expected["pixels"])


def test_lowest_threshold_is_exact_and_refused_where_too_little_is_seen():
    rng = np.random.default_rng(10)
    frames = [scene(rng, (50, 40), 2) for _ in range(5)]  # 10,000 pixels
    scores, masks = [p for p, _ in frames], [m for _, m in frames]
    point = lowest_threshold(scores, masks, 0.001)
    assert point == pd_at_fa(scores, masks, 0.001) and point.fa <= 0.001
    with pytest.raises(ValueError, match="Fa 0.0009 needs 1.11e"):
        lowest_threshold(scores, masks, 0.0009)
    with pytest.raises(ValueError, match="greater than 0"):
        lowest_threshold(scores, masks, 0.0)
    # Ten false pixels must be possible outside of what is ignored.
    with pytest.raises(ValueError, match="there are 9999"):
        lowest_threshold(scores, masks, 0.001, ignores=[np.array([[0, 0, 1, 1]]), *[None] * 4])


def test_pd_at_rates_with_intervals():
    rng = np.random.default_rng(11)
    found = OperatingCurve([i / 10 for i in range(1, 11)])
    frames = [scene(rng, noise=0.005) for _ in range(12)]
    for number, frame in enumerate(frames):
        found.update(*frame, f"group {number}")
    rates = (1e-6, 0.002, 0.05)
    low, middle, high = found.pd_at(rates)
    assert low["pd"] is None and "needs 1e+07 pixels" in low["insufficient"]
    for row in middle, high:
        assert row["threshold"] == threshold_for_fa(found, row["fa"])
        metrics = SegmentationMetrics("strict", row["threshold"])
        for frame in frames:
            metrics.update(*frame)
        assert row["pd"] == metrics.compute()["pd"] and row["interval"][0] <= row["pd"] <= row["interval"][1]
    assert middle["pd"] < high["pd"] and middle["interval"][0] < middle["interval"][1]
    assert OperatingCurve.from_state(json.loads(json.dumps(found.state()))).pd_at(rates) == found.pd_at(rates)


def test_pd_at_fa_at_the_ends():
    score, mask = np.zeros((8, 8), np.float32), np.zeros((8, 8), bool)
    mask[0, 0] = True
    assert pd_at_fa([score], [mask], 0.1) == (0, 0, 0)  # a flat map finds nothing
    everything = pd_at_fa([score], [mask], 1.0)
    assert everything.threshold < 0
    assert (everything.pd, everything.fa) == (0, 1)
    assert pd_at_fa([score], [~mask | mask], 0.0).pd == 1
    assert pd_at_fa([score], [np.zeros((8, 8), bool)], 0.0).pd is None
    # 1 / 49 * 49 is less than 1: a Fa of one pixel of 49 allows one pixel all the same.
    score, mask = np.zeros((7, 7), np.uint16), np.zeros((7, 7), bool)
    score[0, 0], score[6, 6] = 900, 800
    mask[6, 6] = True
    assert pd_at_fa([score], [mask], 1 / 49) == (0, 1, 1 / 49)
    with pytest.raises(ValueError, match="no score map"):
        pd_at_fa([], [], 0.1)
