"""Model versions: register a package, find it again by URI, move aliases."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from irstd.errors import InputError, WorkError, nearest
from irstd.foreign import Source, carried
from irstd.inference.detector import Detector
from irstd.inference.package import CODE, Package
from irstd.registry.tracking import _mlflow, client
from irstd.workspace import Workspace

# What a version needs to run, besides irstd's lower layers, which travel with it.
REQUIRES = ("mlflow", "torch", "numpy", "opencv-python", "safetensors", "pydantic", "PyYAML", "natsort", "scipy")
LAYERS = ("__init__.py", "errors.py", "files.py", "foreign.py", "config", "data", "models", "metrics", "inference")
# Where a version's files hold the model package.
PACKAGE = "artifacts/*/package.json"
# How MLflow says that there is no such model or version; an unknown alias is an invalid parameter to it.
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def register(workspace: Workspace, run_id: str, package: Package, name: str, tags: dict[str, Any]) -> str:
    """Log `package` as a model of the run and register it as the next version of `name`; returns the version's number."""
    if not run_id:
        # MLflow would quietly make a new run, which nothing else knows of.
        raise WorkError(f"{package.folder}: its run is not in MLflow, so it cannot be registered")
    mlflow = _mlflow(workspace.mlflow_uri)
    client(workspace)
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    dtype = np.dtype(np.uint16 if package.content["bit_depth"] > 8 else np.uint8)
    # Unnamed: a named tensor reaches the model as a dict, and a version is called with frames_THW itself.
    signature = ModelSignature(Schema([TensorSpec(dtype, (-1, -1, -1))]))
    with tempfile.TemporaryDirectory(prefix="irstd-register-") as place, warnings.catch_warnings():
        # MLflow hints at type hints and at signatures without outputs; the output here is a list of dicts.
        warnings.simplefilter("ignore")
        code = _copy_layers(Path(place) / "code")
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("pyfunc.py")),
                artifacts={"package": str(package.folder)},
                code_paths=[str(code / "irstd")],
                signature=signature,
                pip_requirements=_requirements(package),
                metadata={"irstd": package.content["metrics"]},
            )
        found = client(workspace)
        _ensure_name(found, name)
        version = found.create_model_version(
            name,
            info.model_uri,
            run_id,
            tags={k: str(v) for k, v in tags.items() if v is not None},
            model_id=info.model_id,
        )
    return str(version.version)


def _requirements(package: Package) -> list[str]:
    """What irstd's lower layers need, and what the code of a network that is not ours imports."""
    own = [f"{p}=={importlib.metadata.version(p).split('+')[0]}" for p in REQUIRES]
    with carried(package.folder / CODE):
        return own + [r for r in Source.of(package.config.model.network).requirements() if r not in own]


def _ensure_name(found: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        found.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _copy_layers(target: Path) -> Path:
    """irstd's layers below the line, as a package that a version carries."""
    package = Path(__file__).resolve().parent.parent
    (target / "irstd").mkdir(parents=True)
    for part in LAYERS:
        source = package / part
        if source.is_dir():
            shutil.copytree(source, target / "irstd" / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / "irstd" / part)
    return target


def version_of(workspace: Workspace, name: str, run: str) -> str | None:
    """The number of the version of `name` that the run with identity `run` registered, or None."""
    found = client(workspace)
    versions = found.search_model_versions(f"name = '{name}' and tags.`irstd.run` = '{run}'")
    return str(max(int(v.version) for v in versions)) if versions else None


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


def package(workspace: Workspace, uri: str) -> Package:
    """The package behind a model URI, or in a local folder. Versions are fetched once and kept under IRSTD_HOME."""
    folder = Path(uri)
    if "://" not in uri and not uri.startswith("models:"):
        if not folder.is_dir():
            raise InputError(f"{uri!r} is no model: no such folder, and not of the form models:/NAME@ALIAS")
        return Package.read(folder)
    version = resolve(workspace, uri)
    kept = workspace.home / "pulled" / version.name / str(version.version)
    marker = kept / ".run"
    # A version that someone else registered may have no run.
    if not marker.is_file() or marker.read_text() != str(version.run_id):
        mlflow = _mlflow(workspace.mlflow_uri)
        from irstd.files import staged_folder

        with staged_folder(kept) as staged:
            path = mlflow.artifacts.download_artifacts(
                f"models:/{version.name}/{version.version}", dst_path=str(staged)
            )
            if not any(Path(path).glob(PACKAGE)):
                raise InputError(f"{uri}: {version.name} version {version.version} was not registered by irstd")
            (Path(path) / ".run").write_text(str(version.run_id))
    return Package.read(next(kept.glob(PACKAGE)).parent)


def load_model(uri: str, device: str = "cpu") -> Detector:
    """A detector from a model URI: `load_model("models:/ggl-net@champion")(frames_THW)` -> a list of Detections."""
    return Detector(package(Workspace.find().enter(), uri), device)
