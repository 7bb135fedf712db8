import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from irstd.metrics import DetectionMetrics

CASES = json.loads((Path(__file__).parents[1] / "golden" / "detection_cases.json").read_text())["cases"]
A, B, FAR = [10, 10, 4, 4], [30, 30, 4, 4], [60, 5, 4, 4]
NONE = np.zeros((0, 4))


def measured(frames, *args, **kwargs):
    metrics = DetectionMetrics(*args, **kwargs)
    for frame in frames:
        metrics.update(*frame)
    return metrics.compute()


def random_frames(rng, count=40):
    """Frames with 0 to 3 targets, near and false detections, and equal scores here and there."""
    frames = []
    for _ in range(count):
        number = int(rng.integers(0, 4))
        targets = np.column_stack([rng.random((number, 2)) * 80, rng.uniform(3, 9, (number, 2))])
        near = targets[rng.random(number) < 0.8] + rng.normal(0, 0.6, 4)
        near[:, 2:] = np.abs(near[:, 2:]) + 0.1
        extra = int(rng.integers(0, 5))
        false = np.column_stack([rng.random((extra, 2)) * 80, rng.uniform(3, 9, (extra, 2))])
        boxes = np.concatenate([near, false])
        frames.append((boxes, np.round(rng.random(len(boxes)) * 1.05, 3).clip(0, 1), targets))
    return frames


def by_numpy(frames):
    """Average precision and largest recall written anew: 101 recalls, IoU of at least .5, best free target."""
    flags, scores, count = [], [], 0
    for boxes, values, targets in frames:
        count += len(targets)
        used = set()
        for index in np.argsort(-values, kind="stable"):
            x, y, w, h = boxes[index]
            best, winner = 0.5, None
            for k, (tx, ty, tw, th) in enumerate(targets):
                inner = max(min(x + w, tx + tw) - max(x, tx), 0) * max(min(y + h, ty + th) - max(y, ty), 0)
                iou = inner / (w * h + tw * th - inner)
                if k not in used and iou >= best:
                    best, winner = iou, k
            used.add(winner)
            flags.append(winner is not None)
            scores.append(values[index])
    flags = np.array(flags)[np.argsort(-np.array(scores), kind="stable")]
    recall = np.cumsum(flags) / count
    precision = np.cumsum(flags) / np.arange(1, len(flags) + 1)
    points = [precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]
    return np.array(points), recall[-1]


