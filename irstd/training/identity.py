"""A run's identity: the hash of what decides its result, and of nothing else.

Two runs with one identity are the same run: the second resumes the first, or takes its result. Where a run takes place
(workers, machine, paths) is no part of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
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
    "metrics/curve.py",
    "metrics/operating.py",
    "metrics/pictures.py",
    "metrics/report/__init__.py",
    "metrics/report/base.py",
    "metrics/report/boxes.py",
    "metrics/report/masks.py",
    "metrics/resampling.py",
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
    hashed = hashlib.sha256()
    for part in COMPUTES:
        found = package / part
        for path in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
            name = path.relative_to(package).as_posix()
            if name in SHOWS:
                continue
            hashed.update(name.encode())
            hashed.update(tree(path.read_bytes()).encode())
    return hashed.hexdigest()
