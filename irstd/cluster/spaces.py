"""Search spaces: `tune_spaces/*.yaml`, dotted configuration paths with what may be tried. docs/SWEEPS.md describes them.

model: bp-fpn
recipe: recipes/bp-fpn-generated-cpu.yaml  # what the trials start from
fixed: {data.sets: [scenes]}               # overrides of every trial
space:
  train.lr: {loguniform: [1e-4, 2e-3]}
  model.gils.fuse: {choice: [add, concat]}
  model.gils.channels: {choice: [16, 64], when: {model.gils.fuse: concat}}
search: tpe                                # or random, grid
scheduler: {kind: asha, grace: 4}          # or median, none
budget: {trials: 40, hours: 8, epochs: 24}
objective: {metric: ap50, protocol: strict}
confirmation: {best: 3, seeds: 3}          # or none
seed: 0
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from irstd import config as configuration
from irstd.config import Config
from irstd.errors import InputError, nearest

KINDS = {"choice": None, "uniform": 2, "loguniform": 2, "int": 2, "quniform": 3}
TRIALS = {"random": 8, "tpe": 24}
"""Trials of a search whose budget does not say; a grid's are its points."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Knob(Part):
    """What may be tried of one path, and when: only where each path of `when` has one of its values."""

    kind: Literal["choice", "uniform", "loguniform", "int", "quniform"]
    values: list[Any]
    when: dict[str, list[Any]] = {}

    @property
    def points(self) -> list[Any] | None:
        """Its values where they can be counted, else None. Those of `quniform` are its low and steps up from there."""
        if self.kind == "choice":
            return self.values
        if self.kind == "int":
            return list(range(int(self.values[0]), int(self.values[1]) + 1))
        if self.kind == "quniform":
            low, high, step = self.values
            return [rounded(low + k * step) for k in range(int((high - low) / step + 1e-9) + 1)]
        return None

    def __str__(self) -> str:
        if self.kind == "choice":
            text = " | ".join(shown(value) for value in self.values)
        else:
            text = f"{shown(self.values[0])} .. {shown(self.values[1])}"
            text += {"loguniform": " (log)", "quniform": f" in steps of {shown(self.values[-1])}"}.get(self.kind, "")
        if self.when:
            text += "  when " + " and ".join(f"{path}={'|'.join(map(shown, v))}" for path, v in self.when.items())
        return text


class Objective(Part):
    metric: Literal["iou", "niou", "pd", "ap50", "ap", "f1"] | None = Field(
        None, description="None: what chooses the network's checkpoints, IoU of masks and AP50 of boxes"
    )
    protocol: str | None = Field(None, description="None: the configuration's")
    at_fa: float | None = Field(None, gt=0, lt=1, description="of pd: at the lowest threshold that keeps to this Fa")
    mode: Literal["max"] = Field("max", description="each of these numbers is better when greater")

    @model_validator(mode="after")
    def _sense(self) -> Objective:
        if self.at_fa is not None and self.metric != "pd":
            raise ValueError("at_fa goes with metric: pd")
        return self

    def overrides(self, usual: str) -> dict[str, Any]:
        """What makes a trial choose its checkpoint by the objective. usual: what it is chosen by when nothing is said."""
        found: dict[str, Any] = {} if self.protocol is None else {"evaluate.protocol": self.protocol}
        if self.at_fa is not None:
            return found | {"evaluate.objective": "pd_at_fa", "evaluate.wanted_fa": self.at_fa}
        return found if self.metric in (None, usual) else found | {"evaluate.objective": self.metric}


class Budget(Part):
    trials: int | None = Field(None, ge=1, description="None: all points of a grid, else 8 (random) or 24 (tpe)")
    hours: float | None = Field(None, gt=0, description="of the clock; then no trial begins, and those under way stop")
    epochs: int | None = Field(None, ge=1, description="of a trial; None: the recipe's")


class Scheduler(Part):
    """Which trials are stopped early, judged by their best validation so far."""

    kind: Literal["none", "asha", "median"] = "none"
    grace: int | None = Field(None, ge=1, description="epochs that every trial gets; None: 1/reduction of a trial's")
    reduction: float = Field(3, gt=1, description="asha: the best 1/reduction go on past each rung")

    def over(self, epochs: float, between: int = 1) -> Scheduler:
        """With its grace decided, for trials of so many epochs, `between` of them between validations.

        The first validations say little of the last one: judged after one epoch of nine, good points that begin slowly were
        stopped, and no searcher made up for it (benchmarks/sweeps.py).
        """
        if self.grace is not None:
            return self
        grace = 1 if self.kind == "none" else max(between, math.ceil(epochs / self.reduction - 1e-9))
        return self.model_copy(update={"grace": grace})


class Confirmation(Part):
    """The best trials and the default, run again with fresh seeds."""

    best: int = Field(3, ge=0, description="trials that run again; 0: none")
    seeds: int = Field(3, ge=2, le=100)


