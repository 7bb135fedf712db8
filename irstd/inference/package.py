"""A model package: a folder that holds all that is needed to detect, and says where it comes from.

    weights.safetensors    weights and buffers
    package.json           model, intensity rule, threshold, numbers with their protocol, lineage, hashes of the other files
    MODEL_CARD.md          the same for people
    input_example.npy      counts of the type and length that the model takes
    code/                  the code of a network that is not ours

It is what a model version in the registry carries, and what `irstd detect --model FOLDER` takes. Files are compared with
their hashes before the model is built; files that `package.json` does not list are nobody's business here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irstd.config import Config
from irstd.errors import InputError, WorkError
from irstd.files import canonical_json, read_json, sha256_file, sha256_text, write_atomic, write_json
from irstd.foreign import COMPILED, Source, carried
from irstd.inference import card, choice, example, provenance

SCHEMA = 1
WEIGHTS = "weights.safetensors"
EXAMPLE = "input_example.npy"
CODE = "code"
"""The folder of a package, or of a run, with the code of a network that is not ours."""
IMPORTABLE = (".py", ".pyc", *COMPILED)


@dataclass(frozen=True)
class Package:
    folder: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Package:
        try:
            content = read_json(folder / "package.json")
        except (OSError, ValueError):
            raise InputError(f"{folder}: no model package here (package.json is missing or damaged)") from None
        if content.get("schema") != SCHEMA:
            raise InputError(f"{folder}: package schema {content.get('schema')}, this version reads {SCHEMA}")
        return cls(folder, content)

    @property
    def config(self) -> Config:
        return Config.model_validate(self.content["config"])

    @property
    def sha256(self) -> str:
        """Of `package.json` as a value, and so of every file that it lists: the name of the whole package."""
        return sha256_text(canonical_json(self.content))

    @property
    def files(self) -> dict[str, str]:
        """sha256 of each file beside `package.json`; of packages that list none, of the weights where it was noted."""
        noted = self.content["lineage"].get("weights_sha256")
        return self.content.get("files") or ({WEIGHTS: noted} if noted else {})

    def altered(self) -> Iterator[tuple[str, str]]:
        """(file, what is wrong) of each listed file that is missing or is not what it was, and of code that is not listed: it
        would be imported with the rest."""
        for name, recorded in self.files.items():
            path = self.folder / name
            try:
                found = sha256_file(path)
            except OSError as error:
                yield name, f"cannot be read ({error.strerror})"
                continue
            if found != recorded:
                yield name, f"is {found[:12]}, recorded is {recorded[:12]}"
        if "files" in self.content:
            there = {f"{CODE}/{path}" for path in Source.read(self.folder / CODE).files}
            for name in sorted(there - set(self.files)):
                if name.endswith(IMPORTABLE):
                    yield name, "was not there when the package was written"

    def check(self) -> Package:
        """Itself; `WorkError` where a file is missing or is not what it was when the package was written."""
        for name, wrong in self.altered():
            raise WorkError(f"{self.folder / name}: {wrong}; the package is damaged: get it again, or make it anew")
        return self

    @property
    def threshold(self) -> str:
        """The threshold as one shows it, with how it was chosen."""
        chosen = self.content.get("threshold_chosen")
        return choice.phrase(chosen) if chosen else f"{self.content['threshold']:g}"

    def model(self, device: str = "cpu") -> Any:
        """The network with its weights, in evaluation mode on `device`. Raises: WorkError for altered files."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from irstd.models import build_model
        from irstd.models.contract import load_weights, memory_format

        self.check()
        # Float32 parts are float32: TF32 would round counts to 11 bits.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        with carried(self.folder / CODE):
            model = build_model(self.config)
        weights = self.folder / WEIGHTS
        try:
            tensors = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{weights}: cannot be read ({error})") from None
        load_weights(model, tensors, weights)
        model.threshold = self.content["threshold"]
        return model.to(device, memory_format=memory_format(model, self.config.train.channels_last)).eval()


def write(
    folder: Path,
    weights: dict[str, Any] | Path,
    config: Config,
    manifests: list[Any],
    lineage: dict[str, Any],
    metrics: dict[str, Any],
    source: Source | None = None,
) -> Package:
    """Write a package into the empty folder `folder`.

    `weights` are tensors by name, or a file of them, which is copied: its sha256 stays. `manifests` give the statistics of
    the `dataset` intensity rule and the bit depth; `metrics` the numbers that chose the checkpoint, with protocol, split
    and rule of choice. `source` is the code of a network that is not ours. Without manifests the counts are 8 bits deep.
    """
    from safetensors.torch import save_file

    from irstd.data.intensity import of_train, resolve

    depths = {s["bit_depth"] for m in manifests for s in m.content["sequences"].values()}
    rules = {resolve(config.data.intensity, depth) for depth in depths} or {config.data.intensity}
    content = {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json"),
        # 'auto' stays only where the model saw both 8-bit recordings and deeper ones.
        "intensity": {"rule": rules.pop() if len(rules) == 1 else "auto", "dataset": of_train(manifests)},
        "bit_depth": max(depths, default=8),
        "input": provenance.inputs(manifests, config.model.frames),
        "data": provenance.sets(manifests),
        "threshold": config.evaluate.threshold,
        "metrics": metrics,
        "lineage": lineage | (provenance.noted(manifests) if manifests else {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(weights, Path):
        shutil.copyfile(weights, folder / WEIGHTS)
    else:
        save_file(weights, folder / WEIGHTS)
    if source is not None:
        source.write(folder / CODE)
    return seal(folder, content)


def seal(folder: Path, content: dict[str, Any]) -> Package:
    """Write what follows from `content`, and `package.json` with the hashes of all that lies in `folder`.

    Whoever changes `content` or adds a file to a package before it is registered calls this again.
    """
    np.save(folder / EXAMPLE, example.frames(content))
    write_atomic(folder / card.FILE, card.render(content))
    found = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    files = {p.relative_to(folder).as_posix(): sha256_file(p) for p in found if p != folder / "package.json"}
    content = content | {"files": files}
    write_json(folder / "package.json", content)
    return Package(folder, content)
