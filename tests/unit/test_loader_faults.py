"""What may happen to shards: every fault is one error that names the place, or it changes no batch."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from irstd.config import GradientConfig
from irstd.data import shards
from irstd.data.gradient import GradientSpec
from irstd.data.loader import ClipLoader
from irstd.data.manifest import Manifest, sealed
from irstd.data.windows import Windows
from irstd.errors import InputError, WorkError
from tests.conftest import CONFIG
from tests.unit.test_loader_order import assert_same


@pytest.fixture
def copied(sample_shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(sample_shards, tmp_path / "shards")
    return tmp_path / "shards"


def test_any_flipped_byte_is_named_or_does_not_matter(copied):
    """Arrays and targets are checked; headers of the tar and of its members are not read."""
    expected = list(ClipLoader(copied, "val", batch_size=2))
    windows = Windows([Manifest.read(copied / "sample")], "val")
    path = Path(windows.paths[0])
    content = path.read_bytes()
    inside = np.zeros(len(content), bool)
    for sample in windows.samples:
        for offset, length, *_ in sample.members.values():
            inside[offset : offset + length] = True
    draws = random.Random(0)
    outside = draws.sample(np.flatnonzero(~inside).tolist(), 40)
    for at in outside + draws.sample(np.flatnonzero(inside).tolist(), 40):
        broken = bytearray(content)
        broken[at] ^= 1 << draws.randrange(8)
        path.write_bytes(broken)
        if inside[at]:
            with pytest.raises(
                WorkError, match=r"val-000000.tar: damaged at sample/e, (frame \d|targets of the frames)"
            ):
                list(ClipLoader(copied, "val", batch_size=2))
        else:
            for found, wanted in zip(ClipLoader(copied, "val", batch_size=2), expected, strict=True):
                assert_same(found, wanted)


def test_guarded_batches_are_the_same(sample_shards):
    for split in ("train", "val"):
        options = {"batch_size": 3, "crop": 16}
        guarded = ClipLoader(sample_shards, split, guarded=True, **options)
        for found, wanted in zip(guarded, ClipLoader(sample_shards, split, **options), strict=True):
            assert_same(found, wanted)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_shrinks_under_a_guarded_reader_is_an_error(copied, workers):
    """A mapped one would end the process."""
    loader = ClipLoader(copied, "val", batch_size=1, guarded=True, workers=workers)
    first = next(iter(loader))
    assert first["key"] == [("sample/e", 0)]
    tar = next((copied / "sample").glob("val-*.tar"))
    os.truncate(tar, 600)
    with pytest.raises(WorkError, match=r"val-000000.tar: cannot be read \(.*shorter\) at sample/e, frame 0; build"):
        list(loader)
    assert Path(f"/proc/{os.getpid()}").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_fails_is_not_consumed(copied, workers):
    loader = ClipLoader(copied, "val", frames=1, batch_size=1, workers=workers)
    number, row = int(loader.windows.sample_N[3]), int(loader.windows.row_N[3])
    sample = loader.windows.samples[number]
    offset, length, _, shape = sample.members["frames.npy"]
    with open(loader.windows.paths[sample.tar], "r+b") as file:
        file.seek(offset + row * length // shape[0])
        file.write(b"\xff\xee")
    taken = 0
    with pytest.raises(WorkError, match="damaged"):
        for _ in loader:
            taken += 1
    assert taken == loader.state_dict()["consumed"] == 3


def test_an_error_of_the_disk_is_named(copied, monkeypatch):
    loader = ClipLoader(copied, "val", batch_size=1, guarded=True)
    read, calls = os.preadv, []

    def preadv(handle: int, buffers: list, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 12:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(handle, [buffers[0][:1000]], offset)  # and in pieces, as a network file system may

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(WorkError, match=r"cannot be read \(Input/output error\) at sample/e, frame"):
        list(loader)


def test_missing_and_short_tars_are_refused_at_once(copied):
    path = next((copied / "sample").glob("train-*.tar"))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(WorkError, match="train-000000.tar: .* bytes, its manifest needs"):
        ClipLoader(copied, "train")
    path.unlink()
    with pytest.raises(WorkError, match="train-000000.tar: cannot be read"):
        ClipLoader(copied, "train")


def test_a_manifest_of_other_shards_or_against_itself(copied):
    """One that somebody wrote: a wrong place is found by the checksum of the frame."""
    path = copied / "sample" / "manifest.json"
    content = json.loads(path.read_text())
    sample = next(s for s in content["shards"] if s["split"] == "val")["samples"][0]
    sample["members"]["frames.npy"][0] += 64
    path.write_text(json.dumps(sealed(content)))
    with pytest.raises(WorkError, match="damaged at sample/e, frame 0"):
        list(ClipLoader(copied, "val"))
    offset, length, dtype, (rows, height, width) = sample["members"]["masks.npy"]
    turned = sample["members"] | {"masks.npy": [offset, length, dtype, [rows, width, height]]}
    for change in ({"crc32": sample["crc32"][1:]}, {"labelled": "1"}, {"members": {}}, {"members": turned}):
        kept = dict(sample)
        sample.update(change)
        path.write_text(json.dumps(sealed(content)))
        with pytest.raises(InputError, match="manifest.json: the entry 'sample.* contradicts itself; build"):
            ClipLoader(copied, "val")
        sample.update(kept)


def test_any_flipped_byte_of_a_manifest_is_named_or_does_not_matter(copied):
    """Labels, names, places and statistics are no part of the digest, and decide what a network sees all the same."""
    path = copied / "sample" / "manifest.json"
    text = path.read_bytes()
    before = json.loads(text)
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(text), 300).tolist():
        changed = bytearray(text)
        changed[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            found = Manifest.read(copied / "sample").content
        except InputError:
            continue
        assert found == before


def test_gradient_maps_must_be_the_expected_ones(sample_shards, sample_data, tmp_path):
    central, sobel = GradientSpec(), GradientSpec("sobel")
    assert next(iter(ClipLoader(sample_shards, "val", gradient_spec=central)))["gradient"].any()
    with pytest.raises(
        InputError, match="sample hold gradient maps central/replicate, but sobel/replicate are expected"
    ):
        ClipLoader(sample_shards, "val", gradient_spec=sobel)
    ClipLoader(sample_shards, "val", gradient_spec=sobel, gradient=False)  # which reads none
    shards.build(
        sample_data, tmp_path / "none", CONFIG.model_copy(update={"gradient": GradientConfig(operator="none")})
    )
    stored = CONFIG.model_copy(update={"gradient": GradientConfig(operator="sobel")})
    shards.build(sample_data, tmp_path / "sobel", stored)
    options = {"batch_size": 2, "crop": 16}
    pairs = zip(
        ClipLoader(tmp_path / "none", "train", gradient_spec=sobel, **options),
        ClipLoader(tmp_path / "sobel", "train", **options),
        strict=True,
    )
    for computed, kept in pairs:
        np.testing.assert_allclose(computed["gradient"], kept["gradient"], rtol=2**-10, atol=1e-7)


def test_what_is_kept_for_each_frame_is_small(sample_shards):
    """A few bytes a key frame, whatever its size; parsed targets are bounded."""
    loader = ClipLoader(sample_shards, "train", batch_size=1)
    list(loader)
    windows = loader.windows
    assert windows.sample_N.itemsize + windows.row_N.itemsize <= 8
    assert isinstance(windows.checked, bytearray) and len(windows.checked) == sum(len(s.crc32) for s in windows.samples)
    assert all(s.crc32.dtype == np.uint32 for s in windows.samples)
    assert windows.targets.cache_info().maxsize is not None and windows.targets.cache_info().hits > 0
