"""`irstd detect`: one recording and many, whole or not at all, again for nothing, and in bounded memory."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import cv2
import detected
import numpy as np
import pytest
from recordings import tree, write_image

from irstd.commands import detect, detection
from irstd.data.video import Recording
from irstd.errors import InputError, WorkError
from irstd.files import read_json
from irstd.workspace import Workspace


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(detected.package(tmp_path_factory.mktemp("model") / "package"))


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    (tmp_path / "data.dvc").touch()
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path, tmp_path / ".irstd")


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]


def centres(row: dict) -> list[tuple[float, float]]:
    return sorted((x, y) for x, y, _, _ in row["boxes"])


def test_a_recording_with_everything(workspace, model, tmp_path, capsys):
    detected.recording(Path("a.mkv"), 30, gap=(11, 12))
    assert detect.run(workspace, ["a.mkv"], model, Path("o"), 14, formats="jsonl,coco,mot", page=True, tracks=True) == 0
    assert {p.name for p in Path("o").iterdir()} == {
        "detections.jsonl", "detections.coco.json", "detections.coco.images.json", "detections.mot.txt", "overlay.webm",
        "page.html", "detection.json",
    }  # fmt: skip
    found = rows(Path("o"))
    assert [row["frame"] for row in found] == list(range(30)) and {row["video"] for row in found} == {"a.mkv"}
    assert [centres(row) for row in found] == [sorted(each) for each in detected.centres(30, (11, 12))]
    # Two tracks from the first frame on, through the gap.
    assert {frozenset(row["tracks"]) for row in found if len(row["boxes"]) == 2} == {frozenset({1, 2})}
    film = cv2.VideoCapture("o/overlay.webm")
    assert sum(film.read()[0] for _ in range(40)) == 30
    said = capsys.readouterr().out
    assert "a.mkv: 58 detections and 2 tracks in 30 frames; jsonl, coco, mot, overlay, page in o" in said
    assert f'"page": "{(tmp_path / "o/page.html").as_uri()}"' in said.splitlines()[-1]


def test_without_tracks_lines_are_as_they_were(workspace, model):
    detected.recording(Path("a.mkv"), 4)
    detect.run(workspace, ["a.mkv"], model, Path("o"), 14, overlay=False)
    assert [sorted(row) for row in rows(Path("o"))] == [["boxes", "frame", "scores", "video"]] * 4
    assert sorted(p.name for p in Path("o").iterdir()) == ["detection.json", "detections.jsonl"]


def test_done_again_only_where_something_has_changed(workspace, model, monkeypatch, capsys):
    detected.recording(Path("a.mkv"), 6)
    looks = []
    written = detection._written
    monkeypatch.setattr(detection, "_written", lambda *a: looks.append(1) or written(*a))

    def run(**more) -> int:
        before = len(looks)
        detect.run(workspace, ["a.mkv"], more.pop("model", model), Path("o"), 14, overlay=False, **more)
        return len(looks) - before

    assert run() == 1 and run() == 0
    assert "kept: made before of the same model and recording" in capsys.readouterr().out
    # More files of the same: those that were there stay.
    assert run(formats="mot") == 1 and run(formats="jsonl,mot") == 0
    assert run(tracks=True, formats="mot") == 1
    assert not Path("o/detections.jsonl").exists()  # made without tracks, so not of these files
    assert run(anew=True) == 1
    # Files that are not what was written, or not all there.
    Path("o/detections.jsonl").write_text("")
    assert run() == 1 and run() == 0
    Path("o/detection.json").write_text('{"made_of": [')
    assert run() == 1
    # Another recording of the same name, another model.
    detected.recording(Path("a.mkv"), 6, seed=1)
    assert run() == 1
    other = detected.package(workspace.root / "other", intensity="sequence")
    assert run(model=str(other)) == 1 and run(model=str(other)) == 0


def test_many_recordings_and_a_broken_one(workspace, model, capsys):
    for name, count in (("in/day 1/a.mkv", 5), ("in/day 1/b.mkv", 7), ("in/a.mkv", 4)):
        detected.recording(Path(name), count)
    for index, image in enumerate(detected.scene(3)):
        write_image(Path(f"in/frames/{index + 8}.png"), image)
    Path("in/broken.mkv").write_bytes(b"this is no video")
    before = tree(Path("in"))
    assert detect.run(workspace, ["in"], model, Path("o"), 14, overlay=False, page=True) == 1
    said = capsys.readouterr().out
    assert said.count("failed: ") == 1 and "in/broken.mkv: failed: cannot be opened as a video" in said
    assert "irstd: 1 of 5 recordings failed; the others are done; the same command does the rest" in said
    assert sorted(p.parent.name for p in Path("o").glob("*/detections.jsonl")) == ["a", "day-1-a", "day-1-b", "frames"]
    assert [len(rows(Path("o") / name)) for name in ("a", "day-1-a", "day-1-b", "frames")] == [4, 5, 7, 3]
    assert not list(Path("o").rglob(".detect*")) and tree(Path("in")) == before
    listed = {row["name"]: row for row in read_json(Path("o/recordings.json"))}
    assert listed["broken"]["error"].startswith("cannot be opened") and listed["frames"]["frames"] == 3
    page = Path("o/index.html").read_text()
    assert 'href="day-1-a/page.html"' in page and "cannot be opened as a video" in page
    # The rest, once it is mended; the others are kept.
    detected.recording(Path("in/broken.mkv"), 2)
    assert detect.run(workspace, ["in"], model, Path("o"), 14, overlay=False, page=True) == 0
    assert "4 kept from before" in capsys.readouterr().out and len(rows(Path("o/broken"))) == 2


@pytest.mark.slow
def test_processes_find_the_same(workspace, model, capsys):
    for name in ("a", "b", "c"):
        detected.recording(Path(f"in/{name}.mkv"), 4, seed=ord(name))
    Path("in/d.mkv").write_bytes(b"")
    assert detect.run(workspace, ["in"], model, Path("one"), 14, overlay=False) == 1
    assert detect.run(workspace, ["in/*.mkv"], model, Path("two"), 14, overlay=False, workers=2) == 1
    for name in ("a", "b", "c"):
        one, two = (Path(out) / name / "detections.jsonl" for out in ("one", "two"))
        assert one.read_bytes() == two.read_bytes() and one.read_bytes()
    assert "4 of 4 recordings" in capsys.readouterr().out


def test_nothing_half_written(workspace, model):
    """A recording that breaks off in its midst: what was there stays, and nothing else appears."""
    images = detected.scene(6)
    for index, image in enumerate(images):
        write_image(Path(f"frames/{index}.png"), image)
    detect.run(workspace, ["frames"], model, Path("o"), 14, page=True)
    before = tree(Path("o"))
    Path("frames/5.png").write_bytes(Path("frames/5.png").read_bytes()[:40])
    with pytest.raises(InputError, match=r"5\.png"):
        detect.run(workspace, ["frames"], model, Path("o"), 14, page=True)
    assert tree(Path("o")) == before
    with pytest.raises(InputError, match=r"5\.png"):
        detect.run(workspace, ["frames"], model, Path("new"), 14)
    assert list(Path("new").iterdir()) == []


def test_what_a_killed_call_left_is_removed_and_a_living_one_is_let_alone(tmp_path):
    (tmp_path / ".detect-dead").mkdir()
    (tmp_path / ".detect-dead" / "lock").touch()
    with detection.part(tmp_path) as living:
        (living / "detections.jsonl").touch()
        detection.clear(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [living.name] and (living / "detections.jsonl").exists()
    assert list(tmp_path.iterdir()) == []


class Held:
    """How many of a recording's frames are alive at once, at most."""

    def __init__(self, monkeypatch) -> None:
        self.alive = self.most = 0
        frames = Recording.frames

        def counted(recording):
            for frame_HW in frames(recording):
                self.alive += 1
                self.most = max(self.most, self.alive)
                weakref.finalize(frame_HW, self.gone)
                yield frame_HW
                del frame_HW

        monkeypatch.setattr(Recording, "frames", counted)

    def gone(self) -> None:
        self.alive -= 1


