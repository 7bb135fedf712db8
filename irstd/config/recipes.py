"""A recipe: a YAML file of values for a whole run, with a quick test of itself and the numbers that it should lead to.

model: {name: ggl-net}          any sections of the tree
train: {epochs: 500, lr: 1.0e-4}
quick:                          over the values above where `--quick` is given: the same work, smaller
  data.sets: [sample]
  train.epochs: 2
expected:                       numbers that `irstd train` and `irstd evaluate` hold theirs against
  - {metric: iou, value: .806, tolerance: .01, mark: published, source: ..., split: test, protocol: msda, grid: 512,
     chosen: field-best}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from irstd.config.networks import Section
from irstd.config.paths import flatten, read_yaml
from irstd.config.tree import MEASURES
from irstd.errors import InputError, nearest

METRICS = {
    "segmentation": ("iou", "niou", "pd", "fa"),
    "detection": ("ap50", "ap", "precision", "recall", "f1", "false_alarms_per_frame"),
}
SIZES = (
    "data.crop",
    "data.resize",
    "data.sets",
    "model.frames",
    "model.width",
    "train.batch",
    "train.ema",
    "train.ema_ramp",
    "train.epochs",
    "train.lr",
    "train.val_every",
    "train.warmup",
    "train.warmup_epochs",
)
"""What a quick test may change: how much work there is, never which work."""


class Expected(Section):
    """One number that a recipe should lead to, with all that it depends on."""

    metric: str
    value: float
    tolerance: float = Field(ge=0)
    mark: Literal["measured", "published"] = Field(description="by us, or in print")
    source: str = Field(min_length=1, description="what was run for it, or where it is printed")
    split: Literal["train", "val", "gate", "test"]
    protocol: str
    grid: Literal[256, 512] | None = None
    chosen: Literal["last", "val-best", "field-best"]

    @model_validator(mode="after")
    def _sense(self) -> Expected:
        tasks = [task for task, (protocols, _) in MEASURES.items() if self.protocol in protocols]
        if not tasks:
            known = dict.fromkeys(name for protocols, _ in MEASURES.values() for name in protocols)
            raise ValueError(f"protocol={self.protocol} is not known{nearest(self.protocol, known)}")
        known = dict.fromkeys(name for task in tasks for name in METRICS[task])
        if self.metric not in known:
            raise ValueError(
                f"metric={self.metric} is no number of protocol={self.protocol}{nearest(self.metric, known)}; "
                f"use {', '.join(known)}"
            )
        return self

    @property
    def about(self) -> str:
        """All that the number depends on, as people read it."""
        grid = "native grid" if self.grid is None else f"grid {self.grid}"
        return f"{self.mark}: {self.source}; {self.split}, {self.protocol}, {grid}, {self.chosen}"

    def held_against(self, split: str, rows: list[Mapping[str, Any]], chosen: str) -> str | None:
        """The line on a number that was found, among rows of a protocol and grid each; None where none of them is this one."""
        for row in rows:
            if (split, row["protocol"], row["grid"]) == (self.split, self.protocol, self.grid) and self.metric in row:
                return self._line(row[self.metric], chosen)
        return None

    def _line(self, found: float | None, chosen: str) -> str:
        if found is None:
            verdict = "found none"
        else:
            far = abs(found - self.value) - self.tolerance
            kept = "within" if far <= 1e-12 else f"{far:.4g} outside, {'above' if found > self.value else 'below'}"
            verdict = f"found {found:.4g} ({chosen}): {kept}"
        return f"expected {self.metric} {self.value:.4g} +- {self.tolerance:.4g} ({self.about}), {verdict}"


@dataclass(frozen=True)
class Recipe:
    """A recipe file, its values by dotted path."""

    path: Path
    values: dict[str, Any]
    quick: dict[str, Any]
    expected: tuple[Expected, ...]

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """`InputError` with one line where a key is unknown, or a part contradicts the others."""
        tree = read_yaml(path)
        quick, expected = tree.pop("quick", None), tree.pop("expected", None)
        if quick is not None and not isinstance(quick, dict):
            raise InputError(f"{path}: quick: expected a mapping of values, found {type(quick).__name__}")
        if expected is not None and not isinstance(expected, list):
            raise InputError(f"{path}: expected: write a list of numbers, found {type(expected).__name__}")
        smaller = flatten(quick or {}, f"{path}: quick")
        for key in smaller:
            if key not in SIZES:
                raise InputError(
                    f"{path}: quick: {key} decides what is done, and a quick test does the same with less; it may change "
                    f"{', '.join(SIZES)}"
                )
        numbers = tuple(_expected(entry, f"{path}: expected[{i}]") for i, entry in enumerate(expected or []))
        return cls(path, flatten(tree, str(path)), smaller, numbers)

    def chosen(self, quick: bool) -> dict[str, Any]:
        """The values of a run, or of its quick test."""
        if not quick:
            return self.values
        if not self.quick:
            raise InputError(f"{self.path}: has no section quick, so there is no quick test of it; leave --quick out")
        return self.values | self.quick | {"train.quick": True}


def _expected(entry: Any, where: str) -> Expected:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected a mapping with metric, value and tolerance, found {type(entry).__name__}")
    for key in entry:
        if key not in Expected.model_fields:
            raise InputError(f"{where}: unknown key {key!r}{nearest(str(key), Expected.model_fields)}")
    try:
        return Expected.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        named = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {named + ': ' if named else ''}{message[0].lower() + message[1:]}") from None
