"""The best epoch by the split itself: marked, written beside the evaluations, and never registered."""

from __future__ import annotations

import json

import pytest
from toys import quiet, toy

from irstd.commands import field_best
from irstd.errors import InputError
from irstd.files import write_json
from irstd.inference import package
from irstd.models import build_model
from irstd.models.contract import state
from irstd.training import kept, loop
from irstd.training.preparation import prepare
from irstd.workspace import Workspace


@pytest.fixture
def trained(sample_shards, tmp_path):
    config = toy(train__epochs=3, train__keep_every=1)
    job = prepare(config, sample_shards)
    folder = tmp_path / ".irstd" / "runs" / job.name
    loop.fit(config, sample_shards, lambda row, place: None, log=quiet, beside=folder)
    metrics = {"split": "val", "protocol": "strict", "grid": None, "threshold": 0.5, "chosen": "val-best", "values": {}}
    digests = {m.set: m.digest for m in job.manifests}
    lineage = {"run": job.name, "sets": digests}
    weights = state(build_model(config))
    made = package.write(folder / "package", weights, config, job.manifests, lineage, metrics | {"digests": digests})
    return Workspace(tmp_path, tmp_path / ".irstd"), made, folder


def test_every_kept_epoch_is_measured_and_the_best_is_marked(trained, sample_shards, capsys):
    workspace, made, folder = trained
    found = field_best.run(workspace, made, sample_shards, "test", ["sample"], None)
    assert [row["epoch"] for row in found["epochs"]] == [1, 2, 3] and found["chosen"] == "field-best"
    assert found["best"]["iou"] == max(row["iou"] for row in found["epochs"])
    said = capsys.readouterr().out
    (marked,) = (line for line in said.splitlines() if line.rstrip().endswith("field-best") and "epoch" not in line)
    assert marked.split()[0] == str(found["best"]["epoch"])
    assert "was chosen by iou on test itself" in said and "never registered" in said
    written = workspace.home / "evaluations" / f"{folder.name}-test" / "field-best.json"
    assert json.loads(written.read_text()) == found
    # On val it is what the run itself found.
    again = field_best.run(workspace, made, sample_shards, "val", ["sample"], None)
    assert [row["iou"] for row in again["epochs"]] == [entry["val_iou"] for entry in kept.epochs(folder)]


def test_without_kept_epochs_it_says_how_to_keep_them(trained, sample_shards):
    workspace, made, folder = trained
    for path in (folder / "kept").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"train with train\.keep_every=1 or more"):
        field_best.run(workspace, made, sample_shards, "test", ["sample"], None)
    write_json(made.folder / "package.json", made.content | {"lineage": {"run": "elsewhere", "sets": {}}})
    with pytest.raises(InputError, match="the run elsewhere is not here"):
        field_best.run(workspace, package.Package.read(made.folder), sample_shards, "test", ["sample"], None)
