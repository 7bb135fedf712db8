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
from toys import toy

from irstd import config as configuration
from irstd.commands.train import prepare
from irstd.data import shards
from irstd.data.ingest import ingest
from irstd.data.manifest import read_all
from irstd.data.synthetic import SceneSpec, write_source
from irstd.errors import InputError, WorkError
from irstd.files import read_json, write_json
from irstd.foreign import tree
from irstd.training import checkpoint, loop, optimizer
from irstd.training import identity as identity_module
from irstd.training.identity import COMPUTES, Identity, code_hash, code_hash_of, identity
from tests.conftest import CONFIG


def tiny(**more):
    return toy(**{"train__epochs": 4, "train__lr": 2e-3} | more)


def ggl_net(**more):
    given = {"model.width": 4, "model.in_channels": 1, "data.crop": 32, "train.batch": 4}
    return configuration.load(overrides=given | {k.replace("__", "."): v for k, v in more.items()})


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
        del row["seconds"], row["time"]
    assert histories[0] == histories[1]


def test_a_run_goes_on_across_a_change_of_code(sample_shards, whole, tmp_path):
    began = json.loads((whole.folder / "epoch-3" / "state.json").read_text())
    changed = Identity(began["run"], {"code": "of the day before"})
    shutil.copytree(whole.folder / "epoch-3", tmp_path / "epoch-3")
    state = tmp_path / "epoch-3" / "state.json"
    state.write_text(json.dumps(began | {"identity": changed.hash}))
    checkpoint.seal(state.parent)
    with pytest.raises(InputError, match="belongs to run"):
        loop.fit(tiny(), sample_shards, Keeper(tmp_path), resume=tmp_path / "epoch-3", log=lambda line: None)
    steps: list[int] = []
    loop.fit(
        tiny(),
        sample_shards,
        Keeper(tmp_path),
        resume=tmp_path / "epoch-3",
        log=lambda line: None,
        known=changed,
        stepped=steps.append,
    )
    last = json.loads((tmp_path / "epoch-4" / "state.json").read_text())
    assert (last["run"], last["identity"]) == (began["run"], changed.hash)
    assert steps == [*range(began["step"] + 1, last["step"] + 1)]


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
    with pytest.raises(InputError, match=rf"is damaged \({name} is torn: 100 of"):
        loop.fit(tiny(), sample_shards, Keeper(tmp_path), resume=folder, log=lambda line: None)


def test_a_loss_that_is_not_a_number_stops_the_run(sample_shards, tmp_path):
    with pytest.raises(WorkError, match=r"became nan.*train\.lr"):
        loop.fit(
            ggl_net(train__lr=1e30, train__optimizer="sgd"), sample_shards, Keeper(tmp_path), log=lambda line: None
        )


def test_the_time_budget_ends_the_run(sample_shards, tmp_path):
    keeper = Keeper(tmp_path)
    loop.fit(tiny(train__hours=1e-9, train__epochs=50), sample_shards, keeper, log=lambda line: None)
    assert [m["epoch"] for m in keeper.metrics] == [1]


def test_identity_changes_with_what_decides(sample_shards):
    manifests = read_all(sample_shards)
    names = {
        identity(ggl_net(**more), manifests).name
        for more in ({}, {"train__lr": 1e-3}, {"train__seed": 1}, {"model__width": 5})
    }
    assert len(names) == 4
    assert identity(tiny(registry__name="other"), manifests) == identity(tiny(), manifests)


def test_code_hash_looks_past_comments_and_docstrings():
    assert tree('"""One."""\ndef f():\n    """Doc."""\n    return 1  # why\n') == tree("def f():\n    return 1\n")
    assert tree("def f():\n    return 1\n") != tree("def f():\n    return 2\n")
    assert len(code_hash()) == 64


