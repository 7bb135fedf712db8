"""Lineage: what a run writes down of where it came from, and the chain from a model version back to the recordings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from irstd import versioning
from irstd.data import sequence
from irstd.data.manifest import Manifest
from irstd.errors import InputError
from irstd.files import canonical_json, sha256_file, sha256_text
from irstd.foreign import Source
from irstd.inference.package import CODE, Package
from irstd.training.identity import Identity
from irstd.workspace import Workspace

PACKAGES = ("torch", "numpy", "opencv-python", "ray", "mlflow", "dvc", "prefect", "webdataset", "safetensors")


def of_run(workspace: Workspace, identity: Identity, manifests: list[Manifest], seed: int) -> dict[str, Any]:
    """What is known when a run starts: JSON-able, flat enough to read."""
    commit, dirty = versioning.commit(workspace.root)
    return {
        "run": identity.name,
        "identity": identity.hash,
        "code": identity.content["code"],
        **({"init": identity.content["init"]} if "init" in identity.content else {}),
        "sets": {m.set: m.digest for m in manifests},
        "data_md5": versioning.data_md5(workspace.root),
        "git_commit": commit,
        "git_dirty": dirty,
        "seed": seed,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "prefect_flow_run": os.environ.get("IRSTD_FLOW_RUN"),
    }


def tags(lineage: dict[str, Any]) -> dict[str, str]:
    """Lineage as tags of a run or of a model version."""
    return {
        "irstd.run": lineage["run"],
        "irstd.identity": lineage["identity"],
        "irstd.code": lineage["code"],
        "irstd.shards": canonical_json(lineage["sets"]),
        "irstd.data_md5": str(lineage["data_md5"]),
        "irstd.git_commit": str(lineage["git_commit"]),
        "irstd.git_dirty": str(lineage["git_dirty"]).lower(),
        "irstd.seed": str(lineage["seed"]),
    } | ({"irstd.prefect_flow_run": lineage["prefect_flow_run"]} if lineage.get("prefect_flow_run") else {})


def chain(package: Package, version: Any | None) -> list[tuple[str, str]]:
    """(what, value) from the version down to the recordings, as `irstd lineage` prints it."""
    lineage = package.content["lineage"]
    found = []
    if version is not None:
        found.append(("model version", f"{version.name}/{version.version}"))
        found.append(("MLflow run", version.run_id))
    found.append(("weights sha256", lineage["weights_sha256"]))
    found.append(("threshold", package.threshold))
    if "source" in lineage:  # imported: trained by others
        return [*found, ("imported from", lineage["source"]["file"]), ("its sha256", lineage["source"]["sha256"])]
    found.append(("run", lineage["run"]))
    found.append(("identity", lineage["identity"]))
    found += [(f"shards of {name}", digest) for name, digest in lineage["sets"].items()]
    found.append(("data.dvc md5", str(lineage["data_md5"])))
    found.append(("git commit", f"{lineage['git_commit']}" + (" (dirty)" if lineage["git_dirty"] else "")))
    found.append(("code", lineage["code"]))
    if "network_sha256" in lineage:
        found.append(("network's code", f"{package.config.model.network} {lineage['network_sha256']}"))
    if "init" in lineage:
        found.append(("started from", lineage["init"]))
    found.append(("seed", str(lineage["seed"])))
    found += [("trained on", where(place)) for place in lineage.get("workers", [])]
    if lineage.get("prefect_flow_run"):
        found.append(("Prefect flow run", lineage["prefect_flow_run"]))
    if recipe := lineage.get("recipe"):
        changed = f", changed {', '.join(recipe['changed'])}" if recipe["changed"] else ""
        found.append(("recipe", f"{recipe['file']} {recipe['sha256'][:12]}{changed}"))
    found.append(("packages", ", ".join(f"{k} {v}" for k, v in lineage["packages"].items())))
    return found


def where(place: dict[str, Any]) -> str:
    """Where a run computed (`irstd.training.place`), in one phrase."""
    more = [f"{place['threads']} thread(s) each, {place['instructions']}"] if "threads" in place else []
    return ", ".join([f"{place['workers']} worker(s) on {place['device']}", *more])


def verify(
    workspace: Workspace, package: Package, version: Any | None, shards: Path
) -> Iterator[tuple[str, str | None]]:
    """Recompute the chain link by link: (what, None) where it holds, (what, reason) where it is broken.

    `shards`: the folder with the shards that the model was trained on.
    """
    lineage = package.content["lineage"]
    yield "weights", _same(sha256_file(package.folder / "weights.safetensors"), lineage["weights_sha256"])
    if "source" in lineage:
        return
    content = package.config.identity() | {"sets": lineage["sets"], "code": lineage["code"]}
    content |= {"init": lineage["init"]} if "init" in lineage else {}
    yield "configuration", _same(sha256_text(canonical_json(content)), lineage["identity"])
    if "network_sha256" in lineage:
        yield "network's code", _same(Source.read(package.folder / CODE).hash, lineage["network_sha256"])
    if version is not None:
        noted = version.tags.get("irstd.weights_sha256")
        yield (
            "registry",
            _same(lineage["weights_sha256"], noted) or _same(lineage["identity"], version.tags.get("irstd.identity")),
        )
    commit = lineage["git_commit"]
    yield (
        "git commit",
        None if commit is None or _has_commit(workspace.root, commit) else f"{commit} is not in this repository",
    )
    for name, digest in lineage["sets"].items():
        yield f"shards of {name}", _shards(shards / name, digest)
        yield f"recordings of {name}", _recordings(workspace, name, shards)
    yield "data.dvc", _same(str(versioning.data_md5(workspace.root)), str(lineage["data_md5"]))


def _same(found: str, recorded: str | None) -> str | None:
    return None if found == recorded else f"is {str(found)[:12]}, recorded is {str(recorded)[:12]}"


def _has_commit(root: Path, commit: str) -> bool:
    call = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(call, cwd=root, capture_output=True, check=False).returncode == 0


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
