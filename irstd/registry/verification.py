"""Whether a model version's lineage holds: every hash computed again, link by link, from the version to the recordings."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from irstd import versioning
from irstd.data import sequence
from irstd.data.manifest import Manifest
from irstd.errors import InputError
from irstd.files import canonical_json, sha256_file, sha256_text
from irstd.foreign import Source
from irstd.inference.package import CODE, WEIGHTS, Package
from irstd.registry import exports, layers, lineage, models
from irstd.registry.tracking import client
from irstd.training.identity import code_hash_of
from irstd.workspace import Workspace

Link = tuple[str, str | None]
"""(what, None) where it holds or cannot be told, which `what` says; (what, reason) where it is broken."""


def verify(workspace: Workspace, package: Package, version: Any | None, shards: Path) -> Iterator[Link]:
    """Recompute the chain link by link, from the version down.

    `shards`: the folder with the shards that the model was trained on.
    """
    noted = package.content["lineage"]
    if version is not None and models.SEAL in version.tags:
        yield "package", _same(package.sha256, version.tags[models.SEAL])
    yield "weights", _weights(package, version)
    if "files" in package.content:
        yield "files of the package", next((f"{name} {wrong}" for name, wrong in package.altered()), None)
    if version is not None and any(tag.startswith(exports.TAG) for tag in version.tags):
        yield "exported graphs", exports.altered(package.folder.parents[1], version)
    if "source" in noted:
        return
    content = package.config.identity() | {"sets": noted["sets"], "code": noted["code"]}
    content |= {"init": noted["init"]} if "init" in noted else {}
    # A run that went on across a change of code may know options that its identity does not.
    content = noted.get("content", content)
    yield "configuration", _same(sha256_text(canonical_json(content)), noted["identity"])
    if "network_sha256" in noted:
        yield "network's code", _same(Source.read(package.folder / CODE).hash, noted["network_sha256"])
    if version is not None:
        yield "registry", _tags(version.tags, noted)
        yield from _run(workspace, package, version)
        if models.CARRIED in version.tags:
            found = layers.sha256(Source.read(package.folder.parents[1] / "code" / "irstd"))
            yield "code in the version", _same(found, version.tags[models.CARRIED])
    commit = noted["git_commit"]
    known = commit is None or versioning.has_commit(workspace.root, commit)
    yield "git commit", None if known else f"{commit} is not in this repository"
    yield _code(workspace, package)
    for name, digest in noted["sets"].items():
        yield f"shards of {name}", _shards(shards / name, digest)
        yield f"recordings of {name}", _recordings(workspace, name, shards)
    yield "data.dvc", _same(str(versioning.data_md5(workspace.root)), str(noted["data_md5"]))


def _same(found: str, recorded: str | None) -> str | None:
    return None if found == recorded else f"is {str(found)[:12]}, recorded is {str(recorded)[:12]}"


def _weights(package: Package, version: Any | None) -> str | None:
    recorded = package.content["lineage"]["weights_sha256"]
    try:
        found = sha256_file(package.folder / WEIGHTS)
    except OSError as error:
        return f"{WEIGHTS} cannot be read ({error.strerror})"
    tagged = version.tags.get("irstd.weights_sha256", recorded) if version is not None else recorded
    return _same(found, recorded) or _same(tagged, recorded)


def _tags(tags: dict[str, str], noted: dict[str, Any]) -> str | None:
    """Whether what stands in MLflow is what the package says of its lineage."""
    for key, wanted in lineage.tags(noted).items():
        # A run that was resumed has the tags of its last call; its identity is the same.
        held = key in ("irstd.identity", "irstd.shards", "irstd.code", "irstd.data_md5", "irstd.seed")
        if held and key in tags and (wrong := _same(tags[key], wanted)):
            return f"{key} {wrong}"
    return None


def _run(workspace: Workspace, package: Package, version: Any) -> Iterator[Link]:
    """The version's run: there, of this identity, with the numbers of the package."""
    from mlflow.exceptions import MlflowException

    try:
        run = client(workspace).get_run(version.run_id)
    except MlflowException as error:
        if error.error_code not in models.ABSENT:
            raise
        yield "MLflow run", f"{version.run_id} is not there"
        return
    noted = package.content["lineage"]
    witness = run.data.tags.get(f"{models.SEAL}.{version.name}.{version.version}")
    broken = _same(str(run.data.tags.get("irstd.identity", noted["identity"])), noted["identity"])
    broken = broken or (_same(witness, package.sha256) if witness is not None else None)
    yield "MLflow run", broken
    yield "numbers", _numbers(workspace, package, version.run_id)


