"""The chain from a version to its recordings: each link is broken by altering what really lies there."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from irstd.commands import lineage as command
from irstd.registry import layers, models, tracking, verification
from irstd.training.identity import code_hash, code_hash_of
from tests.unit import versions

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")
URI = "models:/ggl-net/1"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, sample_data, sample_shards):
    with versions.made(tmp_path_factory.mktemp("lineage"), sample_data, sample_shards) as found:
        versions.registered(found, "ggl-net", "ggl-net")
        yield found


def links(workspace, uri=URI) -> list[tuple[str, str | None]]:
    found = models.package(workspace, uri, checked=False)
    out = []
    for link in verification.verify(workspace, found, models.resolve(workspace, uri), workspace.shards):
        out.append(link)
        if link[1]:
            break
    return out


def artifacts(workspace) -> Path:
    (found,) = (workspace.home / "mlflow" / "artifacts").rglob("artifacts/*/package.json")
    return found.parent


@contextmanager
def altered(path: Path, change):
    content, mode = path.read_bytes(), path.stat().st_mode
    assert change(content) != content
    path.chmod(0o644)
    path.write_bytes(change(content))
    try:
        yield
    finally:
        path.write_bytes(content)
        path.chmod(mode)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_it_holds_and_says_of_what(workspace, capsys):
    found = links(workspace)
    assert {reason for _, reason in found} == {None}
    names = [what for what, _ in found]
    commit = models.package(workspace, URI).content["lineage"]["git_commit"][:12]
    assert names == [
        "package", "weights", "files of the package", "configuration", "registry", "MLflow run", "numbers",
        "code in the version", "git commit", f"code (in the version, at commit {commit})", "shards of sample",
        "recordings of sample", "data.dvc",
    ]  # fmt: skip
    assert command.run(workspace, URI, verify=False) == 0
    printed = capsys.readouterr().out
    assert "numbers on val           iou 0.25, pd 0.5 (strict, val-best)" in printed and "not checked" in printed


FILES = {
    "package": [
        ("a metric's value", "package.json", lambda c: c.replace(b'"iou": 0.25', b'"iou": 0.95')),
        ("the configuration", "package.json", lambda c: c.replace(b'"lr": 0.0005', b'"lr": 0.0006')),
        ("a hash", "package.json", lambda c: c.replace(b'"weights_sha256": "', b'"weights_sha256": "0')),
    ],
    "weights": [("weights", "weights.safetensors", flipped)],
    "files of the package": [("the card", "MODEL_CARD.md", flipped)],
    "code in the version": [("code", "../../code/irstd/models/losses.py", lambda c: c + b"x = 1\n")],
}


@pytest.mark.parametrize(
    ("link", "name", "change"), [pytest.param(k, n, c, id=i) for k, v in FILES.items() for i, n, c in v]
)
def test_altered_files_of_the_version(workspace, link, name, change):
    with altered(artifacts(workspace) / name, change):
        found = links(workspace)
    assert found[-1][0] == link and found[-1][1]


PLACES = {
    "a recording": ("data/sample/a", "*.mkv", "recordings of sample", "a: recording is"),
    "labels": ("data/sample/a", "annotations.json", "recordings of sample", "altered"),
    "a tar": ("shards/sample", "train-*.tar", "shards of sample", "missing or altered"),
    "a manifest": ("shards/sample", "manifest.json", "shards of sample", "digest"),
    "data.dvc": (".", "data.dvc", "data.dvc", "recorded is 0123456789ab"),
}


@pytest.mark.parametrize("what", PLACES)
def test_altered_data(workspace, what, capsys):
    folder, pattern, link, words = PLACES[what]
    path = next((workspace.root / folder).glob(pattern))
    change = {
        "a manifest": lambda c: c.replace(b'"height": 34', b'"height": 35', 1),
        "data.dvc": lambda c: c.replace(b"abcdef0", b"abcdef1"),
    }.get(what, flipped)
    with altered(path, change):
        assert command.run(workspace, URI, verify=True, as_json=what == "data.dvc") == 1
    printed = capsys.readouterr().out
    if what == "data.dvc":
        found = json.loads(printed)
        assert found["holds"] is False and found["chain"]["model version"] == "ggl-net/1"
        assert found["links"][-1]["link"] == link and words in found["links"][-1]["reason"]
    else:
        last = printed.strip().splitlines()[-1]
        assert last.startswith(f"broken  {link}: ") and words in last


def test_a_package_that_was_sealed_again_differs_from_its_run(workspace):
    """Who alters the package and its seal in the registry still has the run's own numbers against them."""
    client, version = tracking.client(workspace), models.resolve(workspace, URI)
    seal = version.tags[models.SEAL]
    path = artifacts(workspace) / "package.json"
    with altered(path, lambda c: c.replace(b'"iou": 0.25', b'"iou": 0.95')):
        found = models.package(workspace, URI, checked=False)
        witness = f"{models.SEAL}.ggl-net.1"
        try:
            client.set_model_version_tag("ggl-net", "1", models.SEAL, found.sha256)
            assert links(workspace)[-1][0] == "MLflow run"
            client.set_tag(version.run_id, witness, found.sha256)
            assert links(workspace)[-1] == ("numbers", "best_val_iou is 0.25 in MLflow, and 0.95 in the package")
        finally:
            client.set_model_version_tag("ggl-net", "1", models.SEAL, seal)
            client.set_tag(version.run_id, witness, seal)


