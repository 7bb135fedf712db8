"""BP-FPN on the road: shards to a trained run, a package, and detections of a recording; without Ray."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import Keeper
from safetensors.torch import load_file

from irstd import config as configuration
from irstd.cluster.spaces import Objective
from irstd.commands import evaluate, promote, scores, train
from irstd.config import Config
from irstd.data.manifest import read_all
from irstd.errors import InputError
from irstd.inference import package
from irstd.inference.detector import Detector
from irstd.metrics import DetectionMetrics
from irstd.models import build_model
from irstd.models.bp_fpn import BPFPN
from irstd.models.resize import Resize
from irstd.registry import models, promotion
from irstd.training import loop
from irstd.training.evaluation import measure
from pipelines import parameters

TINY = {
    "model.width": 0.125,
    "model.frames": 3,
    "data.crop": 32,
    "data.target_crop": 1.0,
    "train.batch": 4,
    "train.epochs": 3,
    "train.lr": 5e-3,
    "train.ema": 0.5,
    "train.checkpoint_every": 1,
    "train.loss.similarity": "gaussian",
}


def tiny(**more):
    return configuration.load(overrides=TINY | {k.replace("__", "."): v for k, v in more.items()}, model="bp-fpn")


@pytest.fixture(scope="module")
def whole(sample_shards, tmp_path_factory):
    """A run that was left alone, and what it said."""
    keeper, lines = Keeper(tmp_path_factory.mktemp("whole")), []
    loop.fit(tiny(), sample_shards, keeper, log=lines.append)
    return keeper, lines


@pytest.fixture(scope="module")
def packaged(sample_shards, whole, tmp_path_factory):
    keeper, _ = whole
    folder = tmp_path_factory.mktemp("package") / "package"
    weights = load_file(keeper.folder / "epoch-3" / "best.safetensors")
    metrics = {"split": "val", "protocol": "strict", "chosen": "val-best"}
    manifests = read_all(sample_shards)
    package.write(folder, weights, tiny(evaluate__threshold=0.01), manifests, {"run": "r", "sets": {}}, metrics)
    return package.Package.read(folder)


def test_the_loss_falls_and_boxes_are_measured(whole):
    keeper, lines = whole
    assert keeper.metrics[-1]["loss"] < keeper.metrics[0]["loss"]
    wanted = {"val_ap50", "val_precision", "val_recall", "val_f1", "val_false_alarms_per_frame"}
    assert {k for k in keeper.metrics[-1] if k.startswith("val_")} == wanted
    assert any("val ap50" in line for line in lines)
    assert {"loss_box", "loss_objectness", "loss_dgr", "loss_dgr_foreground"} <= set(keeper.metrics[-1])
    state = json.loads((keeper.folder / "epoch-3" / "state.json").read_text())
    values = {m["epoch"]: m["val_ap50"] for m in keeper.metrics}
    assert state["selected"] == max(values.values()) and state["best"]["chosen"] == "val-best"


def test_a_killed_run_ends_with_the_same_bits(sample_shards, whole, tmp_path):
    """The warm-up of DGR goes on where it was."""
    config = tiny()
    with pytest.raises(KeyboardInterrupt):
        loop.fit(config, sample_shards, Keeper(tmp_path, die_after=1), log=lambda line: None)
    torch.manual_seed(12345)
    loop.fit(config, sample_shards, Keeper(tmp_path), resume=tmp_path / "epoch-1", log=lambda line: None)
    for name in ("model", "best"):
        left = load_file(whole[0].folder / "epoch-3" / f"{name}.safetensors")
        went_on = load_file(tmp_path / "epoch-3" / f"{name}.safetensors")
        assert left.keys() == went_on.keys()
        assert all(torch.equal(left[key], went_on[key]) for key in left)


def test_the_loop_tells_the_loss_how_far_it_is(sample_shards, tmp_path, monkeypatch):
    seen = []
    plain = BPFPN.loss
    monkeypatch.setattr(BPFPN, "loss", lambda self, batch: seen.append(self.progress) or plain(self, batch))
    loop.fit(tiny(train__epochs=1), sample_shards, Keeper(tmp_path), log=lambda line: None)
    assert seen == [step / len(seen) for step in range(len(seen))] and len(seen) > 2


def test_clips_reach_the_network(sample_shards):
    loader = loop.loader_for(tiny(), sample_shards, "val", read_all(sample_shards), batch_size=1)
    batch = next(iter(loader))
    assert batch["frames"].shape[1] == 3 and "gradient" not in batch
    assert build_model(tiny()).frames == 3


@pytest.mark.parametrize("protocol", ["strict", "nnlab", "centroid"])
def test_measuring_is_the_metric_of_what_is_predicted(sample_shards, protocol):
    config = tiny(evaluate__protocol=protocol, evaluate__threshold=0.1)
    torch.manual_seed(0)
    model = build_model(config)
    loader = loop.loader_for(config, sample_shards, "val", read_all(sample_shards), batch_size=3)
    found = measure(model, loader, config.evaluate).compute()
    assert model.training and found["protocol"] == protocol
    by_hand = DetectionMetrics(protocol, 0.1)
    model.eval()
    for batch in loader:
        for b, item in enumerate(model.predict(batch)):
            by_hand.update(item.boxes_N4, item.scores_N, batch["boxes"][b])
    assert by_hand.compute() == found


def test_a_package_comes_back_as_the_same_network(whole, packaged):
    model = packaged.model()
    assert isinstance(model, BPFPN) and not model.training and model.threshold == 0.01
    kept = load_file(whole[0].folder / "epoch-3" / "best.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_a_detector_gives_each_frame_its_clip(packaged):
    """Also across the border of its batches; before the first frame the first one is repeated."""
    detector = Detector(packaged)
    video = np.random.default_rng(0).integers(3000, 3100, (7, 40, 33)).astype(np.uint16)
    found = detector(video, bit_depth=14)
    assert len(found) == 7
    from irstd.data import intensity
    from irstd.data.counts import intensity_of

    rule = packaged.content["intensity"]["rule"]
    offset, scale = intensity.offset_scale(rule, 14, intensity_of(video), None, video[0])
    for t in range(7):
        clip = video[[max(0, t - back) for back in (2, 1, 0)]]
        batch = {
            "frames": clip[None],
            "offset": np.array([offset], np.float32),
            "scale": np.array([scale], np.float32),
            "size": np.array([[40, 33]]),
        }
        (expected,) = detector.model.predict(batch)
        expected = expected.above(0.01)
        np.testing.assert_allclose(found[t].scores_N, expected.scores_N, atol=1e-5)
        np.testing.assert_allclose(found[t].boxes_N4, expected.boxes_N4, atol=1e-3)
    assert min(item.scores_N.min() for item in found if len(item)) > 0.01


def ruled(packaged, rule):
    """The package under another intensity rule, and how often its detector's backbone ran, on how many frames."""
    content = packaged.content | {"intensity": {"rule": rule, "dataset": {"median": 3050, "p005": 3000, "p995": 3100}}}
    detector, seen = Detector(package.Package(packaged.folder, content)), []
    detector.model.backbone.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    return detector, seen


