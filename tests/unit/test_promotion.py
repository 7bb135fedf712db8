"""Promotion on real frames with networks whose difference is known: pixels above a level of x are targets."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from irstd.commands import promote
from irstd.config import Config, DataConfig, ForeignConfig, ShardConfig
from irstd.data import shards
from irstd.data.ingest import ingest
from irstd.data.synthetic import SceneSpec, write_source
from irstd.errors import InputError, WorkError
from irstd.files import read_json, write_json
from irstd.inference import provenance
from irstd.metrics import DetectionMetrics, SegmentationMetrics, bootstrap, paired
from irstd.models import build_model
from irstd.registry import history, models, promotion, tracking
from irstd.workspace import SETTINGS, Workspace
from tests.unit import versions

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")
GROUPS = {"train": 3, "val": 3, "gate": 12, "test": 3}
NETWORK = """
from torch import nn

class Level(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Conv2d(1, 1, 1)

    def forward(self, image):
        return self.line(image)
"""
CONFIG = Config(model=ForeignConfig(name="toy_level:Level"), data=DataConfig(intensity="frame"))


def split_as(data, moved: dict[str, str]):
    """Give groups other splits than they have."""
    path = data / "many" / "splits.json"
    content = read_json(path)
    content["groups"] |= moved
    path.chmod(0o644)
    write_json(path, content)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data with 12 groups of gate, and shards of it."""
    root = tmp_path_factory.mktemp("many")
    names = [f"{split}-{i}" for split, count in GROUPS.items() for i in range(count)]
    spec = {
        "height": 32,
        "width": 40,
        "frames": 2,
        "fps": 25.0,
        "kind": "clouds",
        "offset": 3000,
        "span": 60,
        "targets": 2,
    }
    write_source(root / "source", {name: SceneSpec(seed=i, **spec) for i, name in enumerate(names)})
    ingest(root / "source", "many", root / "data", root / "staging")
    split_as(root / "data", {name: name.partition("-")[0] for name in names})
    shards.build(root / "data", root / "shards", ShardConfig(frames=1, chunk=2, split={"allow_duplicates": ["many"]}))
    return root


@pytest.fixture(scope="module")
def workspace(made, tmp_path_factory):
    code = tmp_path_factory.mktemp("theirs")
    (code / "toy_level.py").write_text(NETWORK)
    sys.path.insert(0, str(code))
    try:
        with versions.made(tmp_path_factory.mktemp("promotion"), made / "data", made / "shards") as found:
            (found.root / "params.yaml").write_text("registry:\n  bound: 0.0\n")
            yield found
    finally:
        sys.path.remove(str(code))
        sys.modules.pop("toy_level", None)


def level(workspace, name: str, x: float, seed: int, **more) -> str:
    """A version that finds what is brighter than x."""
    model = build_model(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(200.0 if parameter.ndim > 1 else -200.0 * x)
    return versions.registered(workspace, "", name, seed=seed, model=model, config=CONFIG, **more)


@pytest.fixture(scope="module")
def pair(workspace):
    """Versions 1 (finds nothing much, champion), 2 (finds most), 3 (the same as 1 but for its seed) of `m`."""
    for seed, x in enumerate((3.0, 1.05, 3.0), 1):
        assert level(workspace, "m", x, seed) == str(seed)
    models.set_alias(workspace, "m", "champion", "1")
    return "m"


def champion(workspace, name="m") -> str:
    return str(models.aliased(workspace, name, "champion").version)


def result(capsys) -> dict:
    lines = capsys.readouterr().out.splitlines()
    (found,) = [line for line in lines if line.startswith("irstd-result: ")]
    return json.loads(found.removeprefix("irstd-result: ")) | {"out": "\n".join(lines)}


def test_a_better_one_is_promoted_once_and_taken_back(workspace, pair, capsys):
    # The same network does not beat itself.
    assert promote.run(workspace, "models:/m/3") == 1
    found = result(capsys)
    assert found["verdict"] == "kept" and found["interval"] == [0, 0] and found["groups"] == 12
    assert found["gate_uses"] == 1 and champion(workspace) == "1"
    # However much better, a bound may ask for more.
    assert promote.run(workspace, "models:/m/2", bound=0.99) == 1
    assert result(capsys)["verdict"] == "kept" and champion(workspace) == "1"
    assert promote.run(workspace, "models:/m/2") == 0
    found = result(capsys)
    low, high = found["interval"]
    assert found["verdict"] == "promoted" and 0 < low <= found["difference"] <= high and found["split"] == "gate"
    assert found["gate_uses"] == 3 and "gate used 3 times for decisions on m" in found["out"]
    assert champion(workspace) == "2"
    # Stored with both, as tags, as a file, and on the card.
    client = tracking.client(workspace)
    for number in "12":
        version = client.get_model_version("m", number)
        record = json.loads(version.tags["irstd.promotion_record"])
        assert version.tags["irstd.promotion"] == found["reason"] == record["reason"]
        assert record["interval"] == [low, high] and record["gate_uses"] == 3 and record["moved"] is True
        assert client.list_artifacts(version.run_id, "promotions")
        assert f"promoted: {found['reason']}" in version.description
    assert promote.run(workspace, "models:/m@champion") == 0
    assert result(capsys)["reason"] == "version 2 is the champion already"
    # Why it became champion stays written.
    assert client.get_model_version("m", "2").tags["irstd.promotion"] == found["reason"]
    # Back, from wherever: the history is MLflow's.
    other = Workspace(
        workspace.root, workspace.root / "elsewhere", {**SETTINGS, "mlflow": {"uri": workspace.mlflow_uri}}
    )
    assert promote.run(other, "models:/m", back=True) == 0
    assert result(capsys)["model"] == "models:/m/1" and champion(workspace) == "1"
    with pytest.raises(InputError, match="no champion before version 1 is recorded"):
        promote.run(workspace, "models:/m@champion", back=True)
    assert "rolled back from version 2 to version 1" in client.get_model_version("m", "2").description


def test_a_version_whose_files_are_gone_is_not_champion_for_want_of_another(workspace):
    level(workspace, "lost", 1.05, 21)
    for path in [*(workspace.home / "mlflow" / "artifacts").rglob("artifacts/*/package.json")]:
        if read_json(path)["config"]["registry"]["name"] == "lost":
            shutil.rmtree(path.parents[2])
    with pytest.raises(WorkError, match="the files of lost version 1"):
        promote.run(workspace, "models:/lost/1")
    assert models.aliased(workspace, "lost", "champion") is None


@pytest.mark.slow
def test_two_at_once_cannot_both_win(workspace):
    """From two machines, as far as files go: other home folders, the same database."""
    for seed, x in enumerate((3.0, 1.05, 1.1), 11):
        level(workspace, "race", x, seed)
    models.set_alias(workspace, "race", "champion", "1")
    settings = {**SETTINGS, "mlflow": {"uri": workspace.mlflow_uri}}
    places = [Workspace(workspace.root, workspace.root / f"home-{i}", settings) for i in range(2)]
    outcomes, barrier = {}, threading.Barrier(2)
    first = models.aliased(workspace, "race", "champion")
    candidates = [models.resolve(workspace, f"models:/race/{v}") for v in "23"]
    verdict = promotion.Verdict("promoted", "it is better", "gate", gates={"many": "d" * 64})

    def move(place, candidate):
        barrier.wait()
        try:
            outcomes[candidate.version] = promotion.record(place, candidate, first, verdict)
        except WorkError as error:
            outcomes[candidate.version] = str(error)

    threads = [threading.Thread(target=move, args=each) for each in zip(places, candidates, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [v for v, outcome in outcomes.items() if isinstance(outcome, int)]
    assert [str(v) for v in won] == [champion(workspace, "race")]
    (lost,) = [outcome for outcome in outcomes.values() if isinstance(outcome, str)]
    assert "the champion changed during the comparison" in lost
    records = history.records(workspace, "race")
    assert sorted((r["moved"], r["outcome"]) for r in records) == [(False, "kept"), (True, "promoted")]
    assert history.uses(records, {"many": "d" * 64}) == 2


def test_claims(workspace, pair, monkeypatch):
    monkeypatch.setattr(history, "PATIENCE", 0.2)
    client = tracking.client(workspace)
    client.set_registered_model_tag("m", f"{history.CLAIM}other", str(int(time.time())))
    with pytest.raises(WorkError, match="another promotion is at work"), history.alone(workspace, "m"):
        pass
    # One of a process that died long ago bars nobody.
    client.set_registered_model_tag("m", f"{history.CLAIM}other", "1000000000")
    with history.alone(workspace, "m"):
        assert sum(k.startswith(history.CLAIM) for k in client.get_registered_model("m").tags) == 1
    assert not [k for k in client.get_registered_model("m").tags if k.startswith(history.CLAIM)]


@pytest.mark.slow
def test_too_few_groups_move_nothing_unless_accepted(workspace, made, tmp_path, capsys):
    shutil.copytree(made / "data", tmp_path / "data")
    split_as(tmp_path / "data", {f"gate-{i}": "train" for i in range(3, 12)})
    shards.build(
        tmp_path / "data", tmp_path / "shards", ShardConfig(frames=1, chunk=2, split={"allow_duplicates": ["many"]})
    )
    for seed, x in enumerate((3.0, 1.05), 21):
        level(workspace, "few", x, seed, shards=tmp_path / "shards")
    models.set_alias(workspace, "few", "champion", "1")
    assert promote.run(workspace, "models:/few/2", str(tmp_path / "shards")) == 1
    found = result(capsys)
    assert found["verdict"] == "insufficient" and "3 groups, and intervals need 10" in found["reason"]
    assert champion(workspace, "few") == "1"
    assert promote.run(workspace, "models:/few/2", str(tmp_path / "shards"), accept_insufficient=True) == 0
    assert champion(workspace, "few") == "2" and "accepted as insufficient" in result(capsys)["reason"]
    # Trained where groups of this gate are in train: other digests, and, measured anew, seen before.
    assert promote.run(workspace, "models:/few/1") == 1
    found = result(capsys)
    assert (
        found["verdict"] == "refused" and "other shards than are here now" in found["reason"] and not found["gate_uses"]
    )
    assert promote.run(workspace, "models:/few/1", anew=True) == 1
    found = result(capsys)
    assert found["verdict"] == "refused"
    assert found["reason"].startswith(
        "the challenger was trained on 9 of the groups that are gate or test here: many/gate-10,"
    )
    assert champion(workspace, "few") == "2"


def test_a_train_split_that_grows_leaves_the_gate_as_it_was(workspace, made, pair, tmp_path, capsys):
    shutil.copytree(made / "data", tmp_path / "data")
    split_as(tmp_path / "data", {"val-2": "train"})
    shards.build(
        tmp_path / "data", tmp_path / "shards", ShardConfig(frames=1, chunk=2, split={"allow_duplicates": ["many"]})
    )
    number = level(workspace, "m", 1.06, 31, shards=tmp_path / "shards")
    before = champion(workspace)
    assert promote.run(workspace, f"models:/m/{number}", str(tmp_path / "shards"), bound=0.99) == 1
    found = result(capsys)
    assert found["verdict"] == "kept" and found["gate_uses"] > 1 and champion(workspace) == before


def test_what_it_started_from_may_not_have_learned_from_the_gate(workspace, pair, capsys):
    before, start = champion(workspace), {"uri": "theirs", "learned": {"many": ["gate-3", "train-0"]}}
    number = level(workspace, "m", 1.04, 41, noted={"init": "0" * 64, "init_from": start})
    assert promote.run(workspace, f"models:/m/{number}") == 1
    found = result(capsys)
    assert found["verdict"] == "refused" and champion(workspace) == before
    assert "started from) was trained on 1 of the groups that are gate or test here: many/gate-3" in found["out"]
    number = level(workspace, "m", 1.04, 42, noted={"init": "0" * 64})
    promote.run(workspace, f"models:/m/{number}", bound=0.99)
    assert "the challenger started from weights whose own training is not known here" in result(capsys)["out"]


def test_a_recording_that_was_cut_is_known_where_it_is_whole_and_the_other_way_round():
    def manifest(by, **splits):
        members = {"a": "a", "b": "site", "c": "site"}
        content = {"split_by": by, "sequences": {name: {"group": group} for name, group in members.items()}}
        return SimpleNamespace(set="s", content=content | {"splits": {"gate": [], "test": []} | splits})

    cut = manifest("block", gate=["a[26:32]"], test=["b"])
    whole = manifest("group", gate=["a"], test=["b", "c"])

    def leaked(names, now):
        return provenance.leaked({"s": names}, [now])

    assert leaked(["a[0:20]"], cut) == [] and leaked(["a[20:27]"], cut) == ["s/a[26:32]"]
    assert leaked(["a"], cut) == ["s/a[26:32]"] and leaked(["site"], cut) == ["s/b"]
    assert leaked(["a[0:20]"], whole) == ["s/a"] and leaked(["c[0:9]"], whole) == ["s/site"]
    assert leaked(["c"], whole) == ["s/site"] and leaked(["d", "e[0:3]"], whole) == []


def test_records_and_the_one_before():
    moves = [("1", "2"), ("2", "3")]
    records = [{"kind": "promotion", "moved": True, "from": a, "to": b} for a, b in moves]
    assert history.before(records, "3") == "2"
    records.append({"kind": "promotion", "moved": False, "from": "3", "to": "4"})
    records.append({"kind": "rollback", "moved": True, "from": "3", "to": "2"})
    assert history.before(records, "2") == "1"
    records.append({"kind": "rollback", "moved": True, "from": "2", "to": "1"})
    assert history.before(records, "1") is None
    records.append({"kind": "promotion", "moved": True, "from": "1", "to": "5"})
    assert history.before(records, "5") == "1"
    # A move whose alias was not set, or was taken back by hand: version 6 was no champion when 7 became it.
    records.append({"kind": "promotion", "moved": True, "from": "5", "to": "6"})
    records.append({"kind": "promotion", "moved": True, "from": "5", "to": "7"})
    assert history.before(records, "7") == "5"
    records.append({"kind": "rollback", "moved": True, "from": "7", "to": "5"})
    assert history.before(records, "5") == "1"
    # Moved by hand to what no record knows: nothing is guessed.
    assert history.before(records, "9") is None


@pytest.mark.parametrize("number", ["iou", "niou", "pd"])
def test_difference_of_masks_by_hand(number):
    """Each resample computed by itself, frames given as often as their group is drawn."""
    random = np.random.default_rng(0)
    one, other = SegmentationMetrics(), SegmentationMetrics()
    for group in range(12):
        for _ in range(2):
            mask = np.zeros((24, 24), np.uint8)
            mask[8:12, 8:12] = 1
            one.update((mask * random.random((24, 24)) > 0.2).astype(float), mask, f"s{group:02d}")
            other.update((mask * random.random((24, 24)) > 0.6).astype(float), mask, f"s{group:02d}")
    by_hand(one, other, number)


@pytest.mark.parametrize("number", ["ap50", "f1"])
def test_difference_of_boxes_by_hand(number):
    random = np.random.default_rng(0)
    one, other = DetectionMetrics(threshold=0.5), DetectionMetrics(threshold=0.5)
    for group in range(12):
        for _ in range(2):
            target = np.array([[5.0, 5.0, 8.0, 8.0]])
            for metrics, shift in ((one, 1.5), (other, 4.0)):
                boxes = np.concatenate([target + [[random.uniform(0, shift), 0, 0, 0]], [[20.0, 20.0, 6.0, 6.0]]])
                metrics.update(boxes, random.random(2), target, f"s{group:02d}")
    by_hand(one, other, number)


def by_hand(one, other, number):
    found = paired.difference(one, other, number)
    assert found["groups"] == 12 and found["difference"] == one.compute()[number] - other.compute()[number]
    names = [f"s{g:02d}" for g in range(12)]
    values = []
    for weights in bootstrap.draws(12)[:40]:
        drawn = [name for name, count in zip(names, weights, strict=True) for _ in range(count)]
        values.append(one.compute(drawn)[number] - other.compute(drawn)[number])
    sampled = paired.sampled(one, number) - paired.sampled(other, number)
    assert sampled[:40] == pytest.approx(values)
    assert found["interval"] == bootstrap.interval(sampled)
    few = paired.difference(one, other, number, lambda name: name[:2])
    assert few["interval"] is None and "intervals need 10" in few["insufficient"]
