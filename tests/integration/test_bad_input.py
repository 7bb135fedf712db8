"""Bad input at the command line: one clear line, status 2, and nothing changed."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.integration.conftest import irstd, new_workspace
from tests.integration.forks import forked


def video(path: Path, frames: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 48))
    random = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(random.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()


def empty_folder(folder: Path) -> list[str]:
    folder.mkdir()
    return ["ingest", str(folder), "--name", "bad"]


def truncated_mp4(folder: Path) -> list[str]:
    video(folder / "cut.mp4")
    data = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    return ["ingest", str(folder), "--name", "bad"]


def labels_longer_than_the_video(folder: Path) -> list[str]:
    video(folder / "one.mp4")
    (folder / "one.csv").write_text("frame,x,y,w,h\n0,5,5,3,3\n40,5,5,3,3\n")
    return ["ingest", str(folder), "--name", "bad"]


def mask_of_another_size(folder: Path) -> list[str]:
    for part, shape in (("images", (48, 64)), ("masks", (40, 64))):
        (folder / part).mkdir(parents=True)
        cv2.imwrite(str(folder / part / "Misc_1.png"), np.zeros(shape, np.uint8))
    return ["ingest", str(folder), "--name", "bad"]


def no_such_source(folder: Path) -> list[str]:
    return ["ingest", str(folder / "nowhere"), "--name", "bad"]


def archive_that_leaves_its_folder(folder: Path) -> list[str]:
    folder.mkdir()
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("good/0.png", b"")
        archive.writestr("../../evil.txt", b"evil")
    return ["ingest", str(folder / "set.zip"), "--name", "bad"]


def archive_without_recordings(folder: Path) -> list[str]:
    folder.mkdir()
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("readme.md", b"nothing")
    return ["ingest", str(folder / "set.zip"), "--name", "bad"]


def archive_that_is_cut_off(folder: Path) -> list[str]:
    folder.mkdir()
    with tarfile.open(folder / "set.tar.gz", "w:gz") as archive:
        archive.add(__file__, "a.py")
    data = (folder / "set.tar.gz").read_bytes()
    (folder / "set.tar.gz").write_bytes(data[: len(data) // 2])
    return ["ingest", str(folder / "set.tar.gz"), "--name", "bad"]


def archive_of_another_kind(folder: Path) -> list[str]:
    folder.mkdir()
    (folder / "set.rar").write_bytes(b"Rar!")
    return ["ingest", str(folder / "set.rar"), "--name", "bad"]


def public_set_that_is_another(folder: Path) -> list[str]:
    video(folder / "one.mp4")
    return ["ingest", "IRSTD-UAV", "--from", str(folder)]


def bad_set_name(folder: Path) -> list[str]:
    video(folder / "one.mp4")
    return ["ingest", str(folder), "--name", "My Set"]


def changed_labels_without_update(folder: Path) -> list[str]:
    from irstd.data.synthetic import sample_specs, write_source

    name, spec = next(iter(sample_specs().items()))
    write_source(folder, {name: spec})
    labels = folder / f"{name}.annotations.json"
    labels.write_text(labels.read_text().replace('"labelled": true', '"labelled": false', 1))
    text = labels.read_text()
    assert "false" in text
    return ["ingest", str(folder), "--name", "sample"]


ROWS = [
    (empty_folder, ["source"]),
    (truncated_mp4, ["cut.mp4"]),
    (labels_longer_than_the_video, ["one.csv", "40", "12"]),
    (mask_of_another_size, ["Misc_1", "48", "40"]),
    (no_such_source, ["nowhere"]),
    (archive_that_leaves_its_folder, ["set.zip", "../../evil.txt"]),
    (archive_without_recordings, ["set.zip: no recordings"]),
    (archive_that_is_cut_off, ["set.tar.gz", "cut off"]),
    (archive_of_another_kind, ["set.rar", "unpack it first"]),
    (public_set_that_is_another, ["not laid out as IRSTD-UAV", "labels/"]),
    (["ingest", "NUDT-MIRSDT"], [".irstd/downloads/nudt-mirsdt/", "--from"]),
    (["ingest", "NUAA-SIRT"], ["NUAA-SIRT", "NUAA-SIRST"]),
    (["ingest", "params.yaml", "--from", "."], ["--from", "irstd list sets"]),
    (bad_set_name, ["My Set"]),
    (["ingest"], ["--name"]),
    (["ingest", "--remove", "sample"], ["SET/SEQUENCE"]),
    (["ingest", "--remove", "sample/nothing"], ["nothing"]),
    (["train", "ggl-net", "train.epochs=ten"], ["train.epochs=ten", "integer"]),
    (["train", "ggl-net", "train.epoch=3"], ["unknown key", "train.epochs"]),
    (["train", "gglnet"], ["gglnet", "ggl-net"]),
    (["train", "ggl-net", "--recipe", "recipes/nowhere.yaml"], ["nowhere.yaml"]),
    (["train", "ggl-net", "data.sets=[smaple]"], ["smaple", "sample"]),
    (["train", "ggl-net", "train.batch=100000"], ["train.batch=100000"]),
    (["train", "ggl-net", "--recipe", "recipes/demo.yaml", "--workers", "64"], ["64", "cores", "--workers"]),
    (["train", "ggl-net", "train.batch=5", "--workers", "2"], ["train.batch=5", "2 workers"]),
    (["train", "ggl-net", "data.intensity=full_scale"], ["full_scale", "14-bit"]),
    (["train", "ggl-net", "--shards", "nowhere"], ["nowhere"]),
    (["tune", "demmo"], ["demmo", "demo"]),
    (["tune", "demo", "--parallel", "64"], ["64"]),
    (["evaluate", "models:/ggl-net@nobody"], ["ggl-net"]),
    (["evaluate", "nowhere"], ["nowhere"]),
    (["detect", "nowhere.mp4", "--model", "models:/x@champion", "--out", "o"], ["nowhere.mp4"]),
    (["detect", "params.yaml", "--model", "models:/no-such@champion", "--out", "o"], ["no-such"]),
    (["promote", "some/folder"], ["models:/"]),
    (["list", "modles"], ["modles", "models"]),
    (["clean", "everything"], ["everything"]),
    (["doctor", "dta"], ["dta", "data"]),
    (["run", "train-flow"], ["irstd up"]),
    (["shard", "shard.chunk=4"], ["params.yaml", "--out"]),
    (["trian"], ["trian", "train"]),
]


def contents(folder: Path) -> dict[str, int]:
    """Every file of the workspace that a command could harm, with its time."""
    kept = [folder / "data.dvc", *(folder / "data").rglob("*"), *(folder / "shards").rglob("*")]
    return {str(p): p.stat().st_mtime_ns for p in kept if p.is_file() and p.name != ".lock"}


# These in a process of their own, with all that an import may say.
STARTED = (["ingest"], ["train", "gglnet"], ["detect", "params.yaml"], ["promote", "some/folder"])


@pytest.mark.parametrize(("make", "words"), ROWS, ids=lambda v: v.__name__ if callable(v) else "_".join(v)[:40])
def test_one_line_and_status_two(workspace, tmp_path, make, words):
    before = contents(workspace)
    arguments = make(tmp_path / "source") if callable(make) else make
    call = irstd if arguments[:2] in STARTED else forked
    done = call(workspace, *arguments, check=None)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("irstd: "), done.stderr
    for word in words:
        assert word in lines[0]
    assert contents(workspace) == before
    assert not list((workspace / ".irstd" / "staging").glob("*"))
    assert not (workspace / "o").exists() or not list((workspace / "o").iterdir())


def test_no_workspace(tmp_path):
    done = irstd(tmp_path, "list", "data", check=2)
    assert "data.dvc" in done.stderr


def test_nothing_to_shard_or_train(tmp_path):
    folder = new_workspace(tmp_path / "w")
    assert "irstd ingest" in forked(folder, "shard", check=2).stderr
    assert "irstd shard" in forked(folder, "train", "ggl-net", check=2).stderr
    assert "no data here" in forked(folder, "list", "data").stdout


def test_a_damaged_recording_among_good_ones(tmp_path):
    """Status 1 once the others are a version of data.dvc; what is wrong is said twice, in its place and last."""
    folder = new_workspace(tmp_path / "w")
    for i in range(3):
        video(tmp_path / "source" / f"{i}.mp4", 4 + i)
    truncated_mp4(tmp_path / "source")
    done = forked(folder, "ingest", str(tmp_path / "source"), "--name", "mine", check=1)
    assert "ingest mine: quarantined cut: cut.mp4: truncated: " in done.stdout
    assert "ingest mine: 3 sequences added" in done.stdout and '"quarantined": 1' in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("irstd: ingest mine: 1 recording cannot be read and was left out (cut): replace")
    assert sorted(p.name for p in (folder / "data" / "mine").iterdir()) == ["0", "1", "2", "splits.json"]
    assert "outs" in (folder / "data.dvc").read_text() and "mine" in forked(folder, "list", "data").stdout
    (tmp_path / "source" / "cut.mp4").unlink()
    assert "nothing has changed" in forked(folder, "ingest", str(tmp_path / "source"), "--name", "mine").stdout


def test_two_groups_cannot_be_split_but_blocks_can(tmp_path, source):
    folder = new_workspace(tmp_path / "w")
    two = tmp_path / "two"
    two.mkdir()
    names = sorted(p.stem for p in source.glob("*.mkv"))[:2]
    for path in source.iterdir():
        if path.name.split(".")[0] in names:
            shutil.copy(path, two)
    forked(folder, "ingest", str(two), "--name", "two")
    done = forked(folder, "shard", check=2)
    assert "shard.split.by=block" in done.stderr.splitlines()[-1]
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("by: group", "by: block"))
    assert "train" in forked(folder, "shard").stdout


def test_no_labelled_key_frame(tmp_path, source):
    """Recordings without labels are kept, said so, and cannot be trained on."""
    folder = new_workspace(tmp_path / "w")
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in sorted(source.glob("*.mkv"))[:3]:
        shutil.copy(path, bare)
    done = forked(folder, "ingest", str(bare), "--name", "bare", "--bit-depth", "14")
    assert "3 without labels" in done.stdout
    forked(folder, "shard")
    assert "no labelled key frame" in forked(folder, "train", "ggl-net", check=2).stderr
