"""Sidecars: `NAME.yaml` beside a recording, or `irstd.yaml` for a folder, says what the recording's file cannot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irstd.config import read_yaml
from irstd.data.raw import Layout, layout
from irstd.errors import InputError, nearest

SIDECAR = "irstd.yaml"
ENDING = ".yaml"
_KNOWN = ("bit_depth", "fps", "labelled", "licence", "group", "raw")


@dataclass(frozen=True)
class Options:
    """What sidecars say of a recording. `listed`: frames without a row are unlabelled instead of empty."""

    bit_depth: int | None = None
    fps: float | None = None
    listed: bool = False
    licence: str | None = None
    group: str | None = None
    raw: Layout | None = None


def read(path: Path, where: str) -> dict[str, Any]:
    """The fields of `Options` that a sidecar sets; `InputError` naming the key that is wrong. `where`: its name."""
    try:
        tree = read_yaml(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), where, 1)) from None
    found: dict[str, Any] = {}
    for key, value in tree.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        match key:
            case "bit_depth":
                good, say = number and value in range(1, 17), "a whole number from 1 to 16"
            case "fps":
                good, say = number and 0 < value < float("inf"), "a number above 0"
            case "labelled":
                good, say = value in ("all", "listed"), "all or listed"
            case "licence" | "group":
                good, say = isinstance(value, str) and bool(value), "a name"
            case "raw":
                value, good, say = layout(value, where), True, ""
            case _:
                raise InputError(f"{where}: unknown key {key!r}{nearest(str(key), _KNOWN)}; known: {', '.join(_KNOWN)}")
        if not good:
            raise InputError(f"{where}: {key} is {value!r}: give {say}")
        found |= {"listed": value == "listed"} if key == "labelled" else {key: value}
    return found


def beside(recording: Path) -> Options:
    """What `irstd.yaml` in the recording's folder and `NAME.yaml`, which wins, say of it."""
    found: dict[str, Any] = {}
    for path in (recording.with_name(SIDECAR), recording.with_suffix(ENDING)):
        if path.is_file():
            found |= read(path, path.name)
    return Options(**found)
