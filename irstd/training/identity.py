"""A run's identity: the hash of what decides its result, and of nothing else.

Two runs with one identity are the same run: the second resumes the first, or takes its result. Where a run takes place
(workers, machine, paths) is no part of it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from irstd.config import Config
from irstd.data.manifest import Manifest
from irstd.files import canonical_json, sha256_text
from irstd.foreign import Source, tree
from irstd.training.start import start_hash

# Relative to the package: what computes a result from shards. How the shards came about is in their digests.
COMPUTES = (
    "data/augmentation.py",
    "data/contrast.py",
    "data/gradient.py",
    "data/intensity.py",
    "data/loader.py",
    "data/order.py",
    "data/regions.py",
    "data/windows.py",
    "metrics",
    "models",
    "training",
)
# Of these, what only shows numbers that are there: no checkpoint depends on it.
SHOWS = (
    "metrics/bootstrap.py",
    "metrics/operating.py",
    "metrics/paired.py",
    "metrics/pictures.py",
    "metrics/report/__init__.py",
    "metrics/report/base.py",
    "metrics/report/boxes.py",
    "metrics/report/masks.py",
    "metrics/resampling.py",
    "training/__main__.py",
    "training/bare.py",
    "training/expectations.py",
    "training/kept.py",
    "training/memory.py",
    "training/pace.py",
    "training/preparation.py",
    "training/progress.py",
    "training/record.py",
    "training/store.py",
)


@dataclass(frozen=True)
class Identity:
    """`name` is the run's name, `<slug of the model>-<12 digits>`, of a quick test `quick-...`; `content` is what was hashed."""

    name: str
    content: dict[str, Any]

    @property
    def hash(self) -> str:
        return sha256_text(canonical_json(self.content))


def identity(config: Config, manifests: list[Manifest]) -> Identity:
    """The identity of a run. A network that is not ours has its code hashed too, and weights to start from theirs."""
    code, source = code_hash(), Source.of(config.model.network)
    if source.files:
        code = sha256_text(code + source.hash)
    content = config.identity() | {"sets": {m.set: m.digest for m in manifests}, "code": code}
    if config.train.init:
        content["init"] = start_hash(config.train.init)
    slug = f"quick-{config.model.slug}" if config.train.quick else config.model.slug
    return Identity(f"{slug}-{sha256_text(canonical_json(content))[:12]}", content)


@cache
def code_hash() -> str:
    """Hash of the syntax trees of what computes a result, so that comments, docstrings and layout do not count."""
    package = Path(__file__).resolve().parent.parent
    found = [package / part for part in COMPUTES]
    paths = [path for part in found for path in (part.rglob("*.py") if part.is_dir() else [part])]
    return code_hash_of({path.relative_to(package).as_posix(): path.read_bytes() for path in paths})


def code_hash_of(files: Mapping[str, bytes]) -> str:
    """`code_hash` of another state of the package: bytes by path relative to it, this module's own lists among them."""
    computes, shows = (_stated(files.get("training/identity.py", b""), name) for name in ("COMPUTES", "SHOWS"))
    hashed = hashlib.sha256()
    for part in computes:
        inside = sorted(
            PurePosixPath(p) for p in files if p == part or (p.startswith(f"{part}/") and p.endswith(".py"))
        )
        for name in map(str, inside):
            if name not in shows:
                hashed.update(name.encode())
                hashed.update(tree(files[name]).encode())
    return hashed.hexdigest()


def _stated(module: bytes, name: str) -> tuple[str, ...]:
    """The tuple of strings that a module assigns to `name`; () where it does not."""
    for node in ast.parse(module).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == [name]:
            return tuple(ast.literal_eval(node.value))
    return ()
