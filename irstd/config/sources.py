"""Where values come from: YAML files, recipes, `key=value`, flows; every dotted path is checked against the tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from irstd import foreign
from irstd.config.networks import MODELS, NETWORKS, kind
from irstd.config.paths import OPTIONS, check_path, flatten, nest, paths, read_yaml
from irstd.config.recipes import Recipe
from irstd.config.tree import MEASURES, Config
from irstd.errors import InputError, nearest


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """['train.lr=1e-3'] -> {'train.lr': 0.001}. Values are YAML, so lists and booleans can be written."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise InputError(f"{pair!r}: expected key=value, such as train.epochs=20")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"{pair!r}: the value is not readable as YAML") from None
        if isinstance(value, str):
            # YAML 1.1 reads 1e-3 as a string.
            with suppress(ValueError):
                value = float(value) if value.lower() not in ("nan", "inf", "infinity") else value
        check_path(key, f"{key}={text}")
        found[key] = value
    return found


def load(
    root: Path | None = None,
    recipe: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    model: str | None = None,
    quick: bool = False,
) -> Config:
    """Build the tree: defaults < `root`/params.yaml < `recipe` < `overrides` (dotted paths). `model` names the network.

    `quick`: the recipe's quick test, see `irstd.config.recipes`.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}

    def merge(more: Mapping[str, Any], where: str) -> None:
        for path, value in more.items():
            values[path] = value
            origin[path] = where

    if root is not None and (root / "params.yaml").is_file():
        found = read_yaml(root / "params.yaml")
        for key in found:
            section, dot, rest = str(key).partition(".")
            if dot and section == "shard":  # the section that dvc.yaml names: what lies elsewhere would rebuild nothing
                raise InputError(f"params.yaml: {key}: DVC would not see it there: write {rest}: under {section}:")
        merge(flatten(found, "params.yaml"), "params.yaml")
    if recipe is not None:
        chosen = Recipe.read(recipe).chosen(quick)
        merge(chosen, str(recipe))
        _same_network(recipe, chosen.get("model.name"), model)
    elif quick:
        raise InputError("--quick: is the quick test of a recipe; name one with --recipe")
    if model is not None:
        merge({"model.name": model}, "MODEL")
    merge(overrides or {}, "")
    model = str(values.get("model.name", MODELS[0]))
    if model not in MODELS:
        model = values["model.name"] = _foreign(model)
        values = _declared(model) | values
    own = paths(NETWORKS[kind(model)], "model.")
    for path in values:
        option = model not in MODELS and path.startswith(f"{OPTIONS}.")
        if path.startswith("model.") and path not in own and not option:
            where = f"{origin[path]}: " if origin[path] else ""
            hint = nearest(path, own) if model in MODELS else f"; those of its class are {OPTIONS}.NAME=VALUE"
            raise InputError(f"{where}{path}: {model} has no such option{hint}")
    try:
        return Config.model_validate(nest(values))
    except ValidationError as error:
        first = error.errors()[0]
        # Inside `model` pydantic names the network, which is no part of the path.
        path = ".".join(str(part) for i, part in enumerate(first["loc"]) if (i, part) != (1, kind(model)))
        where = origin.get(path, "")
        message = first["msg"].removeprefix("Value error, ")
        given = f"={values[path]}" if path in values else ""
        named = f"{path}{given}: " if path else ""
        raise InputError(f"{where + ': ' if where else ''}{named}{message[0].lower() + message[1:]}") from None


def _same_network(recipe: Path, own: Any, given: str | None) -> None:
    """`InputError` where a recipe is of another network than the one that was asked for."""
    if own is None or given is None or own == given:
        return
    one, other = (name if name in MODELS else _foreign(name) for name in (str(own), given))
    if one != other:
        raise InputError(f"{recipe}: is a recipe of {own}, and {given} was asked for; name {own}, or another recipe")


def _foreign(name: str) -> str:
    """`package.module:Class` of a network that is not ours; `InputError` where the name is neither that nor an entry point."""
    if ":" in name:
        return name
    points = foreign.entry_points()
    if name not in points:
        known = [*MODELS, *points]
        raise InputError(
            f"unknown model {name!r}{nearest(name, known)}; known: {', '.join(known)}, or package.module:Class"
        )
    return points[name]


def _declared(name: str) -> dict[str, Any]:
    """What a network's class says of itself, as defaults: its `task`, and T as `frames`."""
    found = foreign.find(name)
    task, frames = getattr(found, "task", None), getattr(found, "frames", None)
    declared: dict[str, Any] = {"model.task": task} if task in MEASURES else {}
    return declared | ({"model.frames": frames} if isinstance(frames, int) else {})
