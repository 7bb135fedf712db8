"""Files of detections, as the tools that they are for read them; tracks of targets that do not overlap from frame to frame."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from irstd.data import predictions
from irstd.data.predictions import Names
from irstd.errors import InputError
from irstd.inference.found import Found
from irstd.inference.outputs import FORMATS, About, chosen
from irstd.inference.tracks import LAG, Tracks, followed
from irstd.models.contract import Detections

ABOUT = About("My video.mkv", "my-video", 48, 64, 25.0)


def detections(*rows: tuple[float, float, float, float, float]) -> Detections:
    array_N5 = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(array_N5[:, :4], array_N5[:, 4])


def found(frames: list[list[tuple]], tracked: bool = False) -> list[Found]:
    every = (Found(i, np.zeros((48, 64), np.uint16), detections(*rows)) for i, rows in enumerate(frames))
    return list(followed(every, Tracks()) if tracked else every)


FRAMES = [[(5 + i, 10, 3, 3, 0.9), (40, 6 + 2 * i, 2, 2, 0.5)] if i != 3 else [] for i in range(6)]


def written(folder: Path, name: str, items: list[Found], about: About = ABOUT) -> None:
    output = FORMATS[name](folder, about)
    for item in items:
        output.write(item)
    output.close()


def test_pycocotools_reads_and_scores_the_results(tmp_path):
    written(tmp_path, "coco", found(FRAMES, tracked=True))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "detections.coco.images.json"))
        results = truth.loadRes(str(tmp_path / "detections.coco.json"))
        assert results.imgs[1] == {"id": 1, "file_name": "images/my-video/000000.png", "width": 64, "height": 48}
        assert len(results.imgs) == 6 and [len(results.getAnnIds(imgIds=[i + 1])) for i in range(6)] == [
            2,
            2,
            2,
            0,
            2,
            2,
        ]
        first = results.loadAnns(results.getAnnIds(imgIds=[1]))
        assert first[0]["bbox"] == [5, 10, 3, 3] and first[0]["score"] == 0.9 and first[0]["track_id"] == 1
        # Scored against themselves as truth.
        truth.dataset["annotations"] = [
            dict(a, id=k, iscrowd=0, area=a["bbox"][2] * a["bbox"][3])
            for k, a in enumerate(results.dataset["annotations"], 1)
        ]
        truth.createIndex()
        measured = COCOeval(truth, results, "bbox")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    assert measured.stats[1] == pytest.approx(1.0)


def test_frames_of_a_folder_have_their_own_names(tmp_path):
    about = About("frames", "frames", 48, 64, None, ("a.png", "b.png"))
    written(tmp_path, "coco", found([[], []]), about)
    images = json.loads((tmp_path / "detections.coco.images.json").read_text())
    assert [each["file_name"] for each in images["images"]] == ["a.png", "b.png"]
    assert json.loads((tmp_path / "detections.coco.json").read_text()) == []


def test_trackeval_reads_the_tracks(tmp_path):
    """The readers of TrackEval: a tracker's file beside a ground truth of the same tracks gives full marks."""
    trackeval = pytest.importorskip("trackeval")
    written(tmp_path, "mot", found(FRAMES, tracked=True))
    lines = (tmp_path / "detections.mot.txt").read_text().splitlines()
    assert lines[0] == "1,1,6,11,3,3,0.90000,-1,-1,-1"
    truth, trackers = tmp_path / "gt/MOT17-train/seq", tmp_path / "trackers/MOT17-train/ours/data"
    (truth / "gt").mkdir(parents=True)
    trackers.mkdir(parents=True)
    (trackers / "seq.txt").write_text("\n".join(lines) + "\n")
    (truth / "gt/gt.txt").write_text("".join(f"{','.join(line.split(',')[:6])},1,1,1\n" for line in lines))
    (truth / "seqinfo.ini").write_text("[Sequence]\nname=seq\nseqLength=6\n")
    maps = tmp_path / "maps.txt"
    maps.write_text("name\nseq\n")
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            "GT_FOLDER": str(tmp_path / "gt"), "TRACKERS_FOLDER": str(tmp_path / "trackers"), "SEQMAP_FILE": str(maps),
            "OUTPUT_FOLDER": str(tmp_path / "out"), "BENCHMARK": "MOT17", "SPLIT_TO_EVAL": "train", "PRINT_CONFIG": False,
            "DO_PREPROC": False,
        }
    )  # fmt: skip
    data = dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("ours", "seq"), "pedestrian")
    with contextlib.redirect_stdout(io.StringIO()):
        measured = trackeval.metrics.HOTA().eval_sequence(data)
    assert data["num_tracker_ids"] == 2 and measured["HOTA"].mean() == pytest.approx(1.0)


