"""The parts of `benchmarks/` that decide what their numbers mean."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from recordings import shared

from benchmarks import intensity_rules
from benchmarks import metrics as metrics_bench
from benchmarks.painting import build_shards, paint, write_recording
from benchmarks.trials import Trial, false_pixels, loader, run_all, table
from irstd import config as configuration
from irstd.config import GradientConfig, ShardConfig
from irstd.data import contrast
from irstd.data.gradient import gradient_magnitude
from irstd.data.loader import ClipLoader
from irstd.data.manifest import read_all
from irstd.errors import InputError, WorkError
from irstd.metrics.components import components

SPLITS = {"a-train": "train", "b-val": "val"}


def background(seed: int = 0, height: int = 64, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(seed)
    slope_HW = np.add.outer(np.arange(height), np.arange(width)) * 0.2
    return np.rint(7000 + slope_HW + rng.normal(0, 8, (height, width))).astype(np.uint16)


@pytest.mark.parametrize("scr", [2.0, 4.0, 6.0])
def test_a_painted_target_has_the_scr_that_was_asked_for(scr):
    found = []
    for seed in range(12):
        frame_HW = background(seed)
        painted_HW, mask_HW = paint(frame_HW, 1, (scr, scr), (0.8, 1.2), np.random.default_rng(seed))
        assert painted_HW.dtype == np.uint16 and mask_HW.dtype == np.uint8 and len(components(mask_HW == 1)) == 1
        found.append(contrast.scr(painted_HW, mask_HW))
        far_HW = np.ones_like(mask_HW, bool)
        ys, xs = np.nonzero(mask_HW)
        far_HW[max(0, ys.min() - 8) : ys.max() + 9, max(0, xs.min() - 8) : xs.max() + 9] = False
        assert np.array_equal(painted_HW[far_HW], frame_HW[far_HW])
    assert found == pytest.approx([scr] * 12, rel=0.05)  # rounding to whole counts moves it a little


def test_targets_keep_apart_and_the_seed_decides():
    frame_HW = background()
    one, two = (paint(frame_HW, 3, (3, 6), (0.7, 1.2), np.random.default_rng(5)) for _ in range(2))
    assert len(components(one[1] == 1)) == 3
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    with pytest.raises(ValueError, match="no room for 9 targets in 14 x 14"):
        paint(background(0, 14, 14), 9, (3, 6), (0.7, 1.2), np.random.default_rng(0))


def test_the_narrow_span_keeps_every_grey_level():
    mapped_HW = intensity_rules.mapped(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert mapped_HW.dtype == np.uint16 and len(np.unique(mapped_HW)) == 256
    assert (mapped_HW.min(), mapped_HW.max()) == (7000, 7300)


def test_false_pixels_are_told_apart_by_where_they_lie():
    mask_HW, predicted_HW = np.zeros((20, 30), np.uint8), np.zeros((20, 30), bool)
    mask_HW[10, 10] = 1
    predicted_HW[10, 10:15] = True  # the last one is 4 px from the target
    assert false_pixels(predicted_HW, mask_HW).tolist() == [0, 1]
    predicted_HW[:3, 20] = predicted_HW[19, 0] = True
    predicted_HW[3, 20] = True  # the first row inside
    assert false_pixels(predicted_HW, mask_HW).tolist() == [4, 2]


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of two painted recordings of 16 bits."""
    source = tmp_path_factory.mktemp("painted") / "source"
    for seed, name in enumerate(SPLITS):
        rng = np.random.default_rng(seed)
        pairs = [paint(background(10 * seed + i, 40, 48), 1, (4, 6), (0.8, 1.2), rng) for i in range(6)]
        write_recording(source, name, *(np.stack(arrays) for arrays in zip(*pairs, strict=True)))
    return source


