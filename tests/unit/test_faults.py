"""What may go wrong within a run: one line, nothing lost, and how to go on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys import quiet, toy

from irstd import config as configuration
from irstd.commands import going_on
from irstd.config import Config
from irstd.data.loader import ClipLoader
from irstd.errors import InputError, WorkError
from irstd.files import read_json
from irstd.models import SegmentationAdapter
from irstd.training import bare, kept, loop, memory
from irstd.training.checkpoint import read_state
from irstd.training.store import Store, newest
from irstd.workspace import Workspace

TINY = {"model.width": 4, "model.in_channels": 1, "data.crop": 32, "train.batch": 4, "train.epochs": 2}


@pytest.fixture
def copied(sample_shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(sample_shards, tmp_path / "shards")
    return tmp_path / "shards"


def break_chunk(shards: Path, split: str, number: int = 1) -> set[tuple[str, int]]:
    """Other bytes in a chunk; the key frames that need it."""
    loader = ClipLoader(shards, split, batch_size=1)
    windows = loader.windows
    sample = windows.samples[number]
    offset, length, _, (rows, *_) = sample.members["frames.npy"]
    with open(windows.paths[sample.tar], "r+b") as file:
        for row in range(rows):
            file.seek(offset + row * length // rows)
            file.write(b"\xff\xee\xdd")
    return {windows.key(int(i)) for i in np.flatnonzero(windows.sample_N == number)}


def test_a_damaged_chunk_stops_the_run_and_says_how_to_go_on(copied, tmp_path):
    broken = break_chunk(copied, "train")
    store = Store(tmp_path / "run")
    store.begin()
    with pytest.raises(WorkError) as raised:
        loop.fit(toy(), copied, store, log=quiet, scratch=store.scratch)
    line = str(raised.value)
    name = next(iter(broken))[0]
    assert re.search(
        rf"train-\d+\.tar: damaged at {name}, frame \d+; build it again .*\. The run stands in step \d+, and its last "
        r"checkpoint is good: the same command goes on .* data\.skip_damaged=true passes over it$",
        line,
    )


def test_with_the_switch_it_is_passed_over_counted_and_said_once(copied):
    broken = break_chunk(copied, "train")
    rows, lines = [], []
    config = toy(data__skip_damaged=True, train__epochs=3)
    loop.fit(config, copied, lambda row, folder: rows.append(row), log=lines.append)
    said = [line for line in lines if line.startswith("passed over: ")]
    assert len(said) == 1 and "train-000000.tar: damaged at" in said[0]
    counts = [row["skipped_frames"] for row in rows]
    assert 0 < sum(counts) <= 3 * len(broken) and any("damaged key frames passed over" in line for line in lines)


def test_what_skipped_is_not_taken_for_a_run_on_whole_shards(sample_shards, copied, tmp_path, monkeypatch, capsys):
    """Neither from a checkpoint nor when it is over: the switch is no part of its name, and its shards may be mended since."""
    monkeypatch.chdir(tmp_path)
    break_chunk(copied, "train")
    given = [f"{k}={v}" for k, v in TINY.items()]
    folder = bare.run(None, [*given, "data.skip_damaged=true"], str(copied), Path("runs"), "cpu")
    history = read_state(folder / "checkpoint")["history"]
    count = sum(row["skipped_frames"] for row in history)
    assert count and read_json(folder / "run.json")["lineage"]["skipped_frames"] == count
    before = (folder / "run.json").read_bytes()
    with pytest.raises(
        InputError, match=f"passed over {count} damaged key frames; data.skip_damaged=true takes it.*{folder}"
    ):
        bare.run(None, given, str(sample_shards), Path("runs"), "cpu")
    with pytest.raises(InputError, match=f"passed over {count} damaged key frames"):
        going_on.whole(Workspace(tmp_path, tmp_path), folder.name, configuration.load(overrides=TINY))
    with pytest.raises(InputError, match=f"passed over {count} damaged key frames"):
        config = configuration.load(overrides=TINY)
        loop.fit(config, sample_shards, lambda row, place: None, folder / "checkpoint", log=quiet)
    assert (folder / "run.json").read_bytes() == before
    capsys.readouterr()
    assert bare.run(None, [*given, "data.skip_damaged=true"], str(sample_shards), Path("runs"), "cpu") == folder
    assert "its result is taken" in capsys.readouterr().out


def test_others_take_their_place_the_same_for_any_number_of_ranks(copied):
    broken = break_chunk(copied, "train")

    def epochs(**place) -> list:
        loader = ClipLoader(copied, "train", skip_damaged=True, **place)
        found = [[batch["key"] for batch in loader] for _ in range(4)]
        return found, loader.passed_over()

    whole, (count, lines) = epochs(batch_size=4)
    (one, passed_one), (two, passed_two) = (epochs(batch_size=2, rank=rank, world_size=2) for rank in (0, 1))
    assert [[a + b for a, b in zip(*both, strict=True)] for both in zip(one, two, strict=True)] == whole
    assert passed_one[0] > 0 < passed_two[0] and passed_one[0] + passed_two[0] == count <= 4 * len(broken)
    assert epochs(batch_size=4, workers=2) == (whole, (count, lines)) and len(lines) == 1
    seen = {key for epoch in whole for keys in epoch for key in keys}
    assert not seen & broken and all(len(keys) == 4 for epoch in whole for keys in epoch)
    left = ClipLoader(copied, "train", batch_size=4)
    with pytest.raises(WorkError, match="damaged"):
        list(left)


def test_elsewhere_they_are_left_out(copied):
    every = [batch["key"][0] for batch in ClipLoader(copied, "val", batch_size=1)]
    broken = break_chunk(copied, "val", 0)
    for size in (1, 3):
        loader = ClipLoader(copied, "val", batch_size=size, skip_damaged=True)
        assert [key for batch in loader for key in batch["key"]] == [key for key in every if key not in broken]
        assert loader.passed_over()[0] == len(broken)


@pytest.mark.parametrize("how", ["missing", "short"])
def test_a_tar_that_is_missing_or_short(copied, how, monkeypatch):
    """Of two sets one is whole."""
    tar = copied / "sample" / "val-000000.tar"
    if how == "missing":
        tar.unlink()
    else:
        tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(WorkError, match=r"val-000000\.tar: (cannot be read|1000 bytes)"):
        ClipLoader(copied, "val", batch_size=1)
    loader = ClipLoader(copied, "val", batch_size=1, skip_damaged=True)
    assert list(loader) == [] and loader.passed_over()[0] == len(loader.windows)
    train = copied / "sample" / "train-000000.tar"
    train.unlink()
    with pytest.raises(WorkError, match=r"train-000000\.tar: cannot be read"):
        list(ClipLoader(copied, "train", batch_size=4, skip_damaged=True))  # nothing is left to take their place


def test_the_switch_is_no_part_of_the_identity():
    assert toy(data__skip_damaged=True).identity() == toy().identity() == toy(train__keep_every=1).identity()
    assert toy(train__sync_batch_norm=True).identity() != toy().identity()


def lossy(monkeypatch, change):
    """Every loss of a toy goes through `change(number of the call, loss, parts)`."""
    calls = []

    def loss(self, batch, own=SegmentationAdapter.loss):
        calls.append(batch)
        return change(len(calls), *own(self, batch))

    monkeypatch.setattr(SegmentationAdapter, "loss", loss)


def test_a_part_of_a_loss_that_is_no_number_is_left_out(sample_shards, monkeypatch):
    """A mean over nothing, say. The training is not lost for a number that is only shown."""
    lossy(monkeypatch, lambda _, loss, parts: (loss, parts | {"odd": loss.detach() * float("nan")}))
    rows = []

    def report(row, folder):
        rows.append(read_state(folder)["history"][-1])

    loop.fit(toy(train__epochs=1), sample_shards, report, log=quiet)
    assert rows[-1]["loss_odd"] is None and rows[-1]["loss"] > 0


class Spoilt(torch.autograd.Function):
    """A loss that is a number, whose gradient is none."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, given):
        return given * float("nan")


