"""The loop: learns, resumes to the bit, refuses what does not fit; in one process, without Ray."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import Keeper
from safetensors.torch import load_file, save_file

from irstd import config as configuration
from irstd.data.manifest import read_all
from irstd.errors import InputError, WorkError
from irstd.training import checkpoint, loop, optimizer
from irstd.training import identity as identity_module
from irstd.training.identity import COMPUTES, _tree, code_hash, identity

TINY = {
    "model.width": 4,
    "model.in_channels": 1,
    "data.crop": 32,
    "train.batch": 4,
    "train.epochs": 4,
    "train.loss.bce": 1,
    "train.lr": 2e-3,
    "train.ema": 0.5,
}


def tiny(**more):
    return configuration.load(overrides=TINY | {k.replace("__", "."): v for k, v in more.items()})


@pytest.fixture(scope="module")
def whole(sample_shards, tmp_path_factory):
    """A run that was left alone."""
    keeper = Keeper(tmp_path_factory.mktemp("whole"))
    loop.fit(tiny(), sample_shards, keeper, log=lambda line: None)
    return keeper


def test_the_loss_falls_and_every_epoch_is_reported(whole):
    assert [m["epoch"] for m in whole.metrics] == [1, 2, 3, 4]
    assert whole.metrics[-1]["loss"] < whole.metrics[0]["loss"]
    assert {"val_iou", "val_niou", "val_pd", "val_fa", "lr", "step"} <= set(whole.metrics[-1])


@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_run_ends_with_the_same_bits(sample_shards, whole, tmp_path, after):
    with pytest.raises(KeyboardInterrupt):
        loop.fit(tiny(), sample_shards, Keeper(tmp_path, die_after=after), log=lambda line: None)
    torch.manual_seed(12345)  # whatever the new process has drawn before
    loop.fit(tiny(), sample_shards, Keeper(tmp_path), resume=tmp_path / f"epoch-{after}", log=lambda line: None)
    for name in ("model", "best", "optimizer"):
        left = load_file(whole.folder / "epoch-4" / f"{name}.safetensors")
        went_on = load_file(tmp_path / "epoch-4" / f"{name}.safetensors")
        assert left.keys() == went_on.keys()
        for key in left:
            assert torch.equal(left[key], went_on[key]), f"{name}: {key}"
    histories = [json.loads((f / "epoch-4" / "state.json").read_text())["history"] for f in (whole.folder, tmp_path)]
    for row in (*histories[0], *histories[1]):
        del row["seconds"]
    assert histories[0] == histories[1]


def test_the_best_weights_are_those_of_the_best_epoch(whole):
    values = {m["epoch"]: m["val_iou"] for m in whole.metrics}
    best = max(values, key=lambda e: (values[e] or 0, -e))
    state = json.loads((whole.folder / "epoch-4" / "state.json").read_text())
    assert state["best"]["epoch"] == best and state["best"]["chosen"] == "val-best"
    kept = load_file(whole.folder / f"epoch-{best}" / "best.safetensors")
    final = load_file(whole.folder / "epoch-4" / "best.safetensors")
    assert all(torch.equal(kept[k], final[k]) for k in kept)


def test_the_history_is_a_table(whole):
    lines = (whole.folder / "epoch-4" / "results.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,step,loss,lr,val_iou") and len(lines) == 5


def test_another_run_is_refused(sample_shards, whole):
    with pytest.raises(InputError, match="belongs to run"):
        loop.fit(tiny(train__lr=1e-3), sample_shards, Keeper(Path()), resume=whole.folder / "epoch-1")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_torn_checkpoint_is_named(sample_shards, whole, tmp_path, name):
    folder = tmp_path / "torn"
    shutil.copytree(whole.folder / "epoch-2", folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(InputError, match="torn"):
        loop.fit(tiny(), sample_shards, Keeper(tmp_path), resume=folder, log=lambda line: None)


def test_a_loss_that_is_not_a_number_stops_the_run(sample_shards, tmp_path):
    with pytest.raises(WorkError, match=r"became nan.*train\.lr"):
        loop.fit(tiny(train__lr=1e30, train__optimizer="sgd"), sample_shards, Keeper(tmp_path), log=lambda line: None)


def test_the_time_budget_ends_the_run(sample_shards, tmp_path):
    keeper = Keeper(tmp_path)
    loop.fit(tiny(train__minutes=1e-6, train__epochs=50), sample_shards, keeper, log=lambda line: None)
    assert [m["epoch"] for m in keeper.metrics] == [1]


def test_identity_changes_with_what_decides(sample_shards):
    manifests = read_all(sample_shards)
    names = {
        identity(tiny(**more), manifests).name
        for more in ({}, {"train__lr": 1e-3}, {"train__seed": 1}, {"model__width": 5})
    }
    assert len(names) == 4
    assert identity(tiny(registry__name="other"), manifests) == identity(tiny(), manifests)


def test_code_hash_looks_past_comments_and_docstrings():
    assert _tree('"""One."""\ndef f():\n    """Doc."""\n    return 1  # why\n') == _tree("def f():\n    return 1\n")
    assert _tree("def f():\n    return 1\n") != _tree("def f():\n    return 2\n")
    assert len(code_hash()) == 64


def test_code_hash_looks_past_what_only_shows_numbers(monkeypatch):
    package = Path(identity_module.__file__).parents[1]
    assert all((package / name).is_file() for name in identity_module.SHOWS)
    before = code_hash()
    monkeypatch.setattr(identity_module, "SHOWS", ())
    assert code_hash.__wrapped__() != before


def test_code_hash_covers_what_the_loop_imports():
    """Every module that training loads is hashed, or is known to decide nothing by itself."""
    code = "import sys, irstd.training.loop; print(*sorted(m for m in sys.modules if m.startswith('irstd.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Values go into the identity as such; the manifest's content by its digest; what is read is compared with checksums.
    aside = {"irstd.config", "irstd.errors", "irstd.files", "irstd.data", "irstd.data.manifest"}
    aside |= {"irstd.data.guard", "irstd.data.remote"}
    covered = {"irstd." + part.removesuffix(".py").replace("/", ".") for part in COMPUTES}
    for module in set(done.stdout.split()) - aside:
        assert any(module == c or module.startswith(c + ".") for c in covered), module


def test_learning_rates():
    config = tiny(train__warmup=4, train__schedule="cosine", train__lr=1.0).train
    rates = [optimizer.learning_rate(config, step, 104) for step in range(104)]
    assert rates[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert rates[54] == pytest.approx(0.505)  # half-way down the cosine
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)
    constant = tiny(train__schedule="constant", train__lr=1.0).train
    assert {optimizer.learning_rate(constant, step, 10) for step in range(10)} == {1.0}


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_an_optimizer_comes_back_to_the_bit(tmp_path, kind):
    def made():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, optimizer.build_optimizer(model, tiny(train__optimizer=kind).train)

    def step(model, found):
        found.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        found.step()

    model, first = made()
    step(model, first)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    checkpoint.write(tmp_path / "c", weights, first, None, weights, {"history": []})
    step(model, first)
    other, second = made()
    other.load_state_dict(checkpoint.weights(tmp_path / "c", "model"))
    checkpoint.restore_optimizer(tmp_path / "c", second)
    step(other, second)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_run_is_finished_while_its_checkpoint_is_there(tmp_path):
    from irstd.commands import train, tune
    from irstd.training.record import finished

    assert train.finished is tune.finished is finished
    assert finished(tmp_path) is None
    (tmp_path / "run.json").write_text('{"finished": true}')
    assert finished(tmp_path, record_needed=False) is None
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "best.safetensors").touch()
    assert finished(tmp_path, record_needed=False) == {"finished": True}
    assert finished(tmp_path) is None  # a trial, before its lineage is written down
    (tmp_path / "run.json").write_text('{"finished": true, "lineage": {}}')
    assert finished(tmp_path) == {"finished": True, "lineage": {}}
    (tmp_path / "run.json").write_text("{")
    assert finished(tmp_path) is None


def test_nothing_in_a_checkpoint_is_pickled(whole):
    for path in (whole.folder / "epoch-4").iterdir():
        assert path.suffix in (".safetensors", ".json", ".csv")
        assert b"\x80\x04" not in path.read_bytes()[:2]


def test_a_damaged_weights_file_is_named(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "best.safetensors")
    (tmp_path / "best.safetensors").write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"best\.safetensors"):
        checkpoint.weights(tmp_path)
