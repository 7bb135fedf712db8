"""What a batch holds: the recordings' own frames, and everything else of the key frame moved and scaled with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from recordings import frames, write_image

from irstd.config import GradientConfig
from irstd.data import intensity, sequence, shards
from irstd.data.derive import targets_of
from irstd.data.gradient import gradient_magnitude
from irstd.data.ingest import ingest
from irstd.data.loader import ClipLoader
from irstd.data.manifest import SPLITS, Manifest
from irstd.data.windows import Windows
from irstd.errors import InputError, WorkError
from tests.conftest import CONFIG, UNLABELLED, UNLABELLED_FRAME

# {"<set>/<sequence>": (frames [T, H, W], masks [T, H, W], T arrays of boxes [M, 4])}
Truth = dict[str, tuple[np.ndarray, np.ndarray, list[np.ndarray]]]


@pytest.fixture(scope="module")
def stills() -> Truth:
    """8-bit images of several sizes, each a sequence of one frame."""
    found: Truth = {}
    for i in range(9):
        image_HW = frames(1, 20 + 7 * (i % 3), 41 - 9 * (i % 2), seed=i)
        mask_HW = np.zeros(image_HW.shape[1:], np.uint8)
        mask_HW[3 + i : 6 + i, 5 : 7 + i] = 1
        found[f"stills/s{i}"] = image_HW, mask_HW[None], [targets_of(mask_HW)[0]]
    return found


@pytest.fixture(scope="module")
def mixed(sample_data: Path, stills: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 14-bit videos and 8-bit stills."""
    folder = tmp_path_factory.mktemp("mixed")
    shutil.copytree(sample_data, folder / "data")
    for key, (images_THW, masks_THW, _) in stills.items():
        name = key.partition("/")[2]
        write_image(folder / "source" / "images" / f"{name}.png", images_THW[0])
        write_image(folder / "source" / "masks" / f"{name}.png", masks_THW[0] * 255)
    ingest(folder / "source", "stills", folder / "data", folder / "staging")
    shards.build(folder / "data", folder / "shards", CONFIG)
    return folder / "shards"


@pytest.fixture(scope="module")
def truth(sample_scenes, stills: Truth) -> Truth:
    return stills | {f"sample/{k}": (s.frames_THW, s.masks_THW, s.boxes) for k, s in sample_scenes.items()}


def rows(loader: ClipLoader) -> Iterator[dict[str, Any]]:
    """One dict for each key frame, padding cut off and found to be zero."""
    for batch in loader:
        for b, (h, w) in enumerate(batch["size"]):
            row = {name: value[b] for name, value in batch.items()}
            for name in {"frames", "gradient", "masks"} & set(batch):
                row[name] = batch[name][b][..., :h, :w]
                assert not batch[name][b][..., h:, :].any() and not batch[name][b][..., w:].any()
            yield row


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("clip", [1, 3, 5])
def test_windows_are_the_frames_of_the_recordings(mixed, truth, clip, workers):
    """The key frame last; before frame 0, frame 0 again; across the borders of chunks; every labelled frame once."""
    seen: list[tuple[str, int]] = []
    for split in SPLITS:
        for row in rows(ClipLoader(mixed, split, clip, batch_size=4 if split != "train" else 1, workers=workers)):
            name, index = row["key"]
            frames_THW, masks_THW, boxes = truth[name]
            wanted = [max(index - back, 0) for back in range(clip - 1, -1, -1)]
            np.testing.assert_array_equal(row["frames"], frames_THW[wanted])
            np.testing.assert_array_equal(row["masks"], masks_THW[index])
            np.testing.assert_allclose(row["boxes"], boxes[index], atol=1e-4)
            seen.append(row["key"])
    expected = [(n, i) for n, (images, *_) in truth.items() for i in range(len(images)) if n != f"sample/{UNLABELLED}"]
    expected.remove((f"sample/{UNLABELLED_FRAME[0]}", UNLABELLED_FRAME[1]))
    assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize("stored", [True, False])
def test_the_gradient_is_in_units_of_x(mixed, sample_data, truth, stored, tmp_path):
    """Stored or computed, it is the gradient of (counts - offset) * scale, of the whole frame."""
    folder = mixed
    if not stored:
        folder = tmp_path
        shards.build(sample_data, folder, CONFIG.model_copy(update={"gradient": GradientConfig(operator="none")}))
    count = 0
    for row in rows(ClipLoader(folder, "train", batch_size=4)):
        frame_HW = truth[row["key"][0]][0][row["key"][1]]
        x_HW = (frame_HW.astype(np.float64) - row["offset"]) * row["scale"]
        assert row["gradient"].dtype == np.float32
        np.testing.assert_allclose(row["gradient"], gradient_magnitude(x_HW), rtol=2**-10, atol=1e-7)
        count += 1
    assert count >= 32
    assert all("gradient" not in batch for batch in ClipLoader(folder, "val", gradient=False))