class Space(Part):
    """A search space as read from its file."""

    name: str
    model: str = "ggl-net"
    recipe: str | None = None
    fixed: dict[str, Any] = {}
    space: dict[str, Knob]
    search: Literal["random", "grid", "tpe"] = "random"
    scheduler: Scheduler = Scheduler()
    budget: Budget = Budget()
    workers: int = Field(1, ge=1, description="workers of one trial")
    objective: Objective = Objective()
    confirmation: Confirmation = Confirmation()
    seed: int = Field(0, ge=0)

    @field_validator("name")
    @classmethod
    def _file_name(cls, value: str) -> str:
        if not value.strip() or value != Path(value).name or value.startswith("."):
            raise ValueError(
                f"{value!r} is no name for a folder, which its sweeps take; write one without slashes that begins with no dot"
            )
        return value

    @field_validator("space", mode="before")
    @classmethod
    def _knobs(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("expected a mapping of dotted paths, such as train.lr: {loguniform: [1e-4, 1e-2]}")
        if not value:
            raise ValueError("is empty: name at least one path to search over")
        return {path: knob if isinstance(knob, Knob) else _knob(str(path), knob) for path, knob in value.items()}

    @field_validator("scheduler", "confirmation", mode="before")
    @classmethod
    def _none(cls, value: Any, info: Any) -> Any:
        if value in (None, False, "none"):
            return Scheduler() if info.field_name == "scheduler" else Confirmation(best=0)
        return {"kind": value} if info.field_name == "scheduler" and isinstance(value, str) else value

    @model_validator(mode="after")
    def _sense(self) -> Space:
        for path in self.space:
            if path in self.fixed:
                raise ValueError(f"{path} is both fixed and searched over; remove it from one of them")
        if self.budget.epochs is not None and "train.epochs" in self.fixed:
            raise ValueError("budget.epochs and fixed train.epochs say the same thing; remove one")
        if self.search == "grid":
            for path, knob in self.space.items():
                if knob.points is None:
                    raise ValueError(
                        f"search: grid needs values that can be counted, and {path} has {knob}; use choice"
                    )
        _check_conditions(self.space, self.fixed)
        return self

    @property
    def size(self) -> float:
        """Points of the grid, those counted twice that differ only in what a condition leaves out; or infinity."""
        return math.prod(math.inf if knob.points is None else len(knob.points) for knob in self.space.values())

    @property
    def trials(self) -> int | None:
        """Trials that the budget allows; None: every point of the grid."""
        return self.budget.trials or TRIALS.get(self.search)

    @property
    def order(self) -> list[str]:
        """The paths, each after those that decide whether it is drawn."""
        sorter = TopologicalSorter(
            {path: [p for p in self.space[path].when if p in self.space] for path in sorted(self.space)}
        )
        return list(sorter.static_order())

    def active(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The values of `point` whose conditions hold; the others stay at their defaults."""
        kept: dict[str, Any] = {}
        for path in self.order:
            there = {**self.fixed, **kept}
            if all(parent in there and there[parent] in values for parent, values in self.space[path].when.items()):
                kept[path] = point[path]
        return {path: kept[path] for path in sorted(kept)}

    def content(self) -> dict[str, Any]:
        """What decides which trials come, and in which order: not the budget of trials and hours, so that a search with more of
        them goes on, nor the recipe, whose values are in the default configuration."""
        found = self.model_dump(mode="json", exclude={"name", "recipe", "workers", "confirmation"})
        found["budget"] = {"epochs": self.budget.epochs}
        return found


def _knob(path: str, entry: Any) -> dict[str, Any]:
    """{'loguniform': [...], 'when': {...}} as the fields of a `Knob`."""
    entry = dict(entry) if isinstance(entry, Mapping) else {"?": entry}
    when = entry.pop("when", {})
    if len(entry) != 1 or next(iter(entry)) not in KINDS:
        found = "" if "?" in entry else f", found {', '.join(map(str, entry)) or 'none'}"
        raise ValueError(f"{path}: expected one of {', '.join(KINDS)}{found}")
    (kind, values), need = next(iter(entry.items())), KINDS[next(iter(entry))]
    values = [_number(v) for v in values] if isinstance(values, list) else [values]
    if not values or (need and len(values) != need):
        raise ValueError(f"{path}: {kind} takes {need or 'at least one'} value(s), found {len(values)}")
    if need:
        _check_numbers(path, kind, values)
    if need and (values[0] >= values[1] or (kind == "loguniform" and values[0] <= 0)):
        raise ValueError(f"{path}: {kind} needs low < high" + (" and low > 0" if kind == "loguniform" else ""))
    if not isinstance(when, Mapping) or not all(isinstance(key, str) for key in when):
        raise ValueError(f"{path}: when takes a mapping, such as when: {{model.gils.fuse: concat}}")
    return {"kind": kind, "values": values, "when": {p: v if isinstance(v, list) else [v] for p, v in when.items()}}


def _check_numbers(path: str, kind: str, values: list[Any]) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{path}: {kind} takes numbers, found {value!r}")
        if kind == "int" and value != int(value):
            raise ValueError(f"{path}: int takes whole numbers, found {value!r}")
    if kind == "quniform" and values[2] <= 0:
        raise ValueError(f"{path}: the step of quniform is {values[2]}: it must be greater than 0")


def _check_conditions(knobs: Mapping[str, Knob], fixed: Mapping[str, Any]) -> None:
    """ValueError where a condition names what is neither searched over nor fixed, can never hold, or hangs on itself."""
    for path, knob in knobs.items():
        for parent, values in knob.when.items():
            if parent in fixed:
                there = [fixed[parent]]
            elif parent not in knobs:
                raise ValueError(
                    f"{path}: its condition names {parent}, which is neither searched over nor fixed"
                    f"{nearest(parent, [*knobs, *fixed])}"
                )
            elif knobs[parent].kind != "choice":
                raise ValueError(f"{path}: its condition names {parent}, a range; conditions compare with a choice")
            else:
                there = knobs[parent].values
            lost = [value for value in values if value not in there]
            if lost:
                raise ValueError(
                    f"{path}: its condition never holds for {parent}={shown(lost[0])}; {parent} is "
                    f"{' or '.join(map(shown, there))}"
                )
    try:
        TopologicalSorter({path: [p for p in knob.when if p in knobs] for path, knob in knobs.items()}).prepare()
    except CycleError as error:
        raise ValueError(f"the conditions go round: {' needs '.join(reversed(error.args[1]))}") from None


def read(name: str, root: Path) -> Space:
    """The space `tune_spaces/<name>.yaml` of the workspace, or the file that `name` is."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = root / "tune_spaces" / f"{name}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in (root / "tune_spaces").glob("*.yaml"))
            raise InputError(f"no search space {name!r}{nearest(name, known)}; there are: {', '.join(known) or 'none'}")
    values = configuration.read_yaml(path)
    for key in values:
        if key in Budget.model_fields:
            raise InputError(f"{path}: {key} belongs under budget: write budget: {{{key}: {values[key]}}}")
        if key not in Space.model_fields:
            raise InputError(f"{path}: unknown key {key!r}{nearest(str(key), Space.model_fields)}")
    try:
        space = Space.model_validate(
            {"name": path.stem, "space": {}} | {k: v for k, v in values.items() if v is not None}
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"] if p != "dict")
        raise InputError(
            f"{path}: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from None
    for key in (*space.space, *space.fixed):
        configuration.check_path(key, str(path))
        # A fixed registry.name says where the best trial goes; searched over, its trials would be one run.
        if key.startswith("shard.") or (key.startswith("registry.") and key in space.space):
            raise InputError(f"{path}: {key} does not decide a trial's result; remove it")
    _check_roles(path, space)
    return space


def _check_roles(path: Path, space: Space) -> None:
    """Paths that something else of the file decides."""
    frames = "trials would be measured on different frames, which cannot be compared"
    hints = {
        "model.name": "a space is of one network",
        "train.seed": "the confirmation varies it",
        "train.hours": "it decides how long a trial runs",
        "data.sets": frames,
        "data.train_on": frames,
        "evaluate.grid": "trials would be measured on different grids, which cannot be compared",
    }
    for key, why in hints.items():
        if key in space.space:
            raise InputError(f"{path}: {key} is not searched over: {why}")
    if "train.epochs" in space.space and space.scheduler.kind != "none":
        raise InputError(f"{path}: trials of different train.epochs cannot be compared on the way: scheduler: none")
    for key in ("evaluate.objective", "evaluate.protocol", "evaluate.wanted_fa"):
        if key in space.space or (key in space.fixed and space.objective != Objective()):
            raise InputError(f"{path}: {key} belongs under objective")


def given(space: Space, overrides: Mapping[str, Any]) -> Space:
    """The space with what the command line says of its fixed paths: conditions hang on them. `InputError` where one then never
    holds."""
    fixed = {path: overrides.get(path, value) for path, value in space.fixed.items()}
    try:
        _check_conditions(space.space, fixed)
    except ValueError as error:
        raise InputError(f"space {space.name}: {error}") from None
    return space.model_copy(update={"fixed": fixed})


def config_of(space: Space, root: Path, overrides: Mapping[str, Any]) -> Config:
    """The configuration of one trial: defaults < params.yaml < recipe < fixed < overrides, its checkpoint chosen by the
    space's objective."""
    recipe = None if space.recipe is None else root / space.recipe
    values = {**space.fixed} | ({} if space.budget.epochs is None else {"train.epochs": space.budget.epochs})
    values |= overrides
    if space.objective != Objective():
        # A protocol may change what the network is measured by where nothing is said.
        said = {} if space.objective.protocol is None else {"evaluate.protocol": space.objective.protocol}
        usual = configuration.load(root, recipe, {**values, **said, "evaluate.objective": None}, space.model).objective
        values |= space.objective.overrides(usual)
    return configuration.load(root, recipe, values, space.model)


def rounded(value: float) -> float:
    """Six digits: readable, and the same wherever logarithms differ in the last bit."""
    return float(f"{value:.6g}")


def shown(value: Any) -> str:
    """A value as people read it, and as YAML takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a string; mend it."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
