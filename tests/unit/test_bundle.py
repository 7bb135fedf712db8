"""`irstd bundle`: the whole record of a model in one archive, the same bytes each time; what `irstd reproduce` compares."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile

import pytest
from runs import trained, under_git

from irstd import config as configuration
from irstd import versioning
from irstd.commands import bundle, evaluate, reproduce, train
from irstd.errors import InputError, WorkError
from irstd.inference.package import Package
from irstd.registry import tracking
from irstd.workspace import Workspace

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")

TINY = {"model.width": 4, "model.in_channels": 1, "data.crop": 32, "train.batch": 4, "train.epochs": 1}


@pytest.fixture(scope="module")
def workspace(sample_shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("bundle") / "w"
    root.mkdir()
    versioning.name_data(root, "0123456789abcdef.dir")
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    (root / ".gitignore").write_text("/.irstd\n/shards\n")
    under_git(root)
    (root / "shards").symlink_to(sample_shards)
    before = dict(os.environ)
    os.environ.pop("IRSTD_MLFLOW_URI", None)
    yield Workspace(root, root / ".irstd")
    os.environ.clear()
    os.environ.update(before)
    import mlflow

    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture(scope="module")
def package(workspace):
    """A trained, packaged and evaluated model; the evaluation is in MLflow too."""
    config = configuration.load(workspace.root, None, TINY, "ggl-net")
    name = train.prepare(config, workspace.shards).name
    job, record = trained(workspace, config, tracking.start(workspace, name, {}, {}))
    folder = train.write_package(workspace, job, record)
    evaluate.run(workspace, str(folder), [], "val", None, None, beside=[])
    return Package.read(folder)


@pytest.fixture(scope="module")
def archive(workspace, package, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "mine.zip"
    bundle.run(workspace, str(package.folder), out)
    return out


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name.removeprefix(f"{path.stem}/"): archive.read(name) for name in archive.namelist()}


def test_it_holds_all_that_a_reader_needs(workspace, package, archive):
    found = members(archive)
    assert {
        "README.md", "SHA256SUMS", "LICENCES.md", "lineage.txt", "constraints.txt", "recipe.yaml", "results.csv", "data.dvc",
        "dvc.lock", "model/weights.safetensors", "model/package.json", "model/MODEL_CARD.md", "evaluations/val/report.json",
        "evaluations/val/images.csv", "evaluations/val/roc.csv", "shards/sample/manifest.json", "splits/sample/test.txt",
    } <= found.keys()  # fmt: skip
    assert (
        hashlib.sha256(found["model/weights.safetensors"]).hexdigest() == package.content["lineage"]["weights_sha256"]
    )
    assert found["shards/sample/manifest.json"] == (workspace.shards / "sample" / "manifest.json").read_bytes()
    labels = json.loads(found["shards/sample/manifest.json"])["splits"]["test"]
    assert found["splits/sample/test.txt"].decode().split() == labels
    assert "torch==" in found["constraints.txt"].decode() and "+" not in found["constraints.txt"].decode()
    readme = found["README.md"].decode()
    assert (
        package.content["lineage"]["git_commit"] in readme
        and "1 worker(s) on cpu" in readme
        and "split val of" in readme
    )
    sums = dict(reversed(line.split("  ")) for line in found["SHA256SUMS"].decode().splitlines())
    assert sums.keys() == found.keys() - {"SHA256SUMS"}
    assert all(hashlib.sha256(found[name]).hexdigest() == sha for name, sha in sums.items())


def test_it_is_the_same_bytes_and_names_no_path_of_this_machine(workspace, package, archive, tmp_path):
    os.utime(package.folder / "weights.safetensors", (1, 1))
    bundle.run(workspace, str(package.folder), tmp_path / "mine.zip")
    assert (tmp_path / "mine.zip").read_bytes() == archive.read_bytes()
    for name, data in members(archive).items():
        if name.endswith(bundle.TEXTS):
            assert str(workspace.root).encode() not in data, name
            assert not re.search(rb"/(tmp|home|root|work)/", data), name


def test_its_recipe_is_the_run(workspace, package, archive, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(members(archive)["recipe.yaml"])
    config = configuration.load(workspace.root, tmp_path / "recipe.yaml", {}, "ggl-net")
    assert train.prepare(config, workspace.shards).name == package.content["lineage"]["run"]


def test_what_is_there_is_kept_unless_told(workspace, package, archive, tmp_path, capsys):
    before = archive.read_bytes()
    with pytest.raises(InputError, match="is there already"):
        bundle.run(workspace, str(package.folder), archive)
    with pytest.raises(InputError, match=r"ends in \.zip"):
        bundle.run(workspace, str(package.folder), tmp_path / "mine.tar")
    assert archive.read_bytes() == before and not list(archive.parent.glob(".*"))
    # Other shards than the model's are left out, and it says so.
    (tmp_path / "other").mkdir()
    bundle.run(workspace, str(package.folder), archive, shards=str(tmp_path / "other"), force=True)
    found = members(archive)
    assert "shards/sample/manifest.json" not in found and "split lists of sample" in found["README.md"].decode()
    assert "not in it: manifest and split lists of sample" in capsys.readouterr().out
    archive.write_bytes(before)


def changed(package, folder, **lineage):
    """The package with another lineage, as if written by another training."""
    values = {"metrics": package.content["metrics"], "threshold": package.content["threshold"]}
    for name in [n for n in lineage if n in values]:
        values[name] = lineage.pop(name)
    folder.mkdir(exist_ok=True)
    content = package.content | values | {"lineage": package.content["lineage"] | lineage}
    (folder / "package.json").write_text(json.dumps(content))
    return Package.read(folder)


def verdict(package, again):
    return {what: (how, why) for what, how, why in reproduce.compared(package, again, 0.02)}


def test_the_same_weights_hold_and_others_need_a_reason(package, tmp_path):
    found = verdict(package, package)
    assert {how for how, _ in found.values()} == {"holds"}
    assert [*found] == ["code", "packages", "trained on", "weights", "threshold", "numbers"]
    other = changed(package, tmp_path / "other", weights_sha256="f" * 64)
    assert (
        verdict(package, other)["weights"][0] == "broken"
        and "nothing explains it" in verdict(package, other)["weights"][1]
    )
    packages = package.content["lineage"]["packages"] | {"torch": "9.9"}
    moved = [package.content["lineage"]["workers"][0] | {"workers": 2}]
    elsewhere = changed(package, tmp_path / "elsewhere", weights_sha256="f" * 64, packages=packages, workers=moved)
    found = verdict(package, elsewhere)
    assert [found[n][0] for n in ("packages", "trained on", "weights", "numbers")] == [
        "differs",
        "differs",
        "differs",
        "holds",
    ]
    assert "torch 9.9, recorded is" in found["packages"][1] and "2 worker(s)" in found["trained on"][1]
    values = package.content["metrics"]["values"]
    far = package.content["metrics"] | {"values": values | {"iou": values["iou"] + 0.03, "fa": 1.0}}
    found = verdict(
        package, changed(package, tmp_path / "far", metrics=far, weights_sha256="f" * 64, packages=packages)
    )
    assert found["numbers"][0] == "broken" and found["numbers"][1].endswith("iou differ by more than 0.02")
    assert verdict(package, changed(package, tmp_path / "code", code="0" * 64))["code"][0] == "broken"


def test_only_paths_of_this_machine_are_left_out_of_texts():
    """A sequence may be called as a folder is."""
    hidden = ["/tmp", "/home/me", "/home/me/w"]
    text = b'"/home/me/w/data", file:///tmp/x, set/tmp-01, set/tmp, /tmp. /home/men a/home/me/w'
    assert (
        bundle._portable("rows.csv", text, hidden)
        == b'"./data", file://./x, set/tmp-01, set/tmp, .. /home/men a/home/me/w'
    )
    assert bundle._portable("weights.safetensors", text, hidden) == text


def test_it_is_trained_again_on_the_sets_that_it_knew(package):
    """Shards of a whole `data/` may be of more than there were then."""
    assert package.content["config"]["data"]["sets"] == []
    found = reproduce.recipe_of(package)
    assert found["data"].pop("sets") == ["sample"]
    package.content["config"]["data"].pop("sets")
    assert found == package.content["config"]


def test_a_damaged_result_is_not_packed(workspace, package):
    job = train.prepare(configuration.load(workspace.root, None, TINY, "ggl-net"), workspace.shards)
    record = json.loads((workspace.runs / job.name / "run.json").read_text())
    path = workspace.runs / job.name / "checkpoint" / "best.safetensors"
    whole, before = path.read_bytes(), (package.folder / "package.json").read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(WorkError, match="best.safetensors has other bytes than were written.; remove that folder"):
            train.write_package(workspace, job, record)
    finally:
        path.write_bytes(whole)
    assert (package.folder / "package.json").read_bytes() == before


@pytest.mark.parametrize(
    ("lineage", "words"),
    [
        ({"git_dirty": True}, "not committed.*--allow-dirty"),
        ({"git_commit": None}, "outside git"),
        ({"git_commit": "f" * 40}, "not in this repository"),
        ({"data_md5": None}, "data are not recorded"),
        ({"source": {"file": "theirs"}}, "trained by others"),
    ],
)
def test_a_record_that_does_not_say_how_is_refused(workspace, package, tmp_path, lineage, words):
    other = changed(package, tmp_path / "p", **lineage)
    with pytest.raises(InputError, match=words):
        reproduce.run(workspace, str(other.folder))
    assert not (workspace.home / "reproduce").exists()


def test_a_commit_is_taken_out_without_a_trace_in_the_repository(workspace, tmp_path):
    commit, _ = versioning.commit(workspace.root)
    refs = sorted(str(p) for p in (workspace.root / ".git").rglob("*"))
    (workspace.root / "dvc.lock").write_text("changed")
    try:
        root = versioning.checkout(workspace, commit, tmp_path / "tree")
        assert (root / "dvc.lock").read_text() == "schema: '2.0'\n" and versioning.commit(root) == (commit, False)
    finally:
        (workspace.root / "dvc.lock").write_text("schema: '2.0'\n")
    assert sorted(str(p) for p in (workspace.root / ".git").rglob("*")) == refs