@pytest.mark.parametrize("split", ["train", "train+val"])
def test_weights_that_are_no_numbers_take_no_checkpoint_s_place(sample_shards, tmp_path, monkeypatch, split):
    lossy(monkeypatch, lambda call, loss, parts: (Spoilt.apply(loss) if call == 3 else loss, parts))
    store = Store(tmp_path / "run")
    store.begin()
    config = toy(train__val_steps=1, data__train_on=split)
    with pytest.raises(WorkError, match=r"became no number in step 3, on sample/.*stopped\.json"):
        loop.fit(config, sample_shards, store, log=quiet, scratch=store.scratch, beside=store.folder)
    assert read_state(newest(store.folder))["step"] == 2


@pytest.mark.parametrize("network", ["Plain", "Fainting"])
def test_a_loss_that_is_no_number_leaves_a_note(sample_shards, tmp_path, monkeypatch, network):
    """Whether the loss tells or, of a network that is not ours, what it gives."""
    store, calls = Store(tmp_path / "run"), []
    store.begin()
    if network == "Plain":

        def loss(self, batch, own=SegmentationAdapter.loss):
            calls.append(batch)
            found, parts = own(self, batch)
            return (found * float("nan") if len(calls) == 3 else found), parts

        monkeypatch.setattr(SegmentationAdapter, "loss", loss)
    config = toy(network, train__val_steps=1)
    with pytest.raises(WorkError) as raised:
        loop.fit(config, sample_shards, store, log=quiet, scratch=store.scratch, beside=store.folder)
    note = json.loads((store.folder / "stopped.json").read_text())
    assert note["step"] == 3 and len(note["keys"]) == 4 and note["epoch"] == 0 and note["lr"] < 5e-4
    line = str(raised.value)
    words = {
        "Plain": "the training loss became nan in step 3, on",
        "Fainting": "gives NaN or infinity for finite frames in step 3",
    }
    assert words[network] in line and f"are in {store.folder}/stopped.json; the last checkpoint is from before" in line
    assert all(f"{name}:{frame}" in line for name, frame in note["keys"])
    assert read_state(newest(store.folder))["step"] == 2


