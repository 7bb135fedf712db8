"""Search spaces: `tune_spaces/*.yaml`, dotted configuration paths with what may be tried.

model: ggl-net
recipe: recipes/demo.yaml        # what the trials start from
fixed: {train.epochs: 20}        # overrides of every trial
space:
  train.lr: {loguniform: [1e-4, 2e-3]}
  model.fusion: {choice: [tgfm, add]}
search: random                   # or grid
trials: 6
objective: {metric: iou, mode: max}
seed: 0
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from irstd import config as configuration
from irstd.config import Config
from irstd.errors import InputError, nearest

KINDS = {"choice": None, "uniform": 2, "loguniform": 2, "int": 2, "quniform": 3}


class Objective(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Literal["iou", "niou", "pd", "ap50", "ap", "f1"] = "iou"
    mode: Literal["max", "min"] = "max"


class Space(BaseModel):
    """A search space as read from its file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    model: str = "ggl-net"
    recipe: str | None = None
    fixed: dict[str, Any] = {}
    space: dict[str, dict[str, list[Any]]]
    search: Literal["random", "grid"] = "random"
    trials: int = Field(8, ge=1, description="of a random search")
    workers: int = Field(1, ge=1, description="workers of one trial")
    objective: Objective = Objective()
    seed: int = 0

    @field_validator("space")
    @classmethod
    def _known(cls, value: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
        if not value:
            raise ValueError("is empty: name at least one path to search over")
        for path, entry in value.items():
            if len(entry) != 1 or next(iter(entry)) not in KINDS:
                raise ValueError(f"{path}: expected one of {', '.join(KINDS)}")
            (kind, values), need = next(iter(entry.items())), KINDS[next(iter(entry))]
            if not values or (need and len(values) != need):
                raise ValueError(f"{path}: {kind} takes {need or 'at least one'} value(s), found {len(values)}")
            if need:
                _check_numbers(path, kind, values)
            if need and (values[0] >= values[1] or (kind == "loguniform" and values[0] <= 0)):
                raise ValueError(f"{path}: {kind} needs low < high" + (" and low > 0" if kind == "loguniform" else ""))
        return value

    @property
    def size(self) -> float:
        """Points of the grid, or infinity."""
        counts = [len(v["choice"]) if "choice" in v else math.inf for v in self.space.values()]
        return math.prod(counts)


def _check_numbers(path: str, kind: str, values: list[Any]) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{path}: {kind} takes numbers, found {value!r}")
        if kind == "int" and value != int(value):
            raise ValueError(f"{path}: int takes whole numbers, found {value!r}")
    if kind == "quniform" and values[2] <= 0:
        raise ValueError(f"{path}: the step of quniform is {values[2]}: it must be greater than 0")


def read(name: str, root: Path) -> Space:
    """The space `tune_spaces/<name>.yaml` of the workspace, or the file that `name` is."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = root / "tune_spaces" / f"{name}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in (root / "tune_spaces").glob("*.yaml"))
            raise InputError(f"no search space {name!r}{nearest(name, known)}; there are: {', '.join(known) or 'none'}")
    values = configuration.read_yaml(path)
    entries = values.get("space") or {}
    if isinstance(entries, dict):
        entries = {k: _numbers(v) for k, v in entries.items()}
    try:
        space = Space.model_validate({"name": path.stem} | values | {"space": entries})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"] if p != "dict")
        raise InputError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    for key in (*space.space, *space.fixed):
        configuration.check_path(key, str(path))
        # A fixed registry.name says where the best trial goes; searched over, its trials would be one run.
        if key.startswith("shard.") or (key.startswith("registry.") and key in space.space):
            raise InputError(f"{path}: {key} does not decide a trial's result; remove it")
    if space.search == "grid" and space.size == math.inf:
        raise InputError(f"{path}: search: grid needs a choice for every path; use search: random")
    return space


def _numbers(entry: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a string; mend it."""
    if not isinstance(entry, dict):
        return {"?": [entry]}
    return {
        kind: [_number(v) for v in values] if isinstance(values, list) else [values] for kind, values in entry.items()
    }


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def trials(space: Space) -> list[dict[str, Any]]:
    """The overrides of each trial, in order; the same for the same space, so a search that was killed can go on."""
    paths = sorted(space.space)
    if space.search == "grid":
        return [
            dict(zip(paths, values, strict=True))
            for values in itertools.product(*(space.space[path]["choice"] for path in paths))
        ]
    random = np.random.Generator(np.random.PCG64(space.seed))
    return [{path: _draw(space.space[path], random) for path in paths} for _ in range(space.trials)]


def _draw(entry: dict[str, list[Any]], random: np.random.Generator) -> Any:
    kind, values = next(iter(entry.items()))
    if kind == "choice":
        return values[int(random.integers(len(values)))]
    if kind == "int":
        return int(random.integers(int(values[0]), int(values[1]) + 1))
    if kind == "loguniform":
        # Six digits: readable, and the same wherever logarithms differ in the last bit.
        return float(f"{math.exp(random.uniform(math.log(values[0]), math.log(values[1]))):.6g}")
    value = random.uniform(values[0], values[1])
    if kind == "quniform":
        return float(f"{round(value / values[2]) * values[2]:.6g}")
    return float(f"{value:.6g}")


def config_of(space: Space, root: Path, overrides: dict[str, Any]) -> Config:
    """The configuration of one trial: defaults < params.yaml < recipe < fixed < overrides."""
    recipe = None if space.recipe is None else root / space.recipe
    return configuration.load(root, recipe, {**space.fixed, **overrides}, space.model)