def _numbers(workspace: Workspace, package: Package, run_id: str) -> str | None:
    """Whether the numbers that chose the checkpoint stand in the run as they stand in the package."""
    metrics = package.content["metrics"]
    if metrics.get("threshold") != package.config.evaluate.threshold:
        return None  # measured again, at another threshold than the loop's
    for name, value in metrics.get("values", {}).items():
        key = f"best_{metrics['split']}_{name}"
        history = client(workspace).get_metric_history(run_id, key)
        if history and value is not None:
            # The last one written, at whatever step.
            found = max(history, key=lambda m: (m.timestamp, m.step)).value
            if found != float(value):
                return f"{key} is {found:.6g} in MLflow, and {value:.6g} in the package"
    return None


def _code(workspace: Workspace, package: Package) -> Link:
    """Whether the hash `code` is that of the code in the version, and of the code at the commit."""
    noted = package.content["lineage"]
    made_by = noted.get("packages", {}).get("python", platform.python_version())
    if made_by.split(".")[:2] != list(platform.python_version_tuple()[:2]):
        return f"code (not told: its syntax trees were hashed by Python {made_by})", None
    own = Source.read(package.folder / CODE)
    inside = package.folder.parents[1] / "code" / "irstd"
    places = {"in the version": Source.read(inside).files if (inside / "training" / "identity.py").is_file() else {}}
    if noted["git_commit"] and not noted["git_dirty"]:
        places[f"at commit {noted['git_commit'][:12]}"] = versioning.files_at(
            workspace.root, noted["git_commit"], "irstd"
        )
    for place, files in places.items():
        if files:
            found = code_hash_of(files)
            if wrong := _same(sha256_text(found + own.hash) if own.files else found, noted["code"]):
                return "code", f"{place} {wrong}"
    looked = [place for place, files in places.items() if files]
    return f"code ({', '.join(looked) or 'not told: neither the package nor a commit of this repository has it'})", None


def _shards(folder: Path, digest: str) -> str | None:
    try:
        manifest = Manifest.read(folder)
    except InputError as error:
        return str(error)
    if manifest.digest != digest:
        return _same(manifest.digest, digest)
    for shard in manifest.content["shards"]:
        path = folder / shard["file"]
        if not path.is_file() or sha256_file(path) != shard["sha256"]:
            return f"{path.name} is missing or altered"
    return None


def _recordings(workspace: Workspace, name: str, shards: Path) -> str | None:
    """Whether the recordings and labels behind the shards are there and unchanged."""
    try:
        manifest = Manifest.read(shards / name)
        present = {s.name: s for s in sequence.sequences(workspace.data, name)}
    except InputError as error:
        return str(error)
    for key, recorded in manifest.content["sequences"].items():
        if key not in present:
            return f"{key} is gone from data/"
        source = present[key]
        try:
            found = source.recompute_sha256()
            source.check_annotations()
        except OSError as error:
            return f"{key}: {source.recording.name} cannot be read ({error.strerror})"
        except InputError as error:
            return str(error)
        labels = source.annotations_sha256
        for what, now, then in (
            ("recording", found, source.source_sha256),
            ("recording", found, recorded["source_sha256"]),
            ("labels", str(labels), str(recorded.get("annotations_sha256", labels))),  # older manifests do not say
        ):
            if now != then:
                return f"{key}: {what} {_same(now, then)}"
    return None
