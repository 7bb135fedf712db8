"""A run's folder: `run.json`, what is known of it when it is over, beside its last checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from irstd.config import Config
from irstd.errors import InputError
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


def skipped(history: Iterable[Mapping[str, Any]]) -> int:
    """Damaged key frames that a run passed over, by its reports."""
    return sum(row.get("skipped_frames") or 0 for row in history)


def noted(history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a lineage says of them; nothing where there were none."""
    count = skipped(history)
    return {"skipped_frames": count} if count else {}


def check_whole(name: str, config: Config, history: Iterable[Mapping[str, Any]], places: Iterable[Path | str]) -> None:
    """`InputError` where the run named `name` passed over damaged key frames, and `config` does not say that it may.

    The switch is no part of a run's name: what began on damaged shards would else be taken for the run on whole ones.
    `places`: folders without which it is trained anew.
    """
    if (count := skipped(history)) and not config.data.skip_damaged:
        raise InputError(
            f"run {name}: has passed over {count} damaged key frames; data.skip_damaged=true takes it as it is, and without "
            f"{' and '.join(map(str, places))} it is trained anew"
        )
