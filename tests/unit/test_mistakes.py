"""The worst mistakes: those of the protocol, the worst first, few of a sequence; and the gallery of them."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from irstd.metrics import DetectionMetrics, SegmentationMetrics
from irstd.metrics.mistakes import DRAWN, MOST_SIDE, Mistake, Mistakes, Worst, iou
from irstd.reports import gallery


def scene(seed=0, height=60, width=80):
    rng = np.random.default_rng(seed)
    return (3000 + rng.normal(0, 5, (height, width))).astype(np.uint16), rng


def patch(shape, y, x, value=1.0, side=2):
    found = np.zeros(shape, np.float32)
    found[y : y + side, x : x + side] = value
    return found


def test_mask_mistakes_are_those_of_strict():
    """At random the totals are the metrics' own, ignore regions included."""
    found, metrics = Mistakes(0.5, most=1000, of_sequence=1000), SegmentationMetrics("strict", 0.5)
    for index in range(25):
        frame_HW, rng = scene(index)
        probability_HW = cv2.GaussianBlur(rng.random(frame_HW.shape).astype(np.float32), (0, 0), 2)
        probability_HW = (probability_HW - probability_HW.min()) / np.ptp(probability_HW) * 0.7
        mask_HW = np.zeros(frame_HW.shape, bool)
        for y, x in rng.integers(0, 55, (4, 2)):
            mask_HW[y : y + 3, x : x + 2] = True
        ignore = np.array([[0, 0, 20, 30]], float) if index % 2 else None
        found.masks((f"s/{index % 3}", index), probability_HW, mask_HW, frame_HW, ignore)
        metrics.update(probability_HW, mask_HW, ignore_K4=ignore)
    values = metrics.compute()
    assert found.missed.count == values["targets"] - values["hits"] == len(found.missed.items()) > 5
    assert found.false.count == values["false_alarms"] == len(found.false.items()) > 5
    assert all(each.score > 0.5 for each in found.false.items())


def test_box_mistakes_are_those_of_strict():
    found, metrics = Mistakes(0.5, most=1000, of_sequence=1000), DetectionMetrics("strict", 0.5)
    for index in range(25):
        frame_HW, rng = scene(index)
        targets = np.concatenate([rng.uniform(0, 50, (4, 2)), rng.uniform(3, 9, (4, 2))], 1)
        boxes = np.concatenate([targets + rng.normal(0, 1, targets.shape), targets[:2] + 0.5])
        boxes[:, 2:] = np.abs(boxes[:, 2:])
        scores = rng.integers(0, 10, len(boxes)) / 10  # ties too
        ignore = np.array([[0, 0, 25, 30]], float) if index % 2 else None
        found.boxes((f"s/{index % 3}", index), boxes, scores, targets, frame_HW, ignore)
        metrics.update(boxes, scores, targets, ignore_K4=ignore)
    values = metrics.compute()
    assert found.missed.count == values["targets"] - values["hits"] == len(found.missed.items()) > 5
    assert found.false.count == values["false_alarms"] == len(found.false.items()) > 5
    assert all(each.score > 0.5 for each in found.false.items())


def test_each_says_why_it_is_there():
    frame_HW, _ = scene()
    mask_HW = patch(frame_HW.shape, 30, 40) > 0
    frame_HW[mask_HW] += 100
    frame_HW[10:12, 70:72] += 300
    found = Mistakes(0.5)
    found.masks(
        ("set/a", 3), patch(frame_HW.shape, 30, 40, 0.31) + patch(frame_HW.shape, 10, 70, 0.9), mask_HW, frame_HW
    )
    (missed,), (false,) = found.missed.items(), found.false.items()
    assert missed.why == "probability here up to 0.31, threshold 0.5"
    assert (missed.box, missed.size, missed.sequence, missed.frame) == (
        (40, 30, 2, 2),
        4,
        "set/a",
        3,
    ) and missed.scr > 5
    assert false.why == "the nearest target is 36.1 px away" and false.score == pytest.approx(0.9) and false.scr > 5
    # The cut-out holds the target where its corner says, and the boxes of all that lies in it.
    x, y = 40 - missed.left, 30 - missed.top
    assert (missed.counts_hw[y : y + 2, x : x + 2] == frame_HW[30:32, 40:42]).all()
    assert missed.targets == [[40, 30, 2, 2]] and missed.detections == [([70, 10, 2, 2], pytest.approx(0.9))]

    box = np.array([[40.0, 30, 6, 6]])
    cases = [
        (np.array([[43.0, 30, 6, 6]]), [0.8], "IoU 0.33 with a box of score 0.80", "IoU 0.33 with a target"),
        (box, [0.2], "found with score 0.2 alone, threshold 0.5", None),
        (np.zeros((0, 4)), [], "no box here", None),
        (np.concatenate([box, box + 0.2]), [0.9, 0.8], None, "IoU 0.82 with a target, which another box answers"),
    ]
    for boxes, scores, missed, false in cases:
        found = Mistakes(0.5)
        found.boxes(("set/a", 0), boxes, np.array(scores), box, frame_HW)
        assert [each.why for each in found.missed.items()] == ([missed] if missed else [])
        assert [each.why for each in found.false.items()] == ([false] if false else [])
    assert iou(box[0], box[0]) == 1 and iou(np.zeros(4), np.zeros(4)) == 0