def test_code_hash_looks_past_what_only_shows_numbers():
    package = Path(identity_module.__file__).parents[1]
    assert all((package / name).is_file() for name in identity_module.SHOWS)
    files = {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*.py")}
    assert code_hash_of(files) == code_hash()
    assert code_hash_of(files | {"metrics/pictures.py": b"x = 1"}) == code_hash()
    assert code_hash_of(files | {"metrics/matching.py": b"x = 1"}) != code_hash()


def test_code_hash_covers_what_the_loop_imports():
    """Every module that training loads is hashed, or is known to decide nothing by itself."""
    code = "import sys, irstd.training.loop; print(*sorted(m for m in sys.modules if m.startswith('irstd.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Values go into the identity as such; the manifest's content by its digest; what is read is compared with checksums.
    aside = {"irstd.errors", "irstd.files", "irstd.data", "irstd.data.manifest"}
    aside |= {"irstd.data.guard", "irstd.data.remote", "irstd.foreign"}
    covered = {"irstd." + part.removesuffix(".py").replace("/", ".") for part in COMPUTES}
    aside |= {module for module in done.stdout.split() if module.startswith("irstd.config")}
    for module in set(done.stdout.split()) - aside:
        assert any(module == c or module.startswith(c + ".") for c in covered | {"irstd.config"}), module


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
    from irstd.commands import train
    from irstd.training.record import finished

    assert train.finished is finished
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


def test_rates_of_yolox_and_of_steps():
    config = tiny(train__warmup=3, train__schedule="yolox", train__lr=1.0).train
    rates = [optimizer.learning_rate(config, step, 100) for step in range(100)]
    assert rates[:4] == [1 / 16, 4 / 16, 9 / 16, 1.0]
    assert rates[49] == pytest.approx(0.525)  # half-way down from 1 to .05, which is reached at step 95
    assert rates[94] > 0.05 and rates[95:] == pytest.approx([0.05] * 5)
    config = tiny(train__schedule="step", train__milestones=[0.5, 0.8], train__gamma=0.1, train__lr=1.0).train
    rates = [optimizer.learning_rate(config, step, 10) for step in range(10)]
    assert rates == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2)
    for wrong in ([0.8, 0.5], [0.0], [1.0]):
        with pytest.raises(InputError, match=r"milestones"):
            tiny(train__milestones=wrong)


