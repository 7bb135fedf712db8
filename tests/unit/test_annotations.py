"""The canonical form of labels: equal labels give equal bytes; what does not fit the recording is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from irstd.data import rle
from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.derive import targets_of
from irstd.errors import InputError

HEIGHT, WIDTH = 20, 30


def example() -> Annotations:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:6, 7:10] = 1
    boxes, points = targets_of(mask)
    return Annotations(
        [
            FrameTargets(0, True, boxes, ["drone"], points, rle.encode(mask)),
            FrameTargets(1, True, mask=[HEIGHT * WIDTH]),
            FrameTargets(2, False),
        ],
        masks=True,
    )


def test_canonical_text() -> None:
    found = example()
    assert found.to_json() == (
        '{"frames":[\n'
        '{"boxes":[[7.0,4.0,3.0,2.0]],"classes":["drone"],"index":0,"labelled":true,'
        '"mask":[144,2,18,2,18,2,414],"points":[[8.0,4.5]]},\n'
        '{"boxes":[],"classes":[],"index":1,"labelled":true,"mask":[600],"points":[]},\n'
        '{"boxes":[],"classes":[],"index":2,"labelled":false,"points":[]}\n'
        '],"masks":true,"schema":1}\n'
    )
    assert (found.labelled_frames, found.target_frames) == (2, 1)
    again = Annotations.from_json(found.to_json(), "a").validate(3, HEIGHT, WIDTH, "a")
    assert again.to_json() == found.to_json() and again.digest() == found.digest()


def test_spacing_order_and_digits_do_not_matter() -> None:
    loose = json.loads(example().to_json())
    text = json.dumps(dict(reversed(loose.items())), indent=3)
    assert Annotations.from_json(text, "a").digest() == example().digest()
    boxes = np.array([[1.00004, 2.00006, 3, 4]])
    a, b = (Annotations([FrameTargets(0, True, each)]) for each in (boxes, boxes + 1e-9))
    assert a.digest() == b.digest()
    np.testing.assert_array_equal(a.frames[0].boxes, [[1.0, 2.0001, 3, 4]])
    minus = Annotations([FrameTargets(0, True, [[-0.00001, 0, 1, 1]])])
    assert '"boxes":[[0.0,0.0,1.0,1.0]]' in minus.to_json()
    assert a.digest() != Annotations([FrameTargets(0, True, boxes + 0.001)]).digest()


def test_one_pixel_is_where_the_design_says() -> None:
    """Pixel (i, j) covers [j, j+1) x [i, i+1): its box is (j, i, 1, 1), its point (j, i)."""
    mask = np.zeros((8, 9), np.uint8)
    mask[2, 5] = 255
    boxes, points = targets_of(mask)
    assert boxes.tolist() == [[5, 2, 1, 1]] and points.tolist() == [[5, 2]]
    assert boxes.dtype == points.dtype == np.float64


def test_components_are_8_connected_and_ordered() -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[6, 1] = mask[7, 2] = 1  # by a corner: one target
    mask[1, 9] = mask[1, 3] = 1
    boxes, points = targets_of(mask)
    assert boxes.tolist() == [[3, 1, 1, 1], [9, 1, 1, 1], [1, 6, 2, 2]]
    assert points.tolist() == [[3, 1], [9, 1], [1.5, 6.5]]
    boxes, points = targets_of(np.zeros((4, 4)))
    assert boxes.shape == (0, 4) and points.shape == (0, 2)


def test_a_box_that_overlaps_the_frame_stays_as_it_came() -> None:
    boxes = [[-5, -5, 6, 6], [WIDTH - 1, HEIGHT - 1, 50, 50]]
    found = Annotations([FrameTargets(0, True, boxes)]).validate(1, HEIGHT, WIDTH, "a")
    assert found.frames[0].boxes.tolist() == boxes


BAD_FRAMES = {
    "nan": (FrameTargets(0, True, [[1, 2, float("nan"), 4]]), "not finite: give four numbers"),
    "infinite": (FrameTargets(0, True, [[float("-inf"), 2, 3, 4]]), "not finite"),
    "no width": (FrameTargets(0, True, [[1, 2, 0, 4]]), "has no area: give width and height above 0"),
    "negative": (FrameTargets(0, True, [[1, 2, 3, -4]]), "has no area"),
    "rounds to no width": (FrameTargets(0, True, [[1, 2, 1e-6, 4]]), "has no area"),
    "right of it": (FrameTargets(0, True, [[WIDTH, 2, 3, 4]]), "wholly outside the frame of 30x20 pixels: correct or"),
    "above it": (FrameTargets(0, True, [[1, -4, 3, 4]]), "wholly outside"),
    "point outside": (FrameTargets(0, True, points=[[WIDTH, 2]]), "outside the frame of 30x20"),
    "point nan": (FrameTargets(0, True, points=[[1, float("nan")]]), "not finite: give two numbers"),
    "classes": (FrameTargets(0, True, [[1, 2, 3, 4]], ["a", "b"]), "2 classes for 1 boxes: give one class a box"),
    "unlabelled": (FrameTargets(0, False, [[1, 2, 3, 4]]), "is unlabelled and has targets: set labelled to true"),
    "mask unasked": (FrameTargets(0, True, mask=[600]), "has a mask where the sequence has none: set masks to true"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_targets_that_do_not_fit_are_refused(name: str) -> None:
    frame, says = BAD_FRAMES[name]
    with pytest.raises(InputError, match=rf"^labels\.csv: frame 0: .*{says}") as caught:
        Annotations([frame]).validate(1, HEIGHT, WIDTH, "labels.csv")
    assert "\n" not in str(caught.value)


def test_masks_are_checked() -> None:
    with pytest.raises(InputError, match=r"frame 0: has no mask where the sequence has masks"):
        Annotations([FrameTargets(0, True)], masks=True).validate(1, HEIGHT, WIDTH, "a")
    with pytest.raises(InputError, match=r"frame 0: the mask covers 599 pixels, the frame 600 \(30x20\): encode"):
        Annotations([FrameTargets(0, True, mask=[599])], masks=True).validate(1, HEIGHT, WIDTH, "a")


def test_length_is_checked() -> None:
    frames = [FrameTargets(i, True) for i in range(5)]
    with pytest.raises(
        InputError, match=r"^a\.json: has targets for frame 4, but the recording has 3 frames \(0 to 2\)"
    ):
        Annotations(frames).validate(3, HEIGHT, WIDTH, "a.json")
    with pytest.raises(InputError, match=r"5 entries for a recording of 9 frames: .*\"labelled\": false"):
        Annotations(frames).validate(9, HEIGHT, WIDTH, "a.json")
    with pytest.raises(InputError, match=r"^a\.csv: has targets for frame 1000000000000, but"):
        Annotations.build({10**12: FrameTargets(10**12, True)}, 3, "a.csv")


def test_ignore_boxes_are_carried_and_are_no_targets() -> None:
    found = Annotations([FrameTargets(0, True, ignore=[[0, 0, 9.5, 9]]), FrameTargets(1, True)])
    assert found.to_json() == (
        '{"frames":[\n'
        '{"boxes":[],"classes":[],"ignore":[[0.0,0.0,9.5,9.0]],"index":0,"labelled":true,"points":[]},\n'
        '{"boxes":[],"classes":[],"index":1,"labelled":true,"points":[]}\n'
        '],"masks":false,"schema":1}\n'
    )
    again = Annotations.from_json(found.to_json(), "a").validate(2, HEIGHT, WIDTH, "a")
    assert again.digest() == found.digest() and again.target_frames == 0 and again.labelled_frames == 2
    with pytest.raises(InputError, match=r"frame 0: ignore \(30, 0, 1, 1\) lies wholly outside"):
        Annotations([FrameTargets(0, True, ignore=[[30, 0, 1, 1]])]).validate(1, HEIGHT, WIDTH, "a")
    with pytest.raises(InputError, match="frame 0: is unlabelled and has targets"):
        Annotations([FrameTargets(0, False, ignore=[[3, 0, 1, 1]])]).validate(1, HEIGHT, WIDTH, "a")


def test_remarks_count_what_reaches_beyond_the_frame() -> None:
    boxes = [[-0.25, 2, 3, 4], [1, 2, 3, 4], [28, 17, 3, 4]]
    found = Annotations([FrameTargets(0, True, boxes), FrameTargets(1, False)], notes=("grey",))
    assert found.remarks(HEIGHT, WIDTH) == (
        "grey",
        "2 boxes reach beyond the frame by up to 1 px: kept as they came",
    )
    assert Annotations([FrameTargets(0, True)]).remarks(HEIGHT, WIDTH) == ()


def test_build_fills_the_frames_without_a_row() -> None:
    rows = {1: FrameTargets(1, True, [[1, 2, 3, 4]])}
    assert [f.labelled for f in Annotations.build(rows, 3, "a").frames] == [True, True, True]
    assert [f.labelled for f in Annotations.build(rows, 3, "a", others_labelled=False).frames] == [False, True, False]


BAD_TEXTS = {
    "no json": ("{", "not readable as JSON"),
    "a list": ("[]", "expected"),
    "schema": ('{"schema": 2, "masks": false, "frames": []}', "schema 2 is not known: this version reads 1"),
    "key": ('{"schema": 1, "mask": false, "frames": []}', r"unknown key 'mask' \(did you mean 'masks'\?\)"),
    "order": ('{"schema": 1, "frames": [{"index": 1, "labelled": true}]}', r"frames\[0\]: index is 1: give one entry"),
    "labelled": ('{"schema": 1, "frames": [{"index": 0}]}', r"frames\[0\]: labelled must be true or false"),
    "box": ('{"schema": 1, "frames": [{"index": 0, "labelled": true, "boxes": [[1, 2]]}]}', "lists of 4 numbers"),
    "text": ('{"schema": 1, "frames": [{"index": 0, "labelled": true, "points": [["1", 2]]}]}', "lists of 2 numbers"),
    "run": ('{"schema": 1, "frames": [{"index": 0, "labelled": true, "mask": [-1]}]}', "list of run lengths"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_files_are_refused(name: str) -> None:
    text, says = BAD_TEXTS[name]
    with pytest.raises(InputError, match=rf"^x\.annotations\.json: .*{says}") as caught:
        Annotations.from_json(text, "x.annotations.json")
    assert "\n" not in str(caught.value)