@pytest.mark.parametrize("clips", [False, True])
def test_memory_does_not_grow_with_the_recording(workspace, tmp_path, monkeypatch, clips):
    uri = str(detected.package(tmp_path / "clips", intensity="sequence", clips=clips))
    most = {}
    for count in (26, 70):
        (images := detected.scene(count)).tofile(f"{count}.raw")
        Path(f"{count}.yaml").write_text(
            f"raw: {{width: {images.shape[2]}, height: {images.shape[1]}, dtype: uint16}}\n"
        )
        with monkeypatch.context() as patch:
            held = Held(patch)
            detect.run(
                workspace,
                [f"{count}.raw"],
                uri,
                Path(f"o{count}"),
                14,
                formats="jsonl,coco,mot",
                page=True,
                tracks=True,
            )
            gc.collect()
            most[count] = held.most
    # A batch with the past of its clips, what tracks hold back, and what waits in the pipeline.
    assert most[70] <= most[26] <= 20, most


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"inputs": ["nowhere.mkv"]}, "nowhere.mkv: no such file or folder"),
        ({"inputs": ["*.mkv"]}, r"\*.mkv: matches nothing"),
        ({"inputs": ["data.*"]}, "matches 1 files, none of them a recording"),
        ({"inputs": ["empty"]}, "empty: holds no recording"),
        ({"formats": "coc"}, "--format coc: unknown .did you mean 'coco'"),
        ({"formats": ","}, "--format: is empty"),
        ({"distance": 3.0}, "--track-distance: is of tracks; add --tracks"),
        ({"out": Path("data.dvc") / "o"}, "data.dvc is a file"),
        ({"device": "gpu"}, "--device gpu: unknown"),
        ({"device": "cuda:77"}, "--device cuda:77: this machine has"),
        ({"uri": "no/package"}, "no/package"),
        ({"bit_depth": 9}, "count of"),
    ],
)
def test_bad_input_is_one_line(workspace, model, arguments, words):
    Path("empty").mkdir()
    detected.recording(Path("in/a.mkv"), 2)
    given = {"inputs": ["in/a.mkv"], "uri": model, "out": Path("o"), "bit_depth": 14, "overlay": False} | arguments
    with pytest.raises((InputError, WorkError), match=words) as error:
        detect.run(workspace, **given)
    assert "\n" not in str(error.value)
    assert not Path("o").exists() or list(Path("o").iterdir()) == []


def test_without_norfair_it_says_what_to_install(workspace, model, monkeypatch):
    import sys

    detected.recording(Path("a.mkv"), 2)
    monkeypatch.setitem(sys.modules, "norfair", None)
    with pytest.raises(InputError, match=r"pip install 'irstd\[tracks\]'"):
        detect.run(workspace, ["a.mkv"], model, Path("o"), 14, tracks=True)


def test_bit_depths_of_sidecars_count(workspace, model, capsys):
    detected.recording(Path("a.mkv"), 2)
    Path("a.yaml").write_text("bit_depth: 14\n")
    detect.run(workspace, ["a.mkv"], model, Path("o"), overlay=False)
    assert read_json(Path("o/detection.json"))["made_of"]["bit_depth"] == 14
    assert "adapted" not in capsys.readouterr().out
    np.testing.assert_equal(len(rows(Path("o"))), 2)
