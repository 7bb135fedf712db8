"""Model versions: register a package, find it again by URI, move aliases."""

from __future__ import annotations

import importlib.metadata
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from irstd.errors import InputError, WorkError, nearest
from irstd.foreign import Source, carried
from irstd.inference import card, choice
from irstd.inference.detector import Detector
from irstd.inference.package import CODE, EXAMPLE, Package
from irstd.registry import layers, tracking
from irstd.registry.tracking import _mlflow, client
from irstd.workspace import Workspace

# What a version needs to run, besides irstd's lower layers, which travel with it. MLflow brings pydantic and PyYAML.
REQUIRES = ("mlflow", "torch", "numpy", "opencv-python", "safetensors")
# Where a version's files hold the model package.
PACKAGE = "artifacts/*/package.json"
# How MLflow says that there is no such model or version; an unknown alias is an invalid parameter to it.
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
# MLflow's tables end a description there.
DESCRIPTION = 5000
# Tags of a version: hashes of what it holds.
SEAL, CARRIED = "irstd.package_sha256", "irstd.carried_sha256"


def register(workspace: Workspace, run_id: str, package: Package, name: str, tags: dict[str, Any]) -> str:
    """Log `package` as a model of the run and register it as the next version of `name`; returns the version's number.

    The version's tags hold the hashes of the package and of irstd's code in it, and so does the run.
    """
    if not run_id:
        # MLflow would quietly make a new run, which nothing else knows of.
        raise WorkError(f"{package.folder}: its run is not in MLflow, so it cannot be registered")
    mlflow = _mlflow(workspace.mlflow_uri)
    found = client(workspace)
    package.check()
    code = Source.read(package.folder / CODE)
    own = layers.source(layers.needed(code))
    seals = {SEAL: package.sha256, CARRIED: layers.sha256(own)}
    with tempfile.TemporaryDirectory(prefix="irstd-register-") as place, warnings.catch_warnings():
        # MLflow hints at type hints; what comes in is an array, what goes out a list of dicts.
        warnings.simplefilter("ignore")
        own.write(Path(place) / "irstd")
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("pyfunc.py")),
                artifacts={"package": str(package.folder)},
                code_paths=[str(Path(place) / "irstd")],
                signature=_signature(package),
                input_example=_example(package),
                pip_requirements=_requirements(package),
                metadata={"irstd": package.content["metrics"]},
            )
        _ensure_name(found, name)
        version = found.create_model_version(
            name,
            info.model_uri,
            run_id,
            tags={k: str(v) for k, v in (tags | seals).items() if v is not None},
            description=card.shortened(card.render(package.content, name), DESCRIPTION),
            model_id=info.model_id,
        )
    # A second witness: one run may be registered under several names.
    found.set_tag(run_id, f"{SEAL}.{name}.{version.version}", package.sha256)
    return str(version.version)


def _signature(package: Package) -> Any:
    """Unnamed: a named tensor reaches the model as a dict, and a version is called with frames_THW itself."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array, DataType

    depth = package.content["bit_depth"]
    outputs = [
        ColSpec(DataType.long, "frame"),
        ColSpec(Array(Array(DataType.double)), "boxes"),
        ColSpec(Array(DataType.double), "scores"),
    ]
    return ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint16 if depth > 8 else np.uint8), (-1, -1, -1))]),
        Schema(outputs),
        ParamSchema([ParamSpec("bit_depth", DataType.integer, depth)]),
    )


def _example(package: Package) -> np.ndarray | None:
    path = package.folder / EXAMPLE
    return np.load(path, allow_pickle=False) if path.is_file() else None


def _requirements(package: Package) -> list[str]:
    """What irstd's lower layers need, and what the code of a network that is not ours imports."""
    own = [f"{p}=={importlib.metadata.version(p).split('+')[0]}" for p in REQUIRES]
    network = package.config.model.network
    if network.startswith("irstd."):
        return own
    with carried(package.folder / CODE):
        return own + [r for r in Source.of(network).requirements() if r not in own]