@pytest.mark.parametrize("rule", ["sequence", "dataset", "full_scale"])
@pytest.mark.parametrize("resize", ["native", "letterbox:48"])
def test_one_scale_a_recording_is_streamed_and_gives_what_clips_give(packaged, rule, resize, monkeypatch):
    detector, seen = ruled(packaged, rule)
    kind, _, side = resize.partition(":")
    detector.model.resize = Resize(kind, int(side or 0))
    depth = 8 if rule == "full_scale" else 14
    video = np.random.default_rng(0).integers(3000, 3100, (7, 40, 33)).astype(np.uint16)
    if depth == 8:
        video = (video - 2900).astype(np.uint8)
    found = detector(video, bit_depth=depth)
    assert seen == [1] * 7  # each frame once, alone
    monkeypatch.setattr(Detector, "_one_scale", lambda self, bit_depth: False)
    expected = detector(video, bit_depth=depth)
    assert sum(seen[7:]) == 7 * 3
    assert len(found) == len(expected) == 7 and any(len(item) for item in expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.scores_N, theirs.scores_N, atol=1e-5)
        np.testing.assert_allclose(ours.boxes_N4, theirs.boxes_N4, atol=1e-3)


def test_a_scale_for_each_key_frame_is_not_streamed(packaged):
    """Each clip is scaled as a whole by its key frame: features of past frames are other features."""
    detector, seen = ruled(packaged, "frame")
    video = np.random.default_rng(0).integers(3000, 3100, (4, 40, 33)).astype(np.uint16)
    detector(video, bit_depth=14)
    assert seen == [4 * 3]


def test_recordings_do_not_see_one_another_and_memory_is_bounded(packaged):
    detector, _ = ruled(packaged, "dataset")
    video = np.random.default_rng(0).integers(3000, 3100, (5, 40, 33)).astype(np.uint16)
    first, _, again = detector(video, 14), detector(video[::-1].copy(), 14), detector(video, 14)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.scores_N, other.scores_N)
    drawn = []
    frames = (drawn.append(t) or video[t % 5] for t in range(10**9))
    found = detector.stream(frames, 14, {})
    for _ in range(6):
        next(found)
    assert len(drawn) == 6  # a frame is taken when its detections are asked for, and a billion are no matter


def test_a_frame_of_another_size_ends_a_stream_with_one_line(packaged):
    detector, _ = ruled(packaged, "dataset")
    frames = [np.full((40, 33), 3000, np.uint16), np.full((40, 34), 3000, np.uint16)]
    with pytest.raises(InputError, match="the stream began with frames"):
        list(detector.stream(frames, 14, {}))


def test_evaluate_scores_boxes_by_every_protocol(sample_shards, packaged):
    found = evaluate.score(packaged, sample_shards, "val", ["sample"])
    assert [row["protocol"] for row in found["protocols"]] == ["strict", "nnlab", "centroid"]
    assert found["protocols"][0]["frames"] == found["frames"] > 0
    scores.show(found)


