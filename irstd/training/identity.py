"""A run's identity: the hash of what decides its result, and of nothing else.

Two runs with one identity are the same run: the second resumes the first, or takes its result. Where a run takes place
(workers, machine, paths) is no part of it.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from irstd.config import Config
from irstd.data.manifest import Manifest
from irstd.files import canonical_json, sha256_text

# Relative to the package: what computes a result from shards. How the shards came about is in their digests.
COMPUTES = (
    "data/augmentation.py",
    "data/contrast.py",
    "data/gradient.py",
    "data/intensity.py",
    "data/loader.py",
    "data/order.py",
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
    "metrics/report.py",
    "metrics/resampling.py",
)


@dataclass(frozen=True)
class Identity:
    """`name` is the run's name, `<model>-<12 digits>`; `content` is what was hashed."""

    name: str
    content: dict[str, Any]

    @property
    def hash(self) -> str:
        return sha256_text(canonical_json(self.content))


def identity(config: Config, manifests: list[Manifest]) -> Identity:
    content = config.identity() | {"sets": {m.set: m.digest for m in manifests}, "code": code_hash()}
    return Identity(f"{config.model.name}-{sha256_text(canonical_json(content))[:12]}", content)


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
            hashed.update(_tree(path.read_text(encoding="utf-8")).encode())
    return hashed.hexdigest()


def _tree(source: str) -> str:
    """A dump of the source's syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree, include_attributes=False)
