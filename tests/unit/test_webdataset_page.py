"""The snippets of docs/WEBDATASET.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from irstd.data.loader import ClipLoader

PAGE = Path(__file__).resolve().parents[2] / "docs" / "WEBDATASET.md"


# The reader of webdataset leaves its tars to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_snippets_run_and_see_the_key_frames(sample_shards, sample_scenes, tmp_path, monkeypatch, capsys):
    (tmp_path / "shards").symlink_to(sample_shards)
    monkeypatch.chdir(tmp_path)
    train, mapped, clips = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert "irstd" not in train + mapped
    names: dict = {}
    exec(compile(train, "docs/WEBDATASET.md", "exec"), names)
    assert re.fullmatch(r"loss 0\.\d{3}\n", capsys.readouterr().out)
    # All 37 labelled key frames of the split.
    batches = list(names["loader"])
    assert sum(len(batch["x"]) for batch in batches) == 37
    assert batches[0]["x"].shape == (4, 5, 32, 32) and batches[0]["mask"].shape == (4, 32, 32)

    # Whole frames, to compare clip by clip.
    names["CROP"] = 46
    val = names["wds"].WebDataset(["shards/sample/val-000000.tar"], shardshuffle=False).decode()
    expected = ClipLoader("shards", "val", batch_size=1, intensity_rule="sequence")
    for clip, ours in zip(names["clips"](val), expected, strict=True):
        assert clip["x"].shape == (5, 46, 46)
        x_THW = (ours["frames"][0] - ours["offset"]) * ours["scale"]
        np.testing.assert_allclose(clip["x"][:, :34], x_THW, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(clip["gradient"][:34], ours["gradient"][0], rtol=1e-6)
        np.testing.assert_array_equal(clip["mask"][:34], ours["masks"][0])

    exec(compile(mapped, "docs/WEBDATASET.md", "exec"), names)
    key, *_ = capsys.readouterr().out.split()
    assert key == names["sample"]["key"] == "sample/a/000000"
    np.testing.assert_array_equal(names["frames"], sample_scenes["a"].frames_THW[:4])

    names = {}
    exec(compile(clips, "docs/WEBDATASET.md", "exec"), names)
    assert names["x"].shape == (4, 5, 32, 32) and names["gradient"].shape == names["target"].shape == (4, 32, 32)
    assert names["state"] | {"epoch": 1, "consumed": 36} == names["state"]
