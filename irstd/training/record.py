"""A run's folder: `run.json`, what is known of it when it is over, beside its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from irstd.files import read_json


def finished(folder: Path, record_needed: bool = True) -> dict[str, Any] | None:
    """`run.json` of a finished run whose checkpoint is still there, or None.

    A trial of a search is finished before its lineage is written down: `record_needed` False takes it as it is.
    """
    try:
        record = read_json(folder / "run.json")
    except (OSError, ValueError):
        return None
    whole = record.get("finished") and (folder / "checkpoint" / "best.safetensors").is_file()
    return record if whole and (not record_needed or "lineage" in record) else None