def _ensure_name(found: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        found.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


# Tags by which versions of one run differ.
APART = ("irstd.threshold_chosen", "irstd.seeds")


def apart(package: Package) -> dict[str, str]:
    """Those of the tags `APART` that the package has: another threshold, or the seeds beside it, make another version."""
    chosen, several = package.content.get("threshold_chosen"), package.content["metrics"].get("seeds")
    found = {APART[0]: choice.phrase(chosen)} if chosen and "kept" not in chosen else {}
    return found | ({APART[1]: several["group"]} if several else {})


def version_of(workspace: Workspace, name: str, run: str, tags: dict[str, str] | None = None) -> str | None:
    """The number of the version of `name` that the run with identity `run` registered, or None; that with these of the
    tags `APART`, and without the others of them."""
    found, wanted = client(workspace), tags or {}
    versions = [
        int(v.version)
        for v in found.search_model_versions(f"name = '{name}' and tags.`irstd.run` = '{run}'")
        if all(v.tags.get(tag) == wanted.get(tag) for tag in APART)
    ]
    return str(max(versions)) if versions else None


def set_alias(workspace: Workspace, name: str, alias: str, version: str) -> None:
    client(workspace).set_registered_model_alias(name, alias, version)


def aliased(workspace: Workspace, name: str, alias: str) -> Any | None:
    """The version with this alias; None where there is no such alias or model, and only there.

    A store that does not answer is an error: taken for "no champion", it would crown a version that nobody compared.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client(workspace).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def resolve(workspace: Workspace, uri: str) -> Any:
    """The model version behind `models:/name@alias` or `models:/name/number`; `InputError` where there is none."""
    if not uri.startswith("models:/"):
        raise InputError(f"{uri!r} is no model: write models:/NAME@ALIAS, models:/NAME/NUMBER, or a package's folder")
    rest = uri.removeprefix("models:/")
    name, at, alias = rest.partition("@")
    if not at:
        name, slash, alias = rest.rpartition("/")
        if not slash:
            raise InputError(f"{uri}: says no version; write models:/{rest}@champion or models:/{rest}/1")
    from mlflow.exceptions import MlflowException

    found = client(workspace)
    try:
        return found.get_model_version_by_alias(name, alias) if at else found.get_model_version(name, alias)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        known = [m.name for m in found.search_registered_models()]
        if name not in known:
            have = ", ".join(known) or "none yet; train one first (irstd train ggl-net)"
            raise InputError(f"{uri}: no registered model {name!r}{nearest(name, known)}; there are: {have}") from None
        versions = sorted(int(v.version) for v in found.search_model_versions(f"name = '{name}'"))
        aliases = sorted(found.get_registered_model(name).aliases)
        raise InputError(
            f"{uri}: {name} has no {'alias' if at else 'version'} {alias!r}; versions {versions}, aliases {aliases}"
        ) from None


def package(workspace: Workspace, uri: str, checked: bool = True) -> Package:
    """The package behind a model URI, or in a local folder. Versions are fetched once and kept under IRSTD_HOME.

    checked: compare a version with the hash that was registered, and fetch it again where the copy that is kept is not that;
    `WorkError` where the registry's is not that either. Without it the version is fetched anew and given as it is.
    """
    folder = Path(uri)
    if "://" not in uri and not uri.startswith("models:"):
        if not folder.is_dir():
            raise InputError(f"{uri!r} is no model: no such folder, and not of the form models:/NAME@ALIAS")
        return Package.read(folder)
    version = resolve(workspace, uri)
    kept = workspace.home / "pulled" / version.name / str(version.version)
    marker = kept / ".run"
    # A version that someone else registered may have no run.
    if checked and marker.is_file() and marker.read_text() == str(version.run_id):
        try:
            found = Package.read(next(kept.glob(PACKAGE)).parent)
            if differs(found, version) is None:
                return found
        except (StopIteration, InputError):
            pass  # damaged here; the registry has it
    _fetch(workspace, version, kept, uri)
    found = Package.read(next(kept.glob(PACKAGE)).parent)
    if checked and (wrong := differs(found, version)):
        raise WorkError(
            f"{uri}: {version.name} version {version.version} is not what was registered: {wrong}; it is not used. Restore the "
            "registry's files, or take another version"
        )
    return found


def differs(found: Package, version: Any) -> str | None:
    """What of a version's package is not as it was registered; None where all is."""
    sealed = version.tags.get(SEAL)
    if sealed is not None and found.sha256 != sealed:
        return f"package.json is {found.sha256[:12]}, registered was {sealed[:12]}"
    for name, wrong in found.altered():
        return f"{name} {wrong}"
    return None


def _fetch(workspace: Workspace, version: Any, kept: Path, uri: str) -> None:
    from mlflow.exceptions import MlflowException

    from irstd.files import staged_folder

    mlflow = _mlflow(workspace.mlflow_uri)
    with staged_folder(kept) as staged:
        path = staged
        try:
            path = Path(
                mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(staged))
            )
        except (MlflowException, OSError) as error:
            # Not to be taken for a server that does not answer: the version itself was found.
            said = (str(error).splitlines() or ["no answer"])[0]
            raise WorkError(
                f"{uri}: the files of {version.name} version {version.version} cannot be fetched ({said}); restore the "
                "registry's artifacts, or take another version"
            ) from None
        if not any(path.glob(PACKAGE)):
            if SEAL in version.tags:
                raise WorkError(
                    f"{uri}: the files of {version.name} version {version.version} are gone from the registry's artifacts; "
                    "restore them, or take another version"
                )
            raise InputError(f"{uri}: {version.name} version {version.version} was not registered by irstd")
        (path / ".run").write_text(str(version.run_id))


def describe(workspace: Workspace, version: Any) -> None:
    """Write a version's card again, with what its run holds by now of evaluations, and with its promotions."""
    import json

    from irstd.registry import history

    try:
        found = package(workspace, f"models:/{version.name}/{version.version}")
    except (InputError, WorkError):
        return  # its files are gone, or nobody's: the description stays as it is
    texts = tracking.texts(workspace, version.run_id, "evaluation-") if version.run_id else {}
    evaluations = [json.loads(text) for text in texts.values()]
    lines = [
        f"{r['time']}, version {r['to']}: {r['outcome']}: {r['reason']}"
        for r in history.records(workspace, version.name)
        if str(version.version) in (r["to"], r["from"])
    ]
    text = card.render(found.content, version.name, evaluations, reversed(lines))
    client(workspace).update_model_version(version.name, version.version, card.shortened(text, DESCRIPTION))


def describe_run(workspace: Workspace, run_id: str) -> None:
    """`describe` every version that a run registered."""
    for version in client(workspace).search_model_versions(f"run_id = '{run_id}'"):
        describe(workspace, version)


def load_model(uri: str, device: str = "cpu") -> Detector:
    """A detector from a model URI: `load_model("models:/ggl-net@champion")(frames_THW)` -> a list of Detections."""
    workspace = Workspace.find().enter()
    with tracking.answering(workspace):
        found = package(workspace, uri)
    return Detector(found, device)