def mistake(sequence, frame=0, **more):
    values = {"kind": "missed", "box": (10.0, 10.0, 2.0, 2.0), "size": 4.0, "scr": 3.0, "score": None, "why": "dim"}
    values |= {"counts_hw": scene()[0], "left": 0, "top": 0, "shape": (60, 80), "targets": [[10, 10, 2, 2]]}
    values |= {"detections": [([30.0, 0.0, 4.0, 4.0], 0.7)], "of": 1, "ignore": []}
    return Mistake(sequence=sequence, frame=frame, **(values | more))


def test_the_worst_are_kept_whatever_their_order():
    """As a sort of all of them would choose, and of a sequence no more than some."""
    rng = np.random.default_rng(1)
    given = [(f"s/{rng.integers(3)}", (float(rng.integers(30)), float(i))) for i in range(200)]
    wanted, seen = [], {}
    for sequence, order in sorted(given, key=lambda entry: entry[1], reverse=True):
        if seen.setdefault(sequence, 0) < 3 and len(wanted) < 7:
            seen[sequence] += 1
            wanted.append((sequence, int(order[1])))
    for shuffled in (given, given[::-1], [given[i] for i in rng.permutation(200)]):
        worst = Worst(7, 3)
        for sequence, order in shuffled:
            worst.offer(sequence, order, lambda s=sequence, f=int(order[1]): mistake(s, f))
        assert [(each.sequence, each.frame) for each in worst.items()] == wanted and worst.count == 200


def test_memory_is_bounded():
    """A network that marks everything, on large frames."""
    found = Mistakes(0.5)
    rng = np.random.default_rng(0)
    for index in range(5):
        frame_HW = rng.integers(0, 4000, (250, 320), np.uint16)
        found.masks((f"s/{index}", 0), (rng.random(frame_HW.shape) > 0.9) * 0.9, frame_HW > 3995, frame_HW)
    kept = found.missed.items() + found.false.items()
    assert len(kept) == 24 and found.false.count > 1000
    assert all(max(each.counts_hw.shape) <= MOST_SIDE and each.counts_hw.base is None for each in kept)
    # The one that a picture is about is drawn, of the others the nearest.
    for each in found.false.items():
        assert len(each.detections) == DRAWN < each.of and list(each.box) in [box for box, _ in each.detections]
    assert "more detections in sight are not drawn" in gallery.gallery_page(found, ABOUT)


ABOUT = gallery.About("ggl-net-abc", "val", {"sample": "a" * 64}, "val-best", 0.5, 300)


def collected():
    found = Mistakes(0.5)
    for index in range(30):
        found.missed.offer(f"set/<b>{index // 2}", (float(index),), lambda i=index: mistake(f"set/<b>{i // 2}", i))
    found.frames = 300
    return found


def test_the_page_says_what_is_shown_and_holds_everything():
    text = gallery.gallery_page(collected(), ABOUT)
    assert "30 in all; the 12 of the highest SCR, the greatest first, of a sequence 3 at most, are shown." in text
    assert text.count("<figure") == 12 and "set/&lt;b&gt;14 · frame 29" in text and "<b>14" not in text
    assert "val of sample aaaaaaaaaaaa: 300 labelled frames; checkpoint val-best, threshold 0.5" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)


@pytest.mark.parametrize("found", [Mistakes(0.5), collected()])
def test_the_contact_sheet_shows_all(found):
    image = cv2.imdecode(np.frombuffer(gallery.contact_sheet(found, ABOUT), np.uint8), cv2.IMREAD_COLOR)
    rows = -(-len(found.missed.items()) // gallery.COLUMNS)
    assert image.shape[0] == 56 + 2 * 34 + rows * (gallery.CELL + gallery.TEXT)
    # What was not filled is the ground; the sensor's pixels are grey.
    assert (np.ptp(image, axis=2) == 0).mean() > (0.3 if rows else -1)


def test_odd_frames_are_drawn():
    """A target wider than a cut-out, at the border; a flat frame; letters that matplotlib takes for a formula."""
    frame_HW = np.full((40, 400), 7, np.uint16)
    mask_HW = np.zeros(frame_HW.shape, bool)
    mask_HW[38:, :390] = True
    found = Mistakes(0.5)
    found.masks(("s/$x$", 0), np.zeros(frame_HW.shape), mask_HW, frame_HW)
    (each,) = found.missed.items()
    assert each.counts_hw.shape[0] == 40 and each.left == 0
    assert gallery.contact_sheet(found, ABOUT)[:4] == b"\x89PNG" and "s/$x$" in gallery.gallery_page(found, ABOUT)
