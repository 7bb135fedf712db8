"""What tests of model versions share: a workspace under git with data and shards, and tiny networks registered in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from irstd.config import BPFPNConfig, Config, DataConfig, EvaluateConfig, GGLNetConfig, RegistryConfig
from irstd.data.manifest import read_all
from irstd.files import sha256_file
from irstd.inference import package
from irstd.registry import layers, lineage, models, tracking
from irstd.training.identity import identity
from irstd.workspace import Workspace

CONFIGS = {
    "ggl-net": Config(model=GGLNetConfig(width=4), data=DataConfig(intensity="frame")),
    "bp-fpn": Config(
        model=BPFPNConfig(width=0.0625, frames=3),
        data=DataConfig(intensity="frame"),
        evaluate=EvaluateConfig(threshold=0.01),
    ),
}


@contextmanager
def made(root: Path, data: Path, shards: Path) -> Iterator[Workspace]:
    """A workspace in the empty folder `root`, with copies of data and shards; the environment is as before afterwards."""
    before = dict(os.environ)
    os.environ.pop("IRSTD_MLFLOW_URI", None)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    shutil.copytree(data, root / "data")
    shutil.copytree(shards, root / "shards")
    # Where a workspace is a clone of irstd, its commits hold the code.
    shutil.copytree(layers.PACKAGE, root / "irstd", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "data.dvc").write_text("outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n  path: data\n")
    (root / ".gitignore").write_text("/data/\n/shards/\n/.irstd/\n")
    git(root, "init", "--quiet")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "workspace")
    yield Workspace(root, root / ".irstd")
    os.environ.clear()
    os.environ.update(before)
    import mlflow

    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def git(folder: Path, *arguments: str) -> None:
    author = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def registered(
    workspace: Workspace,
    kind: str,
    name: str,
    seed: int = 0,
    model=None,
    config=None,
    shards: Path | None = None,
    noted: dict | None = None,
) -> str:
    """A version of `name`: a fresh network of that kind (or `model`) as if trained on the shards; the version's number.

    `noted`: what its lineage says besides.
    """
    import torch

    from irstd.models import build_model
    from irstd.models.contract import state

    config = config or CONFIGS[kind]
    train = config.train.model_copy(update={"seed": seed})
    config = config.model_copy(update={"registry": RegistryConfig(name=name), "train": train})
    manifests = read_all(shards or workspace.shards)
    named = identity(config, manifests)
    torch.manual_seed(seed)
    chain = lineage.of_run(workspace, named, manifests, seed)
    values = {"iou": 0.25, "pd": 0.5} if config.model.task == "segmentation" else {"ap50": 0.25}
    run = tracking.start(workspace, f"{name}-{named.name}", lineage.tags(chain), {})
    tracking.finish(workspace, run, metrics={f"best_val_{k}": v for k, v in values.items()})
    folder = workspace.home / "made" / name / named.name
    weights = state(model or build_model(config))
    place = workspace.home / "weights.safetensors"
    from safetensors.torch import save_file

    save_file(weights, place)
    metrics = {
        "split": "val", "protocol": "strict", "grid": None, "threshold": config.evaluate.threshold, "chosen": "val-best",
        "digests": chain["sets"], "values": values,
    }  # fmt: skip
    noted = chain | {"mlflow_run": run, "weights_sha256": sha256_file(place)} | (noted or {})
    made = package.write(folder, place, config, manifests, noted, metrics)
    tags = lineage.tags(chain) | {"irstd.weights_sha256": noted["weights_sha256"]}
    return models.register(workspace, run, made, name, tags)