def test_mixed_sizes_and_types_in_one_batch(mixed, truth):
    val = ClipLoader(mixed, "val", batch_size=100)
    (batch,) = val
    assert len(val) == 1 and batch["frames"].dtype == np.uint16
    sizes = {(int(h), int(w)) for h, w in batch["size"]}
    assert len(sizes) > 1 and batch["frames"].shape[-2:] == tuple(map(max, zip(*sizes, strict=True)))
    assert {name.partition("/")[0] for name, _ in batch["key"]} == {"sample", "stills"}
    assert [tuple(s) for s in batch["size"].tolist()] == [truth[name][0].shape[1:] for name, _ in batch["key"]]
    assert batch["masks"].dtype == np.uint8 and batch["gradient"].shape == batch["masks"].shape
    (only,) = ClipLoader(mixed, "val", batch_size=100, sets=["stills"])
    assert only["frames"].dtype == np.uint8 and {name.partition("/")[0] for name, _ in only["key"]} == {"stills"}
    with pytest.raises(InputError, match=r"no shards of a set 'stils' \(did you mean 'stills'\?\)"):
        ClipLoader(mixed, "val", sets=["stils"])


def test_crops_move_everything_together(sample_shards, sample_data, truth):
    """Each crop lies somewhere in its frame, and clip, gradient, mask and boxes are cut at that same place."""
    whole = {row["key"]: row for row in rows(ClipLoader(sample_shards, "train", batch_size=1))}
    places = set()
    for epoch in range(3):
        loader = ClipLoader(sample_shards, "train", batch_size=1, crop=16, target_crop=1.0)
        loader.set_epoch(epoch)
        for row in rows(loader):
            full = whole[row["key"]]
            assert row["frames"].shape == (5, 16, 16) and tuple(row["size"]) == (16, 16)
            found = (sliding_window_view(full["frames"], (5, 16, 16))[0] == row["frames"]).all((-1, -2, -3))
            ((top, left),) = np.argwhere(found)
            area = np.s_[top : top + 16, left : left + 16]
            np.testing.assert_array_equal(row["gradient"], full["gradient"][area])
            np.testing.assert_array_equal(row["masks"], full["masks"][area])
            assert (row["offset"], row["scale"]) == (full["offset"], full["scale"])
            expected = []
            for x, y, w, h in full["boxes"].tolist():
                x1, y1, x2, y2 = max(x - left, 0), max(y - top, 0), min(x + w - left, 16), min(y + h - top, 16)
                if x2 > x1 and y2 > y1 and (x2 - x1) * (y2 - y1) > 0.249 * w * h:
                    expected.append([x1, y1, x2 - x1, y2 - y1])
            np.testing.assert_allclose(row["boxes"].reshape(-1, 4), np.reshape(expected, (-1, 4)), atol=1e-4)
            assert len(expected) > 0 or not len(full["boxes"])  # target_crop=1: over a target where there is one
            places.add((row["key"], top, left))
    assert len(places) > 2.5 * len(whole)  # another place each epoch
    # A frame smaller than the crop is padded; other splits are never cropped.
    tall = next(r for r in rows(ClipLoader(sample_shards, "train", batch_size=1, crop=40)) if r["key"][0] == "sample/g")
    assert tuple(tall["size"]) == (40, 32)
    assert {b["frames"].shape[-2:] for b in ClipLoader(sample_shards, "val", crop=16)} == {(34, 46)}


@pytest.mark.parametrize("rule", ["auto", "sequence", "dataset", "frame"])
def test_offset_and_scale(mixed, sample_data, truth, rule):
    """Robust rules: the median at 0.5, the span of the percentiles 0.5 and 99.5 over 0.5. Eight bits: /255."""
    known = {f"sample/{item.name}": item.intensity for item in sequence.sequences(sample_data, "sample")}
    contents = [Manifest.read(mixed / name).content for name in ("sample", "stills")]
    train = [(content, name) for content in contents for name in content["splits"]["train"]]
    weights = [len(truth[f"{content['set']}/{name}"][0]) for content, name in train]
    found = [content["sequences"][name]["intensity"] for content, name in train]
    pooled = np.average([[each[k] for k in ("p005", "median", "p995")] for each in found], axis=0, weights=weights)
    loader = ClipLoader(mixed, "val", batch_size=3, intensity_rule=rule)
    for row in [*rows(loader), *rows(loader)]:  # what the first epoch has found serves the second
        name, index = row["key"]
        if name.startswith("stills") and rule == "auto":
            assert (row["offset"], row["scale"]) == (0, np.float32(1 / 255))
            continue
        if rule == "dataset":
            low, middle, high = pooled
        elif rule in ("frame", "auto"):
            low, middle, high = np.percentile(truth[name][0][index], [0.5, 50, 99.5])
        elif name.startswith("stills"):
            continue
        else:
            low, middle, high = (known[name][k] for k in ("p005", "median", "p995"))
        np.testing.assert_allclose((middle - row["offset"]) * row["scale"], 0.5, rtol=1e-4)
        np.testing.assert_allclose((high - low) * row["scale"], 0.5, rtol=1e-4)


