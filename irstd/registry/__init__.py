"""Runs, model versions, lineage and promotion. The only importer of mlflow."""

from __future__ import annotations

from typing import Any

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    if name == "load_model":
        from irstd.registry.models import load_model

        return load_model
    raise AttributeError(f"module 'irstd.registry' has no attribute {name!r}")