def test_code_that_was_sealed_again_is_not_what_trained(workspace):
    client = tracking.client(workspace)
    seal = models.resolve(workspace, URI).tags[models.CARRIED]
    with altered(artifacts(workspace) / "../../code/irstd/models/losses.py", lambda c: c + b"x = 1\n"):
        found = models.package(workspace, URI, checked=False)
        code = layers.Source.read(found.folder.parents[1] / "code" / "irstd")
        try:
            client.set_model_version_tag("ggl-net", "1", models.CARRIED, layers.sha256(code))
            assert links(workspace)[-1][0] == "code" and "in the version" in links(workspace)[-1][1]
        finally:
            client.set_model_version_tag("ggl-net", "1", models.CARRIED, seal)


def test_a_number_that_was_logged_over(workspace):
    client, version = tracking.client(workspace), models.resolve(workspace, URI)
    now = int(time.time() * 1000)
    client.log_metric(version.run_id, "best_val_iou", 0.75, timestamp=now + 1000)
    assert links(workspace)[-1] == ("numbers", "best_val_iou is 0.75 in MLflow, and 0.25 in the package")
    client.log_metric(version.run_id, "best_val_iou", 0.25, timestamp=now + 2000)
    assert links(workspace)[-1][0] == "data.dvc"


def test_a_commit_that_is_not_here(workspace):
    kept = workspace.root / ".git"
    kept.rename(workspace.root / ".git-kept")
    try:
        versions.git(workspace.root, "init", "--quiet")
        assert links(workspace)[-1][0] == "git commit"
    finally:
        shutil.rmtree(kept)
        (workspace.root / ".git-kept").rename(kept)


def test_a_commit_with_other_code(workspace):
    path = workspace.root / "irstd" / "models" / "losses.py"
    with altered(path, lambda c: c + b"\nOTHER = 1\n"):
        versions.git(workspace.root, "commit", "--quiet", "-a", "-m", "other code")
    versions.git(workspace.root, "checkout", "--quiet", "--", "irstd")
    number = versions.registered(workspace, "ggl-net", "other", seed=1)
    found = links(workspace, f"models:/other/{number}")
    assert found[-1][0] == "code" and found[-1][1].startswith("at commit ")


def test_comments_are_no_code_and_the_lists_are_the_state_s_own():
    files = layers.source(layers.needed()).files
    assert code_hash_of(files) == code_hash()
    losses = "models/losses.py"
    assert code_hash_of({**files, losses: files[losses] + b"# a comment\n"}) == code_hash()
    assert code_hash_of({**files, losses: files[losses] + b"x = 1\n"}) != code_hash()
    own = files["training/identity.py"].replace(b'"models",\n', b"", 1)
    assert code_hash_of({**files, "training/identity.py": own}) != code_hash()