@pytest.fixture(scope="module")
def shards(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shards(painted, tmp_path_factory.mktemp("shards"), "p", ShardConfig(frames=1), SPLITS)


def config(**more: object) -> configuration.Config:
    return configuration.load(overrides={"data.crop": 32, "train.batch": 2, **more})


def test_recordings_reach_the_shards_as_they_were_painted(painted, shards):
    (manifest,) = read_all(shards)
    assert [manifest.content["splits"][split] for split in ("train", "val")] == [["a-train"], ["b-val"]]
    labels = json.loads((painted / "b-val.annotations.json").read_text())["frames"]
    batches = list(ClipLoader(shards, "val", frames=1, batch_size=1))
    assert len(batches) == len(labels) == 6
    for batch, label in zip(batches, labels, strict=True):
        assert batch["frames"].dtype == np.uint16 and batch["boxes"][0].tolist() == label["boxes"]
        assert contrast.scr(batch["frames"][0, 0], batch["masks"][0]) > 3


def test_a_stated_scale_reaches_image_and_gradient(shards):
    make = partial(loader, kind=intensity_rules.FixedScale)
    for split, size in (("train", 2), ("val", 1)):
        theirs = next(iter(make(config(), shards, split)))
        assert len(theirs["frames"]) == size
        assert theirs["offset"].tolist() == [0.0] * size
        assert theirs["scale"] == pytest.approx([1 / 65535] * size)
    frame_HW = theirs["frames"][0, 0]
    expected_HW = gradient_magnitude(frame_HW, scale=1 / 65535)
    assert theirs["gradient"][0] == pytest.approx(expected_HW, rel=2**-10)


def test_zeros_beyond_the_border_reach_the_network_in_whole_images(painted, tmp_path):
    folder = build_shards(
        painted, tmp_path, "p", ShardConfig(frames=1, gradient=GradientConfig(padding="zero")), SPLITS
    )
    batch = next(iter(loader(config(**{"data.intensity": "sequence"}), folder, "val")))
    ring = batch["gradient"][0, 0]
    assert ring.min() > 20 * np.median(batch["gradient"][0, 5:-5, 5:-5])


def test_rows_are_kept_and_runs_not_repeated(shards, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    small = {"model.width": 4, "train.batch": 2, "data.crop": 32}
    made = partial(loader, kind=intensity_rules.FixedScale)
    trials = [Trial("p", "sequence", shards, small), Trial("p", "full_scale", shards, small, made)]
    first = run_all(trials, [0], 3, out)
    assert [row["arm"] for row in first] == ["sequence", "full_scale"]
    assert all(row["targets"] == 6 and row["done_steps"] == 3 for row in first)
    assert "b-val" in "".join(first[0]["groups"])
    capsys.readouterr()
    assert run_all(trials, [0], 3, out) == first and not capsys.readouterr().out
    out.write_text(out.read_text().splitlines()[0] + "\n")  # as after a kill
    again = run_all(trials, [0], 3, out)
    assert len(capsys.readouterr().out.splitlines()) == 1
    names = ("iou", "pd", "fa", "loss")
    assert [[row[n] for n in names] for row in again] == [[row[n] for n in names] for row in first]


def test_a_table_has_mean_and_deviation():
    rows = [{"study": "s", "arm": "a", "pd": v, "fa": None, "groups": {"g": {"pd": v / 2}}} for v in (0.2, 0.4)]
    lines = table(rows, {"pd": "Pd", "fa": "Fa", "g:pd": "of g"}, {"pd": 10}).splitlines()
    assert lines[0] == "| data | arm | seeds | Pd | Fa | of g |"
    assert lines[2] == "| s | a | 2 | 3 ± 1.41 | - | 0.15 ± 0.0707 |"


@pytest.mark.slow
def test_the_studies_on_real_data(tmp_path):
    """What both scripts train on, from the real recordings and images."""
    trials = intensity_rules.trials(shared("").resolve(), tmp_path / "rules")
    names = [(trial.study, trial.arm) for trial in trials]
    assert len(names) == 8 and len(set(names)) == 8
    folders = {trial.study: trial.shards for trial in trials}
    (recordings,), (stills,) = (read_all(folders[study]) for study in ("recordings", "stills"))
    assert recordings.count("train", "labelled") == 196 and recordings.count("val", "labelled") == 98
    assert stills.count("train", "labelled") == 256 and stills.count("val", "targets") == 97
    assert recordings.bit_depth == stills.bit_depth == 16
    low, high = (stills.content["intensity"][name] for name in ("p005", "p995"))
    assert 7000 <= low < high <= 7300
    rules = [ClipLoader(folders["stills"], "val", frames=1, intensity_rule=rule) for rule in ("sequence", "frame")]
    for one, other in zip(*rules, strict=True):  # the same to the bit, so there is no arm `frame`
        assert np.array_equal(one["offset"], other["offset"]) and np.array_equal(one["scale"], other["scale"])
    with pytest.raises(InputError, match="full_scale would erase"):
        ClipLoader(folders["stills"], "val", frames=1, intensity_rule="full_scale")


def test_the_field_s_way_and_ours_give_the_same_numbers(monkeypatch):
    pytest.importorskip("skimage", reason="the field's way needs scikit-image (the extra bench)")
    pairs = metrics_bench.frames(12, 128)
    metrics_bench.same(pairs)
    report = metrics_bench.measure(0.01, pairs[:6])
    assert [name for name, _ in report.ratios] == ["ours, basicirstd / field", "ours, strict / field"]
    update = metrics_bench.FieldMetrics.update
    monkeypatch.setattr(metrics_bench.FieldMetrics, "update", lambda self, p, m: update(self, p * 0.7, m))
    with pytest.raises(WorkError, match="a ratio would mean nothing"):
        metrics_bench.same(pairs)
