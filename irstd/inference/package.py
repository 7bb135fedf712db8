"""A model package: a folder that holds all that is needed to detect, and says where it comes from.

    weights.safetensors    weights and buffers
    package.json           model, intensity rule, threshold, numbers with their protocol, lineage
    code/                  the code of a network that is not ours

It is what a model version in the registry carries, and what `irstd detect --model FOLDER` takes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irstd.config import Config
from irstd.errors import InputError
from irstd.files import read_json, write_json
from irstd.foreign import Source, carried

SCHEMA = 1
CODE = "code"
"""The folder of a package, or of a run, with the code of a network that is not ours."""


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

    def model(self, device: str = "cpu") -> Any:
        """The network with its weights, in evaluation mode on `device`."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from irstd.models import build_model
        from irstd.models.contract import load_weights, memory_format

        # Float32 parts are float32: TF32 would round counts to 11 bits.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        with carried(self.folder / CODE):
            model = build_model(self.config)
        weights = self.folder / "weights.safetensors"
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
        "threshold": config.evaluate.threshold,
        "metrics": metrics,
        "lineage": lineage,
    }
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(weights, Path):
        shutil.copyfile(weights, folder / "weights.safetensors")
    else:
        save_file(weights, folder / "weights.safetensors")
    if source is not None:
        source.write(folder / CODE)
    write_json(folder / "package.json", content)
    return Package(folder, content)
