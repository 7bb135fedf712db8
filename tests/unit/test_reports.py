"""A report of frames: what it says, that parts add up, and the files it writes."""

import csv
import json
import tracemalloc

import cv2
import numpy as np
import pytest
from test_detection_metrics import random_frames
from test_segmentation_metrics import scene

from irstd.errors import InputError
from irstd.metrics import DetectionMetrics, DetectionReport, SegmentationMetrics, SegmentationReport, bootstrap
from irstd.metrics.bins import SCR, SIZE
from irstd.metrics.coco import average
from irstd.metrics.resampling import _weighted_average

ABOUT = {"split": "test", "digests": {"made": "ab" * 32}, "chosen": "val-best"}


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def frames_of(count, seed=0):
    """(sequence, frame), group, probability, mask, counts: two sequences a group, three frames a sequence."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        probability, mask = scene(rng, noise=0.002)
        probability = probability.round(1)  # few thresholds to match at
        counts = rng.normal(1000, 8, mask.shape) + 30 * rng.random() * mask
        yield (f"made/{number // 3}", number % 3), f"made/{number // 6}", probability, mask, counts.astype(np.uint16)


def segmented(frames, **kwargs):
    report = SegmentationReport(protocols=(("strict", None), ("dnanet", 32)), **kwargs)
    for key, group, probability, mask, counts in frames:
        report.update(key, probability, mask, group=group, frame_HW=counts)
    return report


def detected(count=60, seed=1):
    report = DetectionReport(0.4)
    rng = np.random.default_rng(seed)
    for number, (boxes, scores, targets) in enumerate(random_frames(rng, count)):
        counts = rng.integers(0, 255, (90, 90)).astype(np.uint8)
        report.update((f"s/{number // 3}", number), boxes, scores, targets, group=f"g{number // 6}", frame_HW=counts)
    return report


def test_numbers_are_those_of_the_metrics_and_bins_add_up():
    report = segmented(frames_of(66))
    found = json.loads(json.dumps(report.compute(), allow_nan=False))
    assert (found["task"], found["frames"], found["sequences"], found["groups"]) == ("segmentation", 66, 22, 11)
    for row, (name, grid) in zip(found["protocols"], (("strict", None), ("dnanet", 32)), strict=True):
        metrics = SegmentationMetrics(name, 0.5, grid)
        for _, _, probability, mask, _ in frames_of(66):
            metrics.update(probability, mask)
        expected = metrics.compute()
        assert {k: row[k] for k in expected} == expected
        for number, interval in row["intervals"].items():
            assert interval[0] <= row[number] <= interval[1], number
        assert row["intervals"]["pd"][0] < row["pd"] < row["intervals"]["pd"][1]
    strict = found["protocols"][0]
    for name in ("scr", "size"):
        rows = found["bins"][name]
        assert len(rows) > 1 and sum(row["targets"] for row in rows) == strict["targets"]
        assert sum(row["hits"] for row in rows) == strict["hits"]


def test_the_bins_of_a_target_by_hand():
    probability, mask = np.zeros((60, 60), np.float32), np.zeros((60, 60), bool)
    mask[10:13, 10:13] = mask[40:46, 40:46] = True  # 9 px and 36 px
    probability[10:13, 10:13] = 1
    # Mean 100 and deviation 2; 104 and 120 are 2 and 10 deviations away.
    counts = 100.0 + 2 * (np.indices((60, 60)).sum(axis=0) % 2 * 2 - 1)
    counts[10:13, 10:13], counts[40:46, 40:46] = 104, 120
    report = SegmentationReport(protocols=(("strict", None),))
    report.update(("s", 0), probability, mask, frame_HW=counts)
    bins = report.compute()["bins"]
    assert [(r["bin"], r["targets"], r["hits"]) for r in bins["scr"]] == [("1.5 to 3", 1, 1), (">= 6", 1, 0)]
    assert [(r["bin"], r["pd"]) for r in bins["size"]] == [("<= 9 px", 1), ("> 25 to 80 px", 0)]
    report.update(("s", 1), probability, mask)
    assert report.compute()["bins"]["scr"][-1]["bin"] == "unknown"
    assert SCR.of([1.5, 3, 6, np.inf, np.nan]).tolist() == [1, 2, 3, 3, 4]
    assert SIZE.of([9, 9.5, 25, 80, 81]).tolist() == [0, 1, 1, 2, 3]


def test_boxes_by_bin_ignore_the_other_bins():
    # The small target is found above a false alarm, the large one below it.
    report = DetectionReport(0.5)
    boxes, targets = [[0, 0, 3, 3], [70, 70, 4, 4], [20, 20, 8, 8]], [[0, 0, 3, 3], [20, 20, 8, 8]]
    report.update(("s", 0), boxes, [0.9, 0.8, 0.7], targets)
    found = report.compute()
    assert found["protocols"][0]["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    small, large = found["bins"]["size"]
    assert (small["bin"], small["recall"], small["ap50"]) == ("<= 9 px", 1, pytest.approx(1))
    assert (large["bin"], large["recall"], large["ap50"]) == ("> 25 to 80 px", 1, pytest.approx(0.5))
    assert [row["bin"] for row in found["bins"]["scr"]] == ["unknown"]
    rates = {row["false_alarms_per_frame"]: (row["recall"], row["threshold"]) for row in found["recall_at"]}
    assert rates == {0.01: (0.5, 0.9), 0.1: (0.5, 0.9), 1.0: (1.0, 0.7)}


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_parts_of_reports_add_up_over_processes_in_any_order(kind):
    if kind == "segmentation":
        whole, frames = segmented(frames_of(66)), list(frames_of(66))
        parts = [segmented(frames[40:]), segmented(frames[:40])]
    else:
        whole, parts = detected(66), [DetectionReport(0.4), DetectionReport(0.4)]
        rng = np.random.default_rng(1)
        for number, (boxes, scores, targets) in enumerate(random_frames(rng, 66)):
            counts = rng.integers(0, 255, (90, 90)).astype(np.uint8)
            key, group = (f"s/{number // 3}", number), f"g{number // 6}"
            parts[number < 40].update(key, boxes, scores, targets, group=group, frame_HW=counts)
    restored = type(whole).from_state(json.loads(json.dumps(parts[1].state())))
    total = parts[0].merge(restored).compute()
    if kind == "detection":  # equal scores rank in the order of adding
        assert total.pop("recall_at") is not None and whole.compute()["protocols"][0]["intervals"]
        for mine, theirs in zip(total["protocols"], whole.compute()["protocols"], strict=True):
            assert {k: mine[k] for k in ("targets", "frames", "recall", "groups")} == {
                k: theirs[k] for k in ("targets", "frames", "recall", "groups")
            }
            assert mine["intervals"]["recall"] == pytest.approx(theirs["intervals"]["recall"])
        return
    assert total == whole.compute()
    assert sorted(map(str, parts[0].images())) == sorted(map(str, whole.images()))


def test_frames_given_twice_and_groups_that_change_are_refused():
    frame = np.zeros((4, 4), np.float32), np.zeros((4, 4), bool)
    report = SegmentationReport()
    report.update(("s", 0), *frame, group="a")
    with pytest.raises(InputError, match="frame 0 of s was given twice"):
        report.update(("s", 0), *frame, group="a")
    with pytest.raises(InputError, match="s was in the group a, and is now in b"):
        report.update(("s", 1), *frame, group="b")
    with pytest.raises(InputError, match="measured differently"):
        report.merge(SegmentationReport(0.3))
    with pytest.raises(InputError, match="NaN"):
        report.update(("t", 0), np.full((4, 4), np.nan), frame[1])
    with pytest.raises(InputError, match=r"ignore regions have shape \(1, 3\)"):
        report.update(("t", 0), *frame, ignore_K4=[[0, 0, 1]])
    with pytest.raises(InputError, match=r"the frame has shape \(5, 4\)"):
        report.update(("t", 0), *frame, frame_HW=np.zeros((5, 4)))
    assert report.compute()["sequences"] == len(report) == 1


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_files_hold_every_frame_sequence_and_curve(kind, tmp_path):
    report = segmented(frames_of(30)) if kind == "segmentation" else detected(60)
    found = report.compute() | ABOUT
    written = report.write(tmp_path / "r", found)
    curves = ["froc", "pr", "roc"] if kind == "segmentation" else ["froc", "pr"]
    names = ["images.csv", "report.json", "sequences.csv", *(f"{c}.{end}" for c in curves for end in ("csv", "png"))]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == sorted(names) == sorted(p.name for p in written)
    assert json.loads((tmp_path / "r" / "report.json").read_text()) == found
    rows = {name: table(tmp_path / "r" / f"{name}.csv") for name in ("images", "sequences")}
    assert len(rows["images"]) == found["frames"] and len(rows["sequences"]) == found["sequences"]
    first = found["protocols"][0]
    for name in ("targets", "hits", "false_alarms"):
        assert sum(int(row[name]) for row in rows["images"]) == first[name]
        assert sum(int(row[name]) for row in rows["sequences"]) == first[name]
    assert {row["group"] for row in rows["images"]} == {row["group"] for row in rows["sequences"]}
    for curve in curves:
        picture = cv2.imread(str(tmp_path / "r" / f"{curve}.png"))
        assert picture.shape[0] > 400 and (picture != 255).any(axis=2).mean() > 0.01
        points = table(tmp_path / "r" / f"{curve}.csv")
        assert len(points) > 20
    # The curve goes through the numbers at the threshold.
    if kind == "segmentation":
        points = table(tmp_path / "r" / "roc.csv")
        (near,) = (row for row in points if float(row["threshold"]) == found["threshold"])
        assert (float(near["pd"]), float(near["fa"])) == (first["pd"], first["fa"])
        thresholds = [float(row["threshold"]) for row in points]
        assert thresholds == sorted(thresholds) and float(points[-1]["fa"]) == 0
    else:
        assert max(float(row["recall"]) for row in points) == found["protocols"][1]["recall"]


def test_what_a_frame_leaves_behind_does_not_grow_with_its_size():
    def growth(side):
        report = SegmentationReport(protocols=(("strict", None),))
        probability, mask = np.zeros((side, side), np.float32), np.zeros((side, side), bool)
        mask[5:8, 5:9] = True
        probability[5:8, 6:9] = 0.8
        for number in range(20):
            report.update(("s", number), probability, mask, frame_HW=probability)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20, 120):
            report.update(("s", number), probability, mask, frame_HW=probability)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return grown / 100

    assert growth(64) < 1000 and growth(128) < 1000


def test_nothing_found_and_nothing_there_can_be_written(tmp_path):
    empty = SegmentationReport()
    empty.update(("s", 0), np.zeros((20, 20), np.float32), np.zeros((20, 20), bool))
    boxes = DetectionReport()
    boxes.update(("s", 0), np.zeros((0, 4)), [], np.zeros((0, 4)))
    for name, report in (("a", empty), ("b", boxes)):
        found = report.compute()
        assert found["protocols"][0]["insufficient"].startswith("1 groups")
        assert found["protocols"][0]["intervals"] is None and found["bins"]["scr"] == []
        assert (tmp_path / name / "pr.png") in report.write(tmp_path / name, found)


def test_pseudo_masks_give_no_number_of_their_shape(tmp_path):
    report = segmented(frames_of(66), pseudo_masks="box")
    found = report.compute()
    for row in found["protocols"]:
        assert row["iou"] is None and row["niou"] is None and "pseudo-masks (box)" in row["withheld"]
        assert row["pd"] is not None and "pd" in row["intervals"] and "iou" not in row["intervals"]
    report.write(tmp_path, found)
    for name in ("images", "sequences", "pr"):
        rows = table(tmp_path / f"{name}.csv")
        shapes = [k for k in rows[0] if k in ("iou", "niou", "intersection", "union") or k.startswith("pixel_")]
        assert shapes and not any(row[k] for row in rows for k in shapes)


def test_an_interval_is_the_one_that_plain_resampling_gives():
    """Groups drawn one by one and measured anew, for masks and boxes."""
    masks = SegmentationMetrics()
    boxes = {name: DetectionMetrics(name, 0.4, fps=5) for name in ("strict", "nnlab", "centroid")}
    rng = np.random.default_rng(3)
    # Scores that differ: equal ones rank in the order of adding, which drawing changes.
    frames = [(boxes, rng.random(len(boxes)), targets) for boxes, _, targets in random_frames(rng, 60)]
    for number, (key, _, probability, mask, _) in enumerate(frames_of(60)):
        masks.update(probability, mask, key[0])
        for metrics in boxes.values():
            metrics.update(*frames[number], key[0])
    weights = bootstrap.draws(20, 40)
    names = sorted(masks.groups)
    drawn = [[name for name, times in zip(names, row, strict=True) for _ in range(times)] for row in weights]
    found = {"masks": masks.intervals()["intervals"]}
    found |= {name: metrics.resampled().report(details=False)["intervals"] for name, metrics in boxes.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "draws", lambda groups, resamples=40, seed=0: weights)
        few = {"masks": masks.intervals()["intervals"]}
        few |= {name: metrics.resampled().report(details=False)["intervals"] for name, metrics in boxes.items()}
    for name, metrics in {"masks": masks, **boxes}.items():
        samples = [metrics.compute(chosen) for chosen in drawn]
        for number, interval in few[name].items():
            expected = np.percentile([sample[number] for sample in samples], [2.5, 97.5])
            assert interval == pytest.approx(expected, abs=1e-9), (name, number)
        assert found[name] != few[name]
        assert set(few[name]) == {k for k, v in samples[0].items() if isinstance(v, float) and k != "threshold"}


def test_average_precision_of_resamples_is_that_of_pycocotools():
    rng = np.random.default_rng(6)
    for targets in (1, 7, 40):
        scores = -np.sort(-rng.random(60))
        hit = rng.random(60) < 0.4
        hit[np.flatnonzero(hit)[targets:]] = False
        expected = average(scores, hit, targets)
        place = np.flatnonzero(hit)
        precision, recall = _weighted_average(np.ones(len(place)), np.cumsum(~hit)[place], targets)
        np.testing.assert_allclose(precision, expected.precision_R, atol=1e-12)
        assert recall == expected.recall


def test_groups_are_drawn_not_sequences_and_too_few_say_so():
    metrics = SegmentationMetrics()
    for key, _, probability, mask, _ in frames_of(66):
        metrics.update(probability, mask, key[0])
    by_sequence = metrics.intervals()
    by_group = metrics.intervals(lambda name: int(name.split("/")[1]) // 2)
    assert (by_sequence["groups"], by_group["groups"]) == (22, 11)
    assert by_sequence["intervals"] != by_group["intervals"]
    assert metrics.intervals() == by_sequence  # drawn by a fixed seed
    few = metrics.intervals(lambda name: int(name.split("/")[1]) // 3)
    assert few["groups"] == 8 and few["intervals"] is None and "8 groups, and intervals need 10" in few["insufficient"]


def test_boxes_are_matched_in_parts_without_a_difference(monkeypatch):
    frames = random_frames(np.random.default_rng(8), 40)
    results = []
    for chunk in (256, 7):
        monkeypatch.setattr("irstd.metrics.detection.CHUNK", chunk)
        metrics = DetectionMetrics("strict", 0.4)
        for number, frame in enumerate(frames):
            metrics.update(*frame, f"s{number % 3}", ignore_K4=[[0, 0, 20, 30]])
        results.append((metrics.compute(), metrics.rows("s1")))
    assert results[0] == results[1]
    plain = DetectionMetrics("strict", 0.4)
    for frame in frames:
        plain.update(*frame)
    assert results[0][0]["targets"] < plain.compute()["targets"]
    assert results[0][0]["false_alarms"] < plain.compute()["false_alarms"]