def test_without_tracks_the_id_is_minus_one_and_our_own_reader_takes_it(tmp_path):
    written(tmp_path, "mot", found(FRAMES))
    (tmp_path / "mot").mkdir()
    text = (tmp_path / "detections.mot.txt").read_text()
    assert {line.split(",")[1] for line in text.splitlines()} == {"-1"}
    (tmp_path / "mot/my-video.txt").write_text(text)
    names = Names([("s/my-video", i) for i in range(6)], {"s/my-video": ["my-video.mkv"]})
    read = predictions.read(tmp_path / "mot", names)
    boxes_N4, scores_N = read.boxes["s/my-video", 1]
    assert boxes_N4.tolist() == [[6, 10, 3, 3], [40, 8, 2, 2]] and scores_N.tolist() == [0.9, 0.5]
    assert len(read.boxes["s/my-video", 3][0]) == 0 and not read.missing


def test_formats_by_name():
    assert chosen("mot, jsonl,mot") == ["mot", "jsonl"]
    with pytest.raises(InputError, match="mott: unknown .did you mean 'mot'"):
        chosen("mott")


# Tracks.


def ids(items: list[Found]) -> list[list[int | None]]:
    return [item.tracks for item in items]


@pytest.mark.parametrize("step", [0.5, 3, 8])
def test_targets_that_never_overlap_are_one_track(step):
    """Two pixels wide, and up to eight on from frame to frame: the overlap is zero."""
    frames = [[(2 + step * i, 9, 2, 2, 0.9), (70, 90 - step * i, 2, 2, 0.8)] for i in range(12)]
    assert ids(found(frames, tracked=True)) == [[1, 2]] * 12


def test_a_lone_detection_is_no_track_and_a_gap_is_bridged():
    frames: list[list[tuple]] = [[(10 + 2 * i, 10, 3, 3, 0.9)] for i in range(20)]
    frames[4] = [(30, 40, 3, 3, 0.99), *frames[4]]  # a false alarm of one frame
    frames[9] = frames[10] = []
    found_ = ids(found(frames, tracked=True))
    assert found_[4] == [None, 1]
    assert [each for i, each in enumerate(found_) if i not in (4, 9, 10)] == [[1]] * 17
    # Long away is another track.
    frames = [[(10, 10, 3, 3, 0.9)]] * 5 + [[]] * 30 + [[(10, 10, 3, 3, 0.9)]] * 5
    found_ = ids(found(frames, tracked=True))
    assert found_[:5] == [[1]] * 5 and found_[-5:] == [[2]] * 5


def test_two_that_cross_keep_their_numbers():
    frames = [[(10 + 2 * i, 20 + i, 2, 2, 0.9), (50 - 2 * i, 20 + i + 4, 2, 2, 0.8)] for i in range(20)]
    assert ids(found(frames, tracked=True)) == [[1, 2]] * 20


def test_numbers_come_as_soon_as_they_are_known():
    tracks = Tracks()
    given = [tracks.update(detections((10 + i, 10, 3, 3, 0.9))) for i in range(5)]
    assert given == [[None], [None], [1], [1], [1]]
    held = []

    def frames():
        for item in found([[(10, 10, 3, 3, 0.9)]] * 30):
            held.append(item.index)
            yield item

    for item in followed(frames(), Tracks()):
        assert held[-1] - item.index <= LAG


def test_ten_thousand_detections_a_frame_are_bounded():
    crowd = [(float(i % 100), float(i // 100), 1, 1, 0.5) for i in range(10_000)]
    tracks = Tracks()
    given = [tracks.update(detections(*crowd)) for _ in range(3)]
    assert len(given[2]) == 10_000 and sum(each is not None for each in given[2]) == 256
