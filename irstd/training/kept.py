"""What a run leaves beside its checkpoints: the weights of every N-th epoch, and a note on what stopped it.

    PLACE/kept/epoch-00012.safetensors    the weights that were judged, averaged ones where there are
    PLACE/kept/epoch-00012.json           epoch, step, numbers of val, sha256 of the weights; written after them
    PLACE/stopped.json                    step and key frames of a loss that was no number

PLACE is the run's folder, or a URL of fsspec where workers and driver share no disk.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from irstd.errors import InputError
from irstd.files import read_json, sha256_file, write_json
from irstd.training import checkpoint as checkpoints

FOLDER = "kept"
NOTE = "stopped.json"


class Beside:
    """Writes to `place`, each file at once or not at all."""

    def __init__(self, place: str | Path) -> None:
        self.place = place

    def keep(self, weights: dict[str, torch.Tensor], about: dict[str, Any], limit: int | None = None) -> None:
        """Keep the weights of epoch `about["epoch"]`; of all that are kept only the newest `limit`.

        Raises: WorkError where they cannot be written; those that were kept before stay.
        """
        need = sum(v.numel() * v.element_size() for v in weights.values())
        name = f"epoch-{about['epoch']:05d}"
        try:
            with checkpoints.scratch(self._made()) as scratch:
                path = scratch / f"{name}.safetensors"
                save_file(weights, path)
                write_json(scratch / f"{name}.json", about | {"sha256": sha256_file(path)})
                for file in (path, scratch / f"{name}.json"):
                    self._put(file)
            for old in sorted(self._names())[: -limit if limit else 0]:
                for kind in (".json", ".safetensors"):
                    self._remove(old.removesuffix(".json") + kind)
        except (OSError, SafetensorError) as error:
            raise checkpoints.refused(Path(str(self.place)), error, need) from error

    def note(self, content: dict[str, Any]) -> str:
        """Write `stopped.json`; where it lies."""
        if isinstance(self.place, Path):
            write_json(self.place / NOTE, content)
        else:
            files, root = self._store()
            files.pipe_file(f"{root}/{NOTE}", json.dumps(content, indent=1).encode())
        return f"{self.place}/{NOTE}"

    def _store(self) -> tuple[Any, str]:
        import fsspec

        files, root = fsspec.core.url_to_fs(str(self.place))
        return files, root.rstrip("/")

    def _made(self) -> Path | None:
        if not isinstance(self.place, Path):
            files, root = self._store()
            files.makedirs(f"{root}/{FOLDER}", exist_ok=True)
            return None
        (self.place / FOLDER).mkdir(parents=True, exist_ok=True)
        return self.place / FOLDER

    def _put(self, file: Path) -> None:
        if isinstance(self.place, Path):
            file.replace(self.place / FOLDER / file.name)
            return
        files, root = self._store()
        files.put_file(str(file), f"{root}/{FOLDER}/{file.name}")

    def _names(self) -> list[str]:
        if isinstance(self.place, Path):
            return [path.name for path in (self.place / FOLDER).glob("epoch-*.json")]
        files, root = self._store()
        return [path.rpartition("/")[2] for path in files.glob(f"{root}/{FOLDER}/epoch-*.json")]

    def _remove(self, name: str) -> None:
        if isinstance(self.place, Path):
            (self.place / FOLDER / name).unlink(missing_ok=True)
            return
        files, root = self._store()
        if files.exists(f"{root}/{FOLDER}/{name}"):
            files.rm_file(f"{root}/{FOLDER}/{name}")


def fetch(place: str | Path, folder: Path) -> None:
    """Copy what lies beside a run at `place` into the run folder `folder`, where that is elsewhere."""
    if isinstance(place, Path) and place.resolve() == folder.resolve():
        return
    import fsspec

    files, root = fsspec.core.url_to_fs(str(place))
    for name in (FOLDER, NOTE):
        source = f"{root.rstrip('/')}/{name}"
        if not files.exists(source):
            continue
        for path in sorted(files.find(source), reverse=True):  # weights before what says that they are there
            target = folder / path[len(root.rstrip("/")) :].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with checkpoints.scratch(target.parent) as scratch:
                files.get_file(path, str(scratch / target.name))
                (scratch / target.name).replace(target)


def epochs(folder: Path) -> list[dict[str, Any]]:
    """What is kept in the run folder `folder`, oldest first, each with the file of its weights as "weights".

    Raises: InputError where none is kept or a file is unreadable.
    """
    found = []
    for path in sorted((folder / FOLDER).glob("epoch-*.json")):
        try:
            found.append(read_json(path) | {"weights": path.with_suffix(".safetensors")})
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); remove it with the weights beside it") from None
    if not found:
        raise InputError(
            f"{folder / FOLDER}: no weights of epochs are kept here; train with train.keep_every=1 or more"
        )
    return found


def weights(entry: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of an entry of `epochs`; InputError where they are not those that were written."""
    path: Path = entry["weights"]
    try:
        if sha256_file(path) == entry["sha256"]:
            return load_file(path)
    except (OSError, SafetensorError):
        pass
    raise InputError(
        f"{path}: the weights of epoch {entry['epoch']} are missing or damaged; remove them and their .json"
    )