def test_intensity_rules_that_are_refused(mixed):
    with pytest.raises(InputError, match="full_scale would erase sample/a, a 14-bit recording"):
        ClipLoader(mixed, "val", intensity_rule="full_scale")
    with pytest.raises(InputError, match="full_scale with a 9-bit recording"):
        intensity.offset_scale("full_scale", 9)
    assert next(iter(ClipLoader(mixed, "val", intensity_rule="full_scale", sets=["stills"])))["offset"][0] == 0
    with pytest.raises(InputError, match="unknown intensity rule 'sequnce'"):
        intensity.offset_scale("sequnce", 14)
    with pytest.raises(InputError, match="statistics are missing"):
        intensity.offset_scale("dataset", 14, dataset=None)


@pytest.mark.parametrize("member", ["frames.npy", "gradient.npy", "masks.npy", "targets.json"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_byte_is_found_and_named(sample_shards, tmp_path, member, workers):
    shutil.copytree(sample_shards, tmp_path / "shards")
    windows = Windows([Manifest.read(tmp_path / "shards" / "sample")], "val", labelled_only=False)
    sample = windows.samples[1]  # key frames 4 to 6 of e, and 0 to 3 before them
    offset, length, _, shape = sample.members[member]
    at = offset + (length // shape[0] * 5 + 17 if shape else 60)  # in the frame 5
    with windows.paths[sample.tar].open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    what = "frame 5" if shape else "targets of the frames 0 to 6"
    with pytest.raises(WorkError, match=f"val-000000.tar: damaged at sample/e, {what}; build it again"):
        list(ClipLoader(tmp_path / "shards", "val", batch_size=2, workers=workers))


def test_tars_that_are_short_or_missing(sample_shards, tmp_path):
    shutil.copytree(sample_shards, tmp_path / "shards")
    path = tmp_path / "shards" / "sample" / "val-000000.tar"
    content = path.read_bytes()
    for length in (len(content) // 2, 0):
        path.write_bytes(content[:length])
        with pytest.raises(WorkError, match=f"val-000000.tar: {length} bytes, its manifest needs"):
            list(ClipLoader(tmp_path / "shards", "val"))
    path.unlink()
    with pytest.raises(WorkError, match="val-000000.tar: cannot be read"):
        list(ClipLoader(tmp_path / "shards", "val"))
    manifest = tmp_path / "shards" / "sample" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"chunk": 9}))
    with pytest.raises(InputError, match="digest does not match its content"):
        ClipLoader(tmp_path / "shards", "val")
    manifest.unlink()
    with pytest.raises(InputError, match="no such file; build the shards first"):
        ClipLoader(tmp_path / "shards", "val")
    (tmp_path / "shards" / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        ClipLoader(tmp_path / "shards", "val")


def test_requests_that_cannot_be_met(sample_shards, sample_source, tmp_path):
    for options, message in [
        (
            {"split": "val", "frames": 6},
            "clips of 6 frames, but the shards of sample were built for 5; set shard.frames=6",
        ),
        ({"split": "val", "world_size": 8}, "8 workers for 7 key frames of 'val'"),
        ({"split": "train", "batch_size": 38}, "train.batch=38 is more than the 37 labelled key frames"),
        ({"split": "train", "batch_size": 19, "world_size": 2}, "train.batch=38 is more than"),
        ({"split": "unlabelled"}, "no labelled key frame in the split 'unlabelled' of sample"),
    ]:
        with pytest.raises(InputError, match=message):
            ClipLoader(sample_shards, **options)
    with pytest.raises(InputError, match="no shards here; build them first"):
        ClipLoader(tmp_path, "val")
    with pytest.raises(InputError, match="is the folder of one set; give the one above it"):
        ClipLoader(sample_shards / "sample", "val")
    (batch,) = ClipLoader(sample_shards, "val", batch_size=1000)
    assert len(batch["key"]) == 7
