"""Lineage: what a run writes down of where it came from, and the chain from a model version back to the recordings.

Whether it holds is for `irstd.registry.verification` to say.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from irstd import versioning
from irstd.data.manifest import Manifest
from irstd.files import canonical_json
from irstd.inference.package import Package
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
    found.append(("package sha256", package.sha256))
    found.append(("weights sha256", lineage["weights_sha256"]))
    found.append(("threshold", package.threshold))
    if "source" in lineage:  # imported: trained by others
        return [*found, ("imported from", lineage["source"]["file"]), ("its sha256", lineage["source"]["sha256"])]
    found.append(("run", lineage["run"]))
    found.append(("identity", lineage["identity"]))
    numbers = package.content["metrics"]
    if values := numbers.get("values"):
        shown = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if isinstance(v, int | float))
        found.append(
            (f"numbers on {numbers.get('split')}", f"{shown} ({numbers.get('protocol')}, {numbers['chosen']})")
        )
    found += [(f"shards of {name}", digest) for name, digest in lineage["sets"].items()]
    found.append(("data.dvc md5", str(lineage["data_md5"])))
    found.append(("git commit", f"{lineage['git_commit']}" + (" (dirty)" if lineage["git_dirty"] else "")))
    found.append(("code", lineage["code"]))
    found += [(f"code changed at step {each['step']}", each["code"]) for each in lineage.get("code_changes", ())]
    if "network_sha256" in lineage:
        found.append(("network's code", f"{package.config.model.network} {lineage['network_sha256']}"))
    if "init" in lineage:
        origin = lineage.get("init_from", {})
        named = [v for v in (origin.get("model") or origin.get("uri"), origin.get("run")) if v]
        found.append(("started from", " ".join([lineage["init"], *([f"({', '.join(named)})"] if named else [])])))
    found.append(("seed", str(lineage["seed"])))
    if skipped := lineage.get("skipped_frames"):
        found.append(("damaged frames", f"{skipped} key frames were passed over in training"))
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