def weights_equal(left: Path, right: Path) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (left, right))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_validation_by_steps_and_a_resume_within_an_epoch(sample_shards, tmp_path):
    """Kept in mid-epoch, a run goes on with the next batch of that epoch, to the same bits."""
    config = tiny(train__epochs=2, train__val_steps=4)
    left, went_on = Keeper(tmp_path / "left", by="step"), Keeper(tmp_path / "on", by="step")
    loop.fit(config, sample_shards, left, log=lambda line: None)
    steps = [m["step"] for m in left.metrics]
    assert steps[:2] == [4, 8] and steps[-1] % 4 and all(step % 4 == 0 for step in steps[:-1])
    per_epoch = steps[-1] // 2
    assert per_epoch % 4 and [m["epoch"] for m in left.metrics] == [step // per_epoch for step in steps]
    loop.fit(config, sample_shards, went_on, resume=tmp_path / "left" / f"step-{steps[1]}", log=lambda line: None)
    assert [m["step"] for m in went_on.metrics] == steps[2:]
    assert weights_equal(*(tmp_path / name / f"step-{steps[-1]}" for name in ("left", "on")))
    assert [m["loss"] for m in went_on.metrics] == [m["loss"] for m in left.metrics[2:]]


def test_patience_ends_a_run_that_gets_no_better(sample_shards, tmp_path):
    """With nothing to learn the first validation stays the best."""
    keeper = Keeper(tmp_path)
    loop.fit(
        tiny(train__lr=1e-12, train__ema=0.0, train__patience=1, train__epochs=6), sample_shards, keeper, log=print
    )
    values = [m["val_iou"] for m in keeper.metrics]
    best = values.index(max(values))
    assert len(values) == best + 2 < 6


def test_a_batch_in_parts_learns_the_same(sample_shards):
    """One step on a batch whole and in parts: equal but for the statistics of batch normalisation, which are left out."""
    after = {}
    for parts in (1, 2, 4):
        config = tiny(
            train__accumulate=parts, train__optimizer="sgd", train__lr=1e-2, train__ema=0.0, data__flips=False
        )
        run = loop.Run(config, sample_shards, "cpu", lambda line: None)
        run.model.eval()
        run.stepper(next(iter(run.loader)), 0)
        after[parts] = torch.cat([p.detach().flatten() for p in run.model.parameters()])
        assert run.stepper.means()["loss"] > 0
    torch.testing.assert_close(after[2], after[1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(after[4], after[1], rtol=1e-4, atol=1e-7)
    with pytest.raises(InputError, match=r"does not divide into train\.accumulate=3"):
        tiny(train__accumulate=3)


@pytest.mark.parametrize("model", ["ggl-net", "bp-fpn"])
def test_bf16_learns_about_the_same(sample_shards, model):
    """The loss of a step is that of float32 but for rounding, and is float32; so are the weights."""
    losses = {}
    for precision in ("float32", "bf16"):
        options = {"train.precision": precision, "data.crop": 32, "train.batch": 4}
        options |= {"model.width": 4} if model == "ggl-net" else {"model.width": 0.125, "model.frames": 2}
        run = loop.Run(configuration.load(overrides=options, model=model), sample_shards, "cpu", lambda line: None)
        seen = []
        run.stepper.module.register_forward_hook(lambda module, inputs, found, seen=seen: seen.append(found[0].dtype))
        run.stepper(next(iter(run.loader)), 0)
        losses[precision] = run.stepper.means()["loss"]
        assert seen == [torch.float32] and {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.05) and losses["bf16"] != losses["float32"]


def test_a_bad_loss_names_step_and_key_frames(sample_shards):
    run = loop.Run(ggl_net(), sample_shards, "cpu", lambda line: None)
    batch = next(iter(run.loader))
    next(run.model.parameters()).data.fill_(float("nan"))
    names = [f"{name}:{frame}" for name, frame in batch["key"]]
    with pytest.raises(WorkError) as raised:
        run.stepper(batch, 6)
    assert "step 7" in str(raised.value) and all(name in str(raised.value) for name in names)


def test_patience_without_a_val_split_is_refused(sample_data, tmp_path):
    """It would wait for ever."""
    shutil.copytree(sample_data, tmp_path / "data")
    given = tmp_path / "data" / "sample" / "splits.json"
    given.write_text(given.read_text().replace(': "val"', ': "train"'))
    shards.build(tmp_path / "data", tmp_path / "shards", CONFIG)
    assert prepare(tiny(), tmp_path / "shards").name
    with pytest.raises(InputError, match=r"train\.patience=2.*split 'val'"):
        prepare(tiny(train__patience=2), tmp_path / "shards")


@pytest.fixture(scope="module")
def empty_val(tmp_path_factory):
    """Shards whose val has frames, and no target."""
    root = tmp_path_factory.mktemp("empty")
    spec = {"height": 34, "width": 46, "frames": 5, "fps": 25.0, "kind": "clouds", "offset": 3000, "span": 100}
    names = {"a": "train", "b": "train", "empty": "val", "c": "test"}
    scenes = {n: SceneSpec(seed=i, targets=0 if n == "empty" else 2, **spec) for i, n in enumerate(names)}
    write_source(root / "source", scenes)
    ingest(root / "source", "made", root / "data", root / "staging")
    path = root / "data" / "made" / "splits.json"
    path.chmod(0o644)
    write_json(path, read_json(path) | {"groups": names})
    shards.build(root / "data", root / "shards", CONFIG)
    return root / "shards"


def test_a_val_without_a_target_chooses_nothing(empty_val):
    """Its IoU is 0 or none whatever is learnt: the first epoch would be the best for ever."""
    states, lines = [], []
    config = tiny(train__epochs=3, train__checkpoint_every=1)

    def report(row, folder):
        states.append(read_json(folder / "state.json"))

    loop.fit(config, empty_val, report, log=lines.append)
    assert [(s["best"]["epoch"], s["best"]["chosen"], s["selected"]) for s in states] == [
        (epoch, "last", None) for epoch in (1, 2, 3)
    ]
    assert sum("val has no target" in line for line in lines) == 1 and states[-1]["history"][0]["val_fa"] is not None
    with pytest.raises(InputError, match=r"train\.patience=2.*no target in the split 'val'"):
        prepare(tiny(train__patience=2), empty_val)


def test_a_rate_that_val_cannot_tell_is_refused_before_the_training(sample_shards):
    config = tiny(evaluate__objective="pd_at_fa", evaluate__wanted_fa=1e-6)
    with pytest.raises(
        InputError, match=r"evaluate\.wanted_fa=1e-06: too little to tell: Fa 1e-06 needs 1e\+07 pixels"
    ):
        prepare(config, sample_shards)
    assert prepare(tiny(evaluate__objective="pd_at_fa", evaluate__wanted_fa=1e-2), sample_shards).name
