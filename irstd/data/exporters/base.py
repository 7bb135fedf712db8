"""What every exporter shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import yaml

from irstd.data.annotations import DEFAULT_CLASS, Annotations
from irstd.data.sequence import Sequence
from irstd.data.video import DEPTHS
from irstd.errors import InputError


@dataclass(frozen=True)
class Item:
    """A sequence on its way out. `split`: None where the set has no splits."""

    sequence: Sequence
    annotations: Annotations
    split: str | None


def sidecar(sequence: Sequence) -> str:
    """What PNG files cannot say, as the sidecar that `irstd ingest` reads; "" where there is nothing."""
    said = {
        "bit_depth": sequence.bit_depth if sequence.bit_depth != DEPTHS[sequence.dtype] else None,
        "fps": sequence.fps,
        "licence": sequence.licence,
        "group": sequence.group if sequence.group != sequence.name else None,
    }
    given = {key: value for key, value in said.items() if value is not None}
    return yaml.safe_dump(given, allow_unicode=True) if given else ""


def class_names(items: Iterable[Item]) -> list[str]:
    """All classes, sorted; the default one where no target is there."""
    found = {name for item in items for frame in item.annotations.frames for name in frame.classes}
    return sorted(found) or [DEFAULT_CLASS]


def need_boxes(items: Iterable[Item], format: str) -> None:
    """`InputError` where a frame has targets without boxes: written without them it would pass for empty."""
    for item in items:
        for frame in item.annotations.frames:
            if frame.has_target and not len(frame.boxes):
                raise InputError(
                    f"{item.sequence.set}/{item.sequence.name}: frame {frame.index} has targets without boxes (points "
                    f"or a mask), which {format} does not hold: give boxes and ingest again"
                )


def lost(items: Iterable[Item], format: str) -> list[str]:
    """What is said of masks and points, which a format of boxes leaves out."""
    items = list(items)
    masks = sum(item.annotations.masks for item in items)
    points = sum(len(frame.points) for item in items for frame in item.annotations.frames)
    found = [f"masks of {masks} sequences"] if masks else []
    found += [f"{points} points"] if points else []
    return [f"{' and '.join(found)} are left out: {format} holds boxes"] if found else []


def decimal(value: float) -> str:
    """Up to four digits, as the canonical labels have them, without zeros at the end."""
    return f"{value:.4f}".rstrip("0").rstrip(".")
