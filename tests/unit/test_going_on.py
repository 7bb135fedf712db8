"""What a run goes on from: weights of a model package, and a run that began with other code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from irstd import config as configuration
from irstd.commands import going_on
from irstd.data.manifest import read_all
from irstd.errors import InputError
from irstd.inference import package, provenance
from irstd.models import build_model
from irstd.registry import lineage
from irstd.training import checkpoint as checkpoints
from irstd.training.identity import Identity
from irstd.training.preparation import Job, prepare
from irstd.workspace import Workspace

TINY = {"model.width": 4, "model.in_channels": 1, "data.crop": 32, "train.batch": 4, "train.epochs": 2}


def job(shards: Path, **more) -> Job:
    overrides = TINY | {key.replace("__", "."): value for key, value in more.items()}
    return prepare(configuration.load(overrides=overrides), shards)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path, tmp_path / ".irstd")


@pytest.fixture
def began(workspace, sample_shards) -> str:
    """A run that began with other code, and has come to step 12; its name."""
    now = job(sample_shards)
    then = Identity("ggl-net-of-yesterday", now.identity.content | {"code": "0" * 64})
    # Yesterday's code knew one option less.
    del then.content["train"]["clip"]
    old = Job(now.config, now.shards, now.manifests, then)
    (workspace.runs / then.name).mkdir(parents=True)
    assert going_on.begin(workspace.runs / then.name, old) == {}
    model = torch.nn.Linear(2, 2)
    folder = Path(workspace.ray_storage) / then.name / "checkpoint_1"
    state = {"step": 12, "history": [], "run": then.name, "identity": then.hash}
    checkpoints.write(folder, model.state_dict(), torch.optim.SGD(model.parameters()), None, model.state_dict(), state)
    return then.name


def test_a_run_goes_on_with_other_code_and_its_lineage_says_since_when(workspace, sample_shards, began, capsys):
    now = job(sample_shards)
    found = going_on.across_code(workspace, now, began)
    assert found.name == began and found.known == found.identity and found.config == now.config
    assert "began with other code (000000000000, now " in capsys.readouterr().out
    added = going_on.begin(workspace.runs / began, found)
    assert added["code_changes"] == [{"step": 12, "code": now.identity.content["code"]}]
    # Again after a kill: no second change.
    assert going_on.across_code(workspace, now, began).identity == found.identity
    assert len(going_on.begin(workspace.runs / began, found)["code_changes"]) == 1
    noted = lineage.of_run(workspace, found.identity, found.manifests, 0) | added
    made = package.Package(
        workspace.root, {"lineage": noted | {"weights_sha256": "w"}, "threshold": 0.5, "metrics": {}}
    )
    assert ("code changed at step 12", now.identity.content["code"]) in lineage.chain(made, None)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"train__lr": 2e-3}, r"train.lr: 0.0005 there, 0.002 here; only the code may differ"),
        ({"model__width": 8}, r"model.width: 4 there, 8 here"),
        ({"train__clip": 1.0}, r"train.clip: nothing there, 1.0 here"),
        ({"evaluate__threshold": 0.4}, r"evaluate.threshold: 0.5 there, 0.4 here"),
    ],
)
def test_other_options_are_refused_by_name(workspace, sample_shards, began, more, words):
    with pytest.raises(InputError, match=f"^--resume {began}: {words}"):
        going_on.across_code(workspace, job(sample_shards, **more), began)


def test_other_data_is_refused(workspace, sample_shards, began):
    record = workspace.runs / began / going_on.RECORD
    content = json.loads(record.read_text())
    content["content"]["sets"]["sample"] = "f" * 64
    record.write_text(json.dumps(content))
    with pytest.raises(InputError, match="the shards of sample: ffffffffffff there"):
        going_on.across_code(workspace, job(sample_shards), began)


def test_what_there_is_to_go_on_with(workspace, sample_shards, began):
    now = job(sample_shards)
    with pytest.raises(InputError, match="no such run here.*did you mean 'ggl-net-of-yesterday'.*irstd list runs"):
        going_on.across_code(workspace, now, "ggl-net-of-yesterdy")
    going_on.begin(workspace.runs / now.name, now)
    assert going_on.across_code(workspace, now, now.name) is now  # the same code
    (Path(workspace.ray_storage) / began / "checkpoint_1" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no whole checkpoint to go on from"):
        going_on.across_code(workspace, now, began)
    (workspace.runs / began / "checkpoint").mkdir()
    (workspace.runs / began / "checkpoint" / "best.safetensors").touch()
    (workspace.runs / began / "run.json").write_text('{"finished": true, "lineage": {}}')
    with pytest.raises(InputError, match="it is finished; leave --resume out"):
        going_on.across_code(workspace, now, began)


def test_weights_of_a_package_are_named_in_the_lineage(workspace, sample_shards, tmp_path):
    config = configuration.load(overrides=TINY)
    weights = build_model(config).state_dict()
    made = package.write(tmp_path / "made", weights, config, [], {"run": "ggl-net-0", "weights_sha256": "w"}, {})
    started, origin = going_on.start(workspace, config, str(made.folder))
    assert started.train.init == str(made.folder)
    assert origin == {"uri": str(made.folder), "run": "ggl-net-0"}
    found = replace(prepare(started, sample_shards), origin=origin)
    assert found.identity.content["init"] and found.name != job(sample_shards).name
    added = going_on.begin(workspace.runs / found.name, found)
    assert added == {"init_from": origin}
    noted = lineage.of_run(workspace, found.identity, found.manifests, 0) | added | {"weights_sha256": "w"}
    chain = dict(lineage.chain(package.Package(tmp_path, {"lineage": noted, "threshold": 0.5, "metrics": {}}), None))
    assert chain["started from"] == f"{found.identity.content['init']} ({made.folder}, ggl-net-0)"
    bare = prepare(started, sample_shards)  # as without the upper stack
    assert bare.origin == origin
    with pytest.raises(InputError, match="beside train.init=.*give one of them"):
        going_on.start(workspace, started, "models:/ggl-net@champion")
    assert going_on.start(workspace, config, None) == (config, None)
    with pytest.raises(InputError, match="no such file, and no folder of a model package"):
        prepare(going_on.start(workspace, config, "nowhere")[0], sample_shards)


def test_what_the_first_weights_learned_from_is_known_at_every_remove(sample_shards, tmp_path):
    config, manifests = configuration.load(overrides=TINY), read_all(sample_shards)
    weights = build_model(config).state_dict()

    def made(name: str, given: list, **lineage):
        content = {"run": name, "weights_sha256": "w", **lineage}
        return package.write(tmp_path / name, weights, config, given, content, {}).content

    first = made("first", manifests)
    own = provenance.groups(manifests[0].content)["train"]
    assert provenance.learned(first) == {"sample": own} and not provenance.untold(first)
    start = provenance.started("x", first | {"lineage": first["lineage"] | {"groups": {"other": {"train": ["o"]}}}})
    second = made("second", manifests, init="w", init_from=start)
    assert provenance.learned(second) == {"sample": own, "other": ["o"]} and not provenance.untold(second)
    third = made("third", manifests, init="w", init_from=provenance.started("y", second))
    assert provenance.learned(third) == provenance.learned(second)
    assert provenance.origin(tmp_path / "second" / package.WEIGHTS)["learned"] == provenance.learned(second)
    # Of a file of weights nothing is known, nor of what started from what did.
    stray = made("stray", manifests, init="w")
    assert provenance.untold(stray) and provenance.origin(tmp_path / "weights.safetensors") is None
    assert provenance.untold(made("after", manifests, init="w", init_from=provenance.started("z", stray)))
