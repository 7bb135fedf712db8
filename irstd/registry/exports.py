"""Exported graphs as further artifacts of a model version, beside the package that they were made from."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from irstd.errors import InputError
from irstd.files import sha256_file
from irstd.registry.tracking import client
from irstd.workspace import Workspace

FOLDER = "exports"
TAG = "irstd.export."
"""And the format: the sha256 of the file."""


def attach(workspace: Workspace, version: Any, file: Path, format: str) -> str:
    """Put `file` into the version's artifacts as `exports/model.<format>`, and its hash among the version's tags; the URI
    by which MLflow downloads it. One that is there is replaced."""
    found = client(workspace)
    # The registry's stores do not fill in `model_id`, but every version of ours is made from a logged model.
    model_id = version.model_id or str(version.source).removeprefix("models:/")
    if not model_id.startswith("m-"):
        raise InputError(
            f"{version.name} version {version.version}: was not registered by irstd; write --out FILE instead"
        )
    with tempfile.TemporaryDirectory(prefix="irstd-attach-") as place:
        named = Path(place) / f"model.{format}"
        shutil.copyfile(file, named)
        found.log_model_artifact(model_id, str(named), FOLDER)
        # Last: a tag without its file would be a broken link.
        found.set_model_version_tag(version.name, version.version, f"{TAG}{format}", sha256_file(named))
    return f"models:/{version.name}/{version.version}/{FOLDER}/model.{format}"


def altered(folder: Path, version: Any) -> str | None:
    """What of the exported files in a version's `folder` is not as it was attached; None where all is."""
    for tag, recorded in sorted(version.tags.items()):
        if tag.startswith(TAG):
            path = folder / FOLDER / f"model.{tag.removeprefix(TAG)}"
            try:
                found = sha256_file(path)
            except OSError as error:
                return f"{path.name} cannot be read ({error.strerror})"
            if found != recorded:
                return f"{path.name} is {found[:12]}, attached was {recorded[:12]}"
    return None