def test_baselines_stand_beside_boxes(sample_shards, packaged, capsys):
    found = evaluate.score(packaged, sample_shards, "val", ["sample"])
    assert [b["method"] for b in found["baselines"]] == ["top-hat", "local-contrast"]
    for baseline in found["baselines"]:
        for row, model in zip(baseline["protocols"], found["protocols"], strict=True):
            same = ("protocol", "grid", "frames", "targets", "groups")
            assert [row[name] for name in same] == [model[name] for name in same]
            if model["protocol"] != "nnlab":  # which reads no number at a threshold
                assert row["false_alarms_per_frame"] <= model["false_alarms_per_frame"]
                assert row["threshold"] != model["threshold"]
    # Two bright targets on clouds: a top-hat finds some, whatever the network does.
    assert found["baselines"][0]["protocols"][2]["ap"] > 0.3
    capsys.readouterr()
    scores.show(found)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in shown if line[1:2] == ["top-hat"]] == [
        [p, "top-hat"] for p in ("strict", "nnlab", "centroid")
    ]
    assert evaluate.measured(packaged, sample_shards, "val", ["sample"], beside=[])[1]["baselines"] == []


def test_a_run_is_checked_before_it_starts(sample_shards):
    job = train.prepare(tiny(), sample_shards)
    assert job.name.startswith("bp-fpn-")
    line = train.numbers(job, {"val_ap50": 0.25, "val_precision": None})
    digest = read_all(sample_shards)[0].digest[:12]
    assert line == f"val: AP50 0.250  P - (strict, grid native, threshold 0.5, split val of sample {digest})"
    assert "AP 0.500" in train.numbers(
        train.prepare(tiny(evaluate__protocol="centroid"), sample_shards), {"val_ap": 0.5}
    )
    assert train.numbers(job, {}) == "no val split"
    with pytest.raises(InputError, match="clips of 6 frames.*built for 5"):
        train.prepare(tiny(model__frames=6), sample_shards)


def test_a_flow_is_given_what_differs_from_the_networks_defaults():
    """A web form sends the whole tree; one for BP-FPN names it, and what was changed."""
    whole = Config.model_validate(tiny(train__seed=3).model_dump())
    values = parameters.given(whole)
    assert values["model.name"] == "bp-fpn" and values["train.seed"] == 3 and values["model.width"] == 0.125
    assert "model.gils.op" not in values and "train.warmup" not in values
    assert parameters.given(Config.model_validate(Config().model_dump())) == {}
    assert configuration.load(overrides=values) == whole


def test_promotion_shows_boxes_and_what_they_were_measured_as(sample_shards, packaged, monkeypatch, capsys):
    (manifest,) = read_all(sample_shards)
    lineage = {"run": "r", "sets": {"sample": manifest.digest}}
    made = package.Package(packaged.folder, packaged.content | {"lineage": lineage})
    monkeypatch.setattr(models, "package", lambda *_: made)
    one, two = (SimpleNamespace(name="m", version=v) for v in "12")
    promote.show(promotion.compare(SimpleNamespace(), two, one, sample_shards))
    printed = capsys.readouterr().out
    assert f"strict, grid native, threshold 0.01, split gate of sample {manifest.digest[:12]}" in printed
    assert printed.count("AP50 ") == 2 and printed.count("false alarms a frame") == 2
    promote.show(promotion.Verdict("promoted", "there was no champion"))
    assert not capsys.readouterr().out


def test_objectives():
    assert tiny().objective == "ap50" and tiny(evaluate__objective="f1").objective == "f1"
    assert tiny(evaluate__protocol="centroid").objective == "ap"
    assert configuration.load().objective == "iou"
    assert Objective(metric="ap50").metric == "ap50"


def test_it_learns_two_moving_targets():
    """On one batch, its own statistics included: both are found with an IoU above .5, before all else."""
    random = np.random.default_rng(0)
    frames = random.normal(7000, 5, (2, 2, 32, 32))
    boxes = [np.array([[9, 12, 5, 5]], np.float32), np.array([[20, 6, 4, 6]], np.float32)]
    for b, ((x, y, w, h),) in enumerate([box.astype(int).tolist() for box in boxes]):
        frames[b, 0, y : y + h, x - 2 : x - 2 + w] += 80
        frames[b, 1, y : y + h, x : x + w] += 80
    batch = {
        "frames": frames.astype(np.uint16),
        "offset": np.full(2, 6900, np.float32),
        "scale": np.full(2, 1 / 200, np.float32),
        "size": np.full((2, 2), 32),
        "boxes": boxes,
    }
    torch.manual_seed(0)
    model = build_model(tiny(model__frames=2)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(150):
        loss, _ = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            metrics = DetectionMetrics("strict")
            for found, target in zip(model.predict(batch), boxes, strict=True):
                metrics.update(found.boxes_N4[:1], found.scores_N[:1], target)
            if metrics.compute()["ap50"] == 1:
                return
    pytest.fail(f"two targets were not learnt in 150 steps, loss {loss.item():.3f}")
