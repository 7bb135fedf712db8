"""What a shard holds: plain WebDataset, the recordings' own counts, a manifest that says where everything lies."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from recordings import frames, tree, write_image, write_video

from irstd.config import GradientConfig, ShardConfig, SplitConfig
from irstd.data import sequence, shards
from irstd.data.gradient import gradient_map
from irstd.data.ingest import ingest
from irstd.data.manifest import SPLITS, Manifest, sealed
from irstd.errors import InputError, WorkError
from irstd.files import sha256_file
from irstd.registry import verification
from irstd.workspace import Workspace
from tests.conftest import CONFIG, UNLABELLED, UNLABELLED_FRAME

# The reader of webdataset leaves its tars to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ARRAYS = ("frames.npy", "gradient.npy", "masks.npy")


def read(folder: Path, split: str = "*") -> list[dict[str, Any]]:
    """The samples as someone without this package reads them."""
    urls = [str(path) for path in sorted(folder.glob(f"{split}-*.tar"))]
    return list(webdataset.WebDataset(urls, shardshuffle=False).decode()) if urls else []


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def folder(sample_shards: Path) -> Path:
    return sample_shards / "sample"


@pytest.fixture(scope="module")
def samples(folder: Path) -> dict[str, dict[str, Any]]:
    return {sample["__key__"]: sample for sample in read(folder)}


def test_plain_webdataset_gives_what_the_recordings_hold(samples, sample_scenes):
    seen: dict[str, list[int]] = {}
    for sample in samples.values():
        targets = sample["targets.json"]
        name, first, halo = targets["sequence"], targets["first_frame"], targets["halo"]
        assert sample["__key__"] == f"sample/{name}/{first:06d}" and targets["dataset"] == "sample"
        assert halo == min(CONFIG.frames - 1, first)
        scene, rows = sample_scenes[name], np.s_[first - halo : first - halo + len(targets["frames"])]
        labelled_n = np.array([(name, frame["index"]) != UNLABELLED_FRAME for frame in targets["frames"]])
        assert sample["frames.npy"].dtype == np.uint16
        np.testing.assert_array_equal(sample["frames.npy"], scene.frames_THW[rows])
        np.testing.assert_array_equal(sample["gradient.npy"], gradient_map(scene.frames_THW[rows]))
        assert sample["gradient.npy"].dtype == np.float16 and sample["masks.npy"].dtype == np.uint8
        np.testing.assert_array_equal(sample["masks.npy"], scene.masks_THW[rows] * labelled_n[:, None, None])
        for frame, labelled in zip(targets["frames"], labelled_n, strict=True):
            index = frame["index"]
            assert frame["labelled"] == labelled
            assert frame["boxes"] == (scene.boxes[index].round(4).tolist() if labelled else [])
            assert frame["points"] == (scene.points[index].round(4).tolist() if labelled else [])
            assert frame["classes"] == ["target"] * len(frame["boxes"])
        seen.setdefault(name, []).extend(frame["index"] for frame in targets["frames"][halo:])
    # Every frame of every labelled sequence is a key frame once, with at most `chunk` of them in a sample.
    assert seen == {name: [*range(len(s.frames_THW))] for name, s in sample_scenes.items() if name != UNLABELLED}
    assert max(len(s["targets.json"]["frames"]) - s["targets.json"]["halo"] for s in samples.values()) == CONFIG.chunk


def test_member_names_have_dots_only_before_the_member(folder):
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.name.partition(".")[2] in (*ARRAYS, "targets.json")
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)


def test_an_unlabelled_sequence_is_in_no_split(folder, sample_data):
    known = {item.name for item in sequence.sequences(sample_data, "sample")}
    content = manifest(folder)
    given = [name for split in SPLITS for name in content["splits"][split]]
    assert len(given) == len(set(given)) and set(given) == known - {UNLABELLED} == set(content["sequences"])
    groups = json.loads((sample_data / "sample" / "splits.json").read_text())["groups"]
    assert all(groups[name] == split for split in SPLITS for name in content["splits"][split])
    for split in SPLITS:
        assert {sample["targets.json"]["sequence"] for sample in read(folder, split)} == set(content["splits"][split])


def test_counts(folder, sample_scenes):
    content = manifest(folder)
    for split, found in content["counts"].items():
        names = content["splits"][split]
        total = sum(len(sample_scenes[name].frames_THW) for name in names)
        unknown = int(UNLABELLED_FRAME[0] in names)
        targets = sum(len(b) for name in names for b in sample_scenes[name].boxes)
        targets -= len(sample_scenes["b"].boxes[3]) * unknown
        samples = sum(-(-len(sample_scenes[name].frames_THW) // CONFIG.chunk) for name in names)
        expected = {"sequences": len(names), "samples": samples, "key_frames": total, "labelled": total - unknown}
        assert found == expected | {"targets": targets}


def test_offsets_lead_to_the_arrays(folder, samples):
    for shard in manifest(folder)["shards"]:
        path = folder / shard["file"]
        assert shard["sha256"] == sha256_file(path) and shard["file"].startswith(shard["split"])
        for entry in shard["samples"]:
            sample = samples[entry["key"]]
            assert set(entry["members"]) == {*ARRAYS, "targets.json"}
            for name in ARRAYS:
                offset, length, dtype, shape = entry["members"][name]
                mapped = np.memmap(path, dtype, "r", offset, tuple(shape))
                assert mapped.nbytes == length and mapped.dtype == sample[name].dtype
                np.testing.assert_array_equal(mapped, sample[name])
            offset, length, *_ = entry["members"]["targets.json"]
            text = path.read_bytes()[offset : offset + length]
            assert json.loads(text) == sample["targets.json"] and entry["targets_crc32"] == zlib.crc32(text)
            for row, expected in enumerate(entry["crc32"]):
                assert zlib.crc32(b"".join(sample[name][row].tobytes() for name in ARRAYS)) == expected
            assert len(entry["crc32"]) == len(sample["frames.npy"])
            flags = [frame["labelled"] for frame in sample["targets.json"]["frames"][entry["halo"] :]]
            assert entry["labelled"] == "".join("1" if flag else "0" for flag in flags)


def test_the_digest_is_what_its_definition_says(folder):
    content = manifest(folder)
    hashes = {}
    for shard in content["shards"]:
        with tarfile.open(folder / shard["file"]) as tar:
            for member in tar:
                hashed = hashes.setdefault(member.name.partition(".")[0], hashlib.sha256())
                hashed.update(f"{member.name}\0{member.size}\0".encode() + tar.extractfile(member).read())
    named = {
        "schema": 1,
        "gradient": {"operator": "central", "padding": "replicate", "version": 1},
        "frames": CONFIG.frames,
        "chunk": CONFIG.chunk,
        "splits": content["splits"],
        "samples": {key: hashed.hexdigest() for key, hashed in hashes.items()},
    }
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert content["digest"] == hashlib.sha256(text.encode()).hexdigest()
    index = manifest(folder.parent)["sets"]["sample"]
    assert index == {"manifest": "sample/manifest.json", "digest": content["digest"], "counts": content["counts"]}


def test_options(sample_data, tmp_path, samples):
    """Without a gradient map, with another operator, and with other chunks: the digest tells them apart."""
    digests = set()
    options = {
        "same": CONFIG,
        "none": CONFIG.model_copy(update={"gradient": GradientConfig(operator="none")}),
        "sobel": CONFIG.model_copy(update={"gradient": GradientConfig(operator="sobel", padding="zero")}),
        "chunk": ShardConfig(frames=5, chunk=3),
        "frames": ShardConfig(frames=2, chunk=4),
    }
    for name, config in options.items():
        digests.add(shards.build(sample_data, tmp_path / name, config)["sample"])
    assert len(digests) == len(options)
    assert all("gradient.npy" not in sample for sample in read(tmp_path / "none" / "sample"))
    assert manifest(tmp_path / "none" / "sample")["gradient"] is None
    for sample in read(tmp_path / "sobel" / "sample"):
        np.testing.assert_array_equal(sample["gradient.npy"], gradient_map(sample["frames.npy"], "sobel", "zero"))
    assert {s["targets.json"]["halo"] for s in read(tmp_path / "frames" / "sample")} == {0, 1}


def test_blocks_are_stretches_with_gaps(tmp_path):
    """One recording, four splits: no clip of T frames sees frames of another split."""
    images = frames(46, 8, 12)
    write_video(tmp_path / "source" / "long.mkv", images)
    (tmp_path / "source" / "long.csv").write_text("frame,x,y,w,h\n7,1,1,2,2\n")
    ingest(tmp_path / "source", "one", tmp_path / "data", tmp_path / "staging")
    shards.build(tmp_path / "data", tmp_path / "shards", ShardConfig(frames=5, chunk=4, split=SplitConfig(by="block")))
    content, owner = manifest(tmp_path / "shards" / "one"), {}
    for split in SPLITS:
        found = read(tmp_path / "shards" / "one", split)
        keys = []
        for sample in found:
            for row, frame in enumerate(sample["targets.json"]["frames"]):
                assert owner.setdefault(frame["index"], split) == split  # halos included
                np.testing.assert_array_equal(sample["frames.npy"][row], images[frame["index"]])
                keys += [frame["index"]] if row >= sample["targets.json"]["halo"] else []
        assert keys == [*range(keys[0], keys[-1] + 1)]
        assert content["splits"][split] == [f"long[{keys[0]}:{keys[-1] + 1}]"]
        assert found[0]["targets.json"]["halo"] == 0
    used = sorted(owner)
    borders = [after - before for before, after in zip(used, used[1:], strict=False) if owner[before] != owner[after]]
    assert borders == [6, 6, 6] and used[0] == 0 and used[-1] == 45  # gaps of 5 frames
    assert content["split_by"] == "block"


def test_too_few_groups_and_no_data_are_refused(tmp_path):
    with pytest.raises(InputError, match="no data to shard; ingest"):
        shards.build(tmp_path / "data", tmp_path / "shards", CONFIG)
    for name in "ab":
        write_image(tmp_path / "source" / f"{name}.png", frames(1)[0])
        (tmp_path / "source" / f"{name}.csv").write_text("frame,x,y,w,h\n")
    ingest(tmp_path / "source", "few", tmp_path / "data", tmp_path / "staging")
    with pytest.raises(InputError, match=r"set few: 2 labelled group.*shard\.split\.by=block"):
        shards.build(tmp_path / "data", tmp_path / "shards", CONFIG)
    assert not (tmp_path / "shards").exists()
    # What has no share needs no group, and groups that came under other shares are given theirs when they come again.
    two = CONFIG.model_copy(update={"split": SplitConfig(train=0.5, val=0.5, gate=0, test=0, allow_duplicates=["few"])})
    with pytest.raises(InputError, match="have no split yet; ingest them again"):
        shards.build(tmp_path / "data", tmp_path / "shards", two)
    ingest(tmp_path / "source", "few", tmp_path / "data", tmp_path / "staging", shares=two.split)
    shards.build(tmp_path / "data", tmp_path / "shards", two)
    assert {k: len(v) for k, v in manifest(tmp_path / "shards" / "few")["splits"].items() if v} == {
        "train": 1,
        "val": 1,
    }


def add_set(data: Path, name: str, lengths: dict[str, int]) -> None:
    """Ingest a set with a labelled video of each length."""
    source = data.parent / f"source-{name}"
    for each, count in lengths.items():
        write_video(source / f"{each}.mkv", frames(count))
        (source / f"{each}.csv").write_text("frame,x,y,w,h\n0,1,1,2,2\n")
    ingest(source, name, data, data.parent / "staging")


def test_a_set_that_cannot_be_split_is_left_out(sample_data, tmp_path, capsys):
    shutil.copytree(sample_data, tmp_path / "data")
    alone = shards.build(tmp_path / "data", tmp_path / "alone", CONFIG)
    add_set(tmp_path / "data", "odd", {"p": 30, "q": 6})
    assert shards.build(tmp_path / "data", tmp_path / "shards", CONFIG) == alone
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: shards: set odd left out: 2 labelled group") and "shard.split.by=block" in line
    assert [*manifest(tmp_path / "shards")["sets"]] == ["sample"]

    # Blocks cut what was given to no split, and leave the other set as it was.
    blocks = CONFIG.model_copy(update={"split": SplitConfig(by="block")})
    lines: list[str] = []
    assert shards.build(tmp_path / "data", tmp_path / "shards", blocks, warn=lines.append) == alone
    assert len(lines) == 1 and "set odd left out: sequence q: 6 frames are too few" in lines[0]
    shutil.rmtree(tmp_path / "data" / "odd" / "q")
    found = shards.build(tmp_path / "data", tmp_path / "shards", blocks, warn=lines.append)
    assert [*found] == ["odd", "sample"] and found["sample"] == alone["sample"] and len(lines) == 1
    assert manifest(tmp_path / "shards" / "odd")["split_by"] == "block"
    assert manifest(tmp_path / "shards" / "sample")["split_by"] == "group"


def test_a_set_keeps_its_way_of_splitting(tmp_path):
    """Two recordings are cut into blocks; with the third there are groups enough, and test frames would become train."""
    add_set(tmp_path / "data", "odd", {"p": 30, "q": 32})
    blocks, out = ShardConfig(frames=5, split=SplitConfig(by="block")), tmp_path / "shards"
    shards.build(tmp_path / "data", out, blocks)
    before = tree(out)
    write_video(tmp_path / "more" / "r.mkv", frames(9))
    (tmp_path / "more" / "r.csv").write_text("frame,x,y,w,h\n0,1,1,2,2\n")
    ingest(tmp_path / "more", "odd", tmp_path / "data", tmp_path / "staging")
    assert len(json.loads((tmp_path / "data" / "odd" / "splits.json").read_text())["groups"]) == 3
    for config in blocks, ShardConfig(frames=5):
        with pytest.raises(InputError, match=r"^set odd: its shards were cut into blocks.*remove .*shards/odd$"):
            shards.build(tmp_path / "data", out, config)
        assert tree(out) == before
    (out / "odd").rename(out / ".odd.old")  # killed between the two renamings
    with pytest.raises(InputError, match="its shards were cut into blocks"):
        shards.build(tmp_path / "data", out, blocks)
    (out / ".odd.old").rename(out / "odd")
    shutil.rmtree(out / "odd")
    shards.build(tmp_path / "data", out, blocks)
    assert manifest(out / "odd")["split_by"] == "group"


def test_blocks_stay_where_they_are(tmp_path):
    """Other shares would move frames from one split to another; a wider gap only takes some away."""
    add_set(tmp_path / "data", "odd", {"p": 60, "q": 62})
    out = tmp_path / "shards"
    shards.build(tmp_path / "data", out, ShardConfig(frames=3, split=SplitConfig(by="block")))
    before = tree(out)
    with pytest.raises(InputError, match=r"^set odd: .*frames of p would move from gate to val .*remove .*shards/odd$"):
        moved = SplitConfig(by="block", train=0.9, val=0.04, gate=0.03, test=0.03)
        shards.build(tmp_path / "data", out, ShardConfig(frames=3, split=moved))
    assert tree(out) == before
    shards.build(tmp_path / "data", out, ShardConfig(frames=4, split=SplitConfig(by="block")))
    assert manifest(out / "odd")["frames"] == 4


def test_blocks_of_groups_that_have_splits_are_said_to_decide_nothing(tmp_path):
    add_set(tmp_path / "data", "odd", {"p": 8, "q": 8, "r": 8})
    said: list[str] = []
    shards.build(
        tmp_path / "data",
        tmp_path / "shards",
        ShardConfig(frames=3, split=SplitConfig(by="block")),
        warn=said.append,
    )
    assert said == ["shards: shard.split.by=block decides nothing here: all groups have splits (splits.json)"]


def test_a_split_that_is_none_is_refused(tmp_path):
    add_set(tmp_path / "data", "odd", {"p": 8, "q": 8, "r": 8})
    path = tmp_path / "data" / "odd" / "splits.json"
    content = json.loads(path.read_text())
    content["groups"][next(iter(content["groups"]))] = "trian"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="splits.json: group .* is in 'trian', which is no split"):
        shards.build(tmp_path / "data", tmp_path / "shards", ShardConfig(frames=3))


def test_a_short_sequence_is_named(tmp_path):
    add_set(tmp_path / "data", "odd", {"p": 6})
    with pytest.raises(InputError, match=r"^set odd: sequence p: 6 frames are too few"):
        shards.build(tmp_path / "data", tmp_path / "shards", ShardConfig(frames=5, split=SplitConfig(by="block")))


def test_altered_labels_are_noticed(sample_data, tmp_path):
    shutil.copytree(sample_data, tmp_path / "data")
    shards.build(tmp_path / "data", tmp_path / "shards", CONFIG)
    workspace = Workspace(tmp_path, tmp_path / ".irstd")
    assert verification._recordings(workspace, "sample", workspace.shards) is None
    path = tmp_path / "data" / "sample" / "a" / "annotations.json"
    before = path.read_text()
    path.write_text(before.replace('"labelled":true', '"labelled":false', 1))
    assert path.read_text() != before
    assert "sample/a/annotations.json: is altered" in str(
        verification._recordings(workspace, "sample", workspace.shards)
    )
    # The tars would be kept: they are named by the recorded hash.
    with pytest.raises(InputError, match=r"^sample/a/annotations\.json: is altered .*--update"):
        shards.build(tmp_path / "data", tmp_path / "shards", CONFIG)
    path.write_text(before)
    record = path.with_name("sequence.json")
    other = json.loads(record.read_text()) | {"annotations_sha256": None}
    path.unlink()
    record.write_text(json.dumps(other))
    assert "a: labels is None" in str(verification._recordings(workspace, "sample", workspace.shards))


def test_a_long_name_can_be_read(sample_data, tmp_path):
    """The oldest tar header ends at 100 letters."""
    shutil.copytree(sample_data, tmp_path / "data")
    name = "x" * sequence.LONGEST_SLUG
    (tmp_path / "data" / "sample" / "f").rename(tmp_path / "data" / "sample" / name)
    path = tmp_path / "data" / "sample" / name / "sequence.json"
    path.write_text(path.read_text().replace('"name": "f"', f'"name": "{name}"'))
    shards.build(tmp_path / "data", tmp_path / "shards", CONFIG)
    found = [s for s in read(tmp_path / "shards" / "sample") if s["__key__"] == f"sample/{name}/000000"]
    assert len(found) == 1 and len(found[0]["frames.npy"]) == 1


def test_a_recording_that_lost_frames_stops_the_build(sample_data, sample_scenes, tmp_path):
    shutil.copytree(sample_data, tmp_path / "data")
    write_video(tmp_path / "data" / "sample" / "a" / "a.mkv", sample_scenes["a"].frames_THW[:7])
    with pytest.raises(WorkError, match="a.*7 frames.*11"):
        shards.build(tmp_path / "data", tmp_path / "shards", CONFIG)


def test_damaged_manifests_are_refused(folder, tmp_path):
    content = manifest(folder)
    old = content["gradient"] | {"version": 0}
    relabelled = json.loads(json.dumps(content["shards"]).replace('"labelled": "1', '"labelled": "0'))
    for changed, message in [
        (content | {"frames": 7}, "digest does not match"),
        (content | {"splits": content["splits"] | {"train": []}}, "digest does not match"),
        ({k: v for k, v in content.items() if k != "shards"}, "digest does not match"),
        (content | {"set": "other"}, "digest does not match"),
        (content | {"intensity": content["intensity"] | {"p995": 1.0}}, "digest does not match"),
        (content | {"shards": relabelled}, "digest does not match"),
        ({k: v for k, v in content.items() if k != "sha256"}, "digest does not match"),
        (content | {"schema": 0}, "schema 0, this version reads 1"),
        ([], "damaged"),
    ]:
        (tmp_path / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message):
            Manifest.read(tmp_path)
    other = content | {"gradient": old}
    (tmp_path / "manifest.json").write_text(json.dumps(sealed(other)))
    with pytest.raises(InputError, match="gradient version 0"):
        Manifest.read(tmp_path)
    (tmp_path / "manifest.json").write_text((folder / "manifest.json").read_text()[:-9])
    with pytest.raises(InputError, match="damaged"):
        Manifest.read(tmp_path)


def test_ignore_boxes_reach_the_shard_and_are_no_targets(tmp_path):
    source = tmp_path / "source"
    for name in "abc":
        write_video(source / f"{name}.mkv", frames(seed=ord(name)))
        (source / f"{name}.csv").write_text("frame,x,y,w,h,ignore\n2,1,2,3,4,0\n2,5,6,7.5,8,1\n4,0,0,9,9,1\n")
    ingest(source, "set", tmp_path / "data", tmp_path / "staging")
    shards.build(tmp_path / "data", tmp_path / "shards", CONFIG)
    all_ = [sample["targets.json"] for sample in read(tmp_path / "shards/set")]
    rows = {frame["index"]: frame for targets in all_ if targets["sequence"] == "a" for frame in targets["frames"]}
    assert rows[2]["boxes"] == [[1, 2, 3, 4]] and rows[2]["ignore"] == [[5, 6, 7.5, 8]]
    assert rows[4]["boxes"] == [] and rows[4]["ignore"] == [[0, 0, 9, 9]] and "ignore" not in rows[3]
    assert sequence.sequences(tmp_path / "data", "set")[0].target_frames == 1