def by_pycocotools(frames):
    """AP50 and recall at IoU .5 by the plain use of pycocotools: all IoU thresholds, all areas, loadRes."""
    truth = COCO()
    annotations = [(i, box) for i, (_, _, targets) in enumerate(frames) for box in targets.tolist()]
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "width": 100, "height": 100} for i in range(len(frames))],
        "categories": [{"id": 1, "name": "target"}],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (i, box) in enumerate(annotations)
        ],
    }
    found = [
        {"image_id": i, "category_id": 1, "bbox": box, "score": float(score)}
        for i, (boxes, scores, _) in enumerate(frames)
        for box, score in zip(boxes.tolist(), scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[1], judge.eval["recall"][0, 0, 0, 2]


@pytest.mark.parametrize("protocol", ["strict", "centroid", "nnlab"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden(case, protocol):
    metrics = DetectionMetrics(protocol)
    for frame in case["frames"]:
        metrics.update(frame["boxes"], frame["scores"], frame["targets"], ignore_K4=frame.get("ignore"))
    result, expected = metrics.compute(), dict(case[protocol])
    assert result[metrics.protocol.average] == pytest.approx(expected.pop("ap"), abs=1e-9)
    assert {name: result[name] for name in expected} == expected


def test_nnlab_by_hand():
    # Hit, miss, hit by descending score, two targets: precision 1 up to recall .5, and 2/3 up to 1.
    frames = [([A, FAR], [0.9, 0.8], [A]), ([B], [0.7], [B])]
    result = measured(frames, "nnlab")
    assert result["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-9)
    assert result["recall"] == 1
    precision = (51 + 49 * 2 / 3) / 100  # the first 100 of the 101
    assert result["precision"] == pytest.approx(precision, abs=1e-9)
    assert result["f1"] == pytest.approx(2 * precision / (precision + 1), abs=1e-9)


def test_nnlab_leaves_out_frames_without_targets_and_strict_does_not():
    frames = [([A, FAR], [0.9, 0.8], [A]), ([B], [0.7], [B]), ([FAR], [0.95], NONE)]
    nnlab, strict = measured(frames, "nnlab"), measured(frames, "strict")
    assert nnlab["ap50"] == measured(frames[:2], "nnlab")["ap50"]
    assert (nnlab["frames"], nnlab["skipped"]) == (2, 1)
    # False, hit, false, hit: precision 1/2 at recall .5 and at 1.
    assert strict["ap50"] == pytest.approx(0.5, abs=1e-9)
    assert (strict["frames"], strict["skipped"]) == (3, 0)


def test_nnlab_precision_at_recall_0_is_0():
    for frames in ([([FAR], [0.9], [A])], [(NONE, [], [A])]):
        result = measured(frames, "nnlab")
        assert (result["ap50"], result["precision"], result["recall"], result["f1"]) == (0, 0, 0, 0)
    nothing = measured([([FAR], [0.9], NONE)], "nnlab")
    assert (nothing["ap50"], nothing["precision"], nothing["recall"], nothing["f1"]) == (None,) * 4


def test_nnlab_drops_scores_below_a_thousandth():
    assert measured([([A], [0.000999], [A])], "nnlab")["recall"] == 0
    assert measured([([A], [0.001], [A])], "nnlab")["recall"] == 1


def test_nnlab_keeps_the_hundred_best_of_a_frame():
    boxes, scores = [FAR] * 99 + [A, B], np.linspace(1, 0.6, 101)
    result = measured([(boxes, scores, [A, B])], "nnlab")
    assert result["recall"] == 0.5
    # At a fixed threshold every detection counts.
    strict = measured([(boxes, scores, [A, B])], "strict")
    assert (strict["recall"], strict["hits"], strict["false_alarms"]) == (1, 2, 99)
    assert strict["ap50"] == result["ap50"]


@pytest.mark.parametrize("seed", range(3))
def test_nnlab_and_strict_against_two_references(seed):
    frames = random_frames(np.random.default_rng(seed))
    annotated = [frame for frame in frames if len(frame[2])]
    assert 0 < len(annotated) < len(frames)
    kept = [(boxes[scores >= 0.001], scores[scores >= 0.001], targets) for boxes, scores, targets in annotated]
    points, recall = by_numpy(kept)
    nnlab = measured(frames, "nnlab")
    assert nnlab["ap50"] == pytest.approx(points.mean(), abs=1e-6)
    assert (nnlab["ap50"], nnlab["recall"]) == pytest.approx(by_pycocotools(kept), abs=1e-6)
    assert nnlab["recall"] == pytest.approx(recall, abs=1e-6)
    precision = points[: int(100 * recall)].mean()
    assert nnlab["precision"] == pytest.approx(precision, abs=1e-6)
    assert nnlab["f1"] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)
    assert 0.2 < nnlab["ap50"] < 0.95

    strict = measured(frames, "strict", threshold=0.4)
    assert strict["ap50"] == pytest.approx(by_numpy(frames)[0].mean(), abs=1e-6)
    above = [(boxes[scores > 0.4], scores[scores > 0.4], targets) for boxes, scores, targets in frames]
    assert strict["recall"] == pytest.approx(by_numpy(above)[1], abs=1e-6)
    assert strict["hits"] + strict["false_alarms"] == sum(len(scores) for _, scores, _ in above)


def test_strict_at_the_threshold():
    # Of three above .5 one hits; the hit at .5 exactly does not count; the second on A finds it taken.
    frames = [([A, A, FAR], [0.9, 0.8, 0.6], [A]), ([B], [0.5], [B]), (NONE, [], NONE), (NONE, [], NONE)]
    result = measured(frames, "strict", fps=25)
    assert (result["hits"], result["false_alarms"], result["targets"]) == (1, 2, 2)
    assert (result["precision"], result["recall"]) == (1 / 3, 1 / 2)
    assert result["f1"] == pytest.approx(0.4)
    assert result["false_alarms_per_frame"] == 0.5
    assert result["false_alarms_per_hour"] == 0.5 * 25 * 3600
    assert "false_alarms_per_hour" not in measured(frames, "strict")


def test_strict_without_targets_still_counts_false_alarms():
    result = measured([([A], [0.9], NONE), (NONE, [], NONE)], "strict")
    assert (result["ap50"], result["recall"], result["precision"]) == (None, None, 0)
    assert result["false_alarms_per_frame"] == 0.5
    nothing = measured([], "strict")
    assert (nothing["ap50"], nothing["false_alarms_per_frame"], nothing["frames"]) == (None, None, 0)


@pytest.mark.parametrize(("shift", "hit"), [(0, 1), (2.99, 1), (3.0, 0), (-3.0, 0)])
def test_centroid_is_a_hit_below_3_px(shift, hit):
    box = [A[0] + shift - 3, A[1] - 3, 10, 10]  # its centre is shift px beside that of A; its IoU with A is at most .16
    result = measured([([box], [0.9], [A])], "centroid")
    assert (result["hits"], result["false_alarms"], result["ap"]) == (hit, 1 - hit, pytest.approx(hit))


def test_centroid_is_one_to_one_by_descending_score():
    near, nearer = [11, 10, 4, 4], [10, 10, 4, 4]
    result = measured([([nearer, near], [0.6, 0.9], [A])], "centroid", threshold=0.7)
    # The higher score takes the target; the nearer one is left out by its score.
    assert (result["hits"], result["false_alarms"], result["precision"]) == (1, 0, 1)
    # Two targets, each 1 px from one detection: the first takes its nearest, and leaves the other.
    two = measured([([[11, 10, 4, 4], [13, 10, 4, 4]], [0.9, 0.8], [[10, 10, 4, 4], [12.5, 10, 4, 4]])], "centroid")
    assert (two["hits"], two["false_alarms"]) == (2, 0)


@pytest.mark.parametrize("protocol", ["nnlab", "strict", "centroid"])
def test_parts_add_up(protocol):
    frames = random_frames(np.random.default_rng(5), 20)
    whole, first, second = (DetectionMetrics(protocol, 0.3, fps=10) for _ in range(3))
    for index, frame in enumerate(frames):
        whole.update(*frame, f"sequence {index // 5}")
        (first if index < 12 else second).update(*frame, f"sequence {index // 5}")
    restored = DetectionMetrics.from_state(json.loads(json.dumps(second.state())))
    assert first.merge(restored).compute() == whole.compute()
    assert first.groups == ["sequence 0", "sequence 1", "sequence 2", "sequence 3"]
    assert whole.compute(["sequence 0"] * 3)["targets"] == 3 * whole.compute(["sequence 0"])["targets"] > 0
    with pytest.raises(ValueError, match="measured differently"):
        whole.merge(DetectionMetrics(protocol))
    with pytest.raises(ValueError, match="no frame of the group"):
        whole.compute(["sequence 9"])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (([A], [0.9, 0.8], [A]), r"scores have shape \(2,\)"),
        (([A[:3]], [0.9], [A]), r"expected \[N, 4\]"),
        (([A], [np.nan], [A]), "the scores hold NaN"),
        (([[0, 0, np.inf, 1]], [0.9], [A]), "detection boxes hold NaN"),
        (([[0, 0, -1, 1]], [0.9], [A]), "a detection box has a side of -1 px"),
        (([A], [0.9], [[0, 0, 0, 1]]), "a target box has a side of 0 px"),
        (([A], [0.9], None), "an unlabelled frame is not scored"),
    ],
)
def test_what_cannot_be_scored_is_refused(frame, message):
    with pytest.raises(ValueError, match=message):
        DetectionMetrics("strict").update(*frame)


def test_nothing_is_printed(capsys):
    measured([([A], [0.9], [A])], "nnlab")
    assert capsys.readouterr().out == ""