@pytest.mark.parametrize(
    ("holds", "more", "words"),
    [
        (
            1,
            {},
            r"train\.batch=4: 4 key frames at a time do not fit .*, 1 do: train\.accumulate=4 .*, train\.batch=1 is",
        ),
        (2, {}, r"2 do: train\.accumulate=2 takes the batch in parts, train\.batch=2 is .* take data\.crop below 32"),
        (0, {}, r"train\.batch=4: not even one key frame at a time fits .*; take data\.crop below 32$"),
        (1, {"train__accumulate": 2}, r"train\.batch=4 in train\.accumulate=2 parts: 2 key .* train\.batch=2 is the"),
    ],
)
def test_a_batch_that_does_not_fit(sample_shards, holds, more, words):
    """The allocator's own error; how much fits is tried."""
    config = toy("Hungry", model__options__holds=holds, **more)
    with pytest.raises(WorkError, match=words) as raised:
        loop.fit(config, sample_shards, lambda row, folder: None, log=quiet)
    assert "\n" not in str(raised.value)


def test_what_is_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    assert memory.exhausted(raised.value) and memory.exhausted(MemoryError())
    assert memory.exhausted(torch.OutOfMemoryError("CUDA out of memory"))
    assert not memory.exhausted(RuntimeError("shapes")) and not memory.exhausted(WorkError("out of memory"))


def test_advice_for_several_workers():
    config = Config.model_validate({"train": {"batch": 48}})
    line = memory.advice(config, 2, 6, True)
    assert line.startswith("train.batch=48 over 2 workers: 24 key frames a worker do not fit")
    assert "train.accumulate=4 takes" in line and "train.batch=12 is" in line
    assert "train.activation_checkpointing=true" in line and "data.crop=256 in place of whole frames" in line


def test_epochs_are_kept(sample_shards, tmp_path):
    """The judged weights, their numbers, and of them the newest; a resume keeps the same."""
    rows = []

    def report(row, folder):
        rows.append(row)
        if folder is not None:
            shutil.copytree(folder, tmp_path / f"epoch-{row['epoch']}")

    config = toy(train__epochs=5, train__keep_every=2)
    loop.fit(config, sample_shards, report, log=quiet, beside=tmp_path / "run")
    found = kept.epochs(tmp_path / "run")
    assert [entry["epoch"] for entry in found] == [2, 4]
    for entry in found:
        row = rows[entry["epoch"] - 1]
        assert entry["step"] == row["step"] and entry["val_iou"] == row["val_iou"] and "loss" not in entry
        if row["best_epoch"] == entry["epoch"]:
            best = load_file(tmp_path / f"epoch-{entry['epoch']}" / "best.safetensors")
            assert all(torch.equal(best[k], v) for k, v in kept.weights(entry).items())
    resumed = toy(train__epochs=5, train__keep_every=2, train__keep=1)
    loop.fit(resumed, sample_shards, lambda r, f: None, tmp_path / "epoch-3", log=quiet, beside=tmp_path / "on")
    (entry,) = kept.epochs(tmp_path / "on")
    assert entry["epoch"] == 4 and entry["sha256"] == found[1]["sha256"]
    content = entry["weights"].read_bytes()
    entry["weights"].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="the weights of epoch 4 are missing or damaged"):
        kept.weights(entry)
    with pytest.raises(InputError, match=r"train\.keep_every=1 or more"):
        kept.epochs(tmp_path)


def test_epochs_are_kept_with_the_first_validation_at_or_after(sample_shards, tmp_path):
    config = toy(train__epochs=6, train__val_every=3, train__keep_every=2)
    loop.fit(config, sample_shards, lambda r, f: None, log=quiet, beside=tmp_path)
    assert [entry["epoch"] for entry in kept.epochs(tmp_path)] == [3, 6]


def test_what_lies_beside_a_run_may_lie_on_a_store(tmp_path):
    beside = kept.Beside("memory://runs/one")
    for epoch in (1, 2, 3):
        beside.keep({"w": torch.full((2,), float(epoch))}, {"epoch": epoch, "step": epoch}, limit=2)
    assert beside.note({"step": 3}) == "memory://runs/one/stopped.json"
    kept.fetch("memory://runs/one", tmp_path / "run")
    assert [entry["epoch"] for entry in kept.epochs(tmp_path / "run")] == [2, 3]
    assert kept.weights(kept.epochs(tmp_path / "run")[1])["w"].tolist() == [3.0, 3.0]
    assert json.loads((tmp_path / "run" / "stopped.json").read_text()) == {"step": 3}
    kept.fetch("memory://runs/none", tmp_path / "none")
    kept.fetch(tmp_path / "run", tmp_path / "run")
    assert not (tmp_path / "none").exists()
