"""Where values come from: YAML files, `key=value`, flows; every dotted path is checked against the tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from irstd import foreign
from irstd.config.networks import MODELS, NETWORKS, GGLNetConfig, kind
from irstd.config.tree import MEASURES, Config
from irstd.errors import InputError, nearest

OPTIONS = "model.options"
"""What lies below is any network's own to name."""


def paths(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted path of the tree with its default: {'train.lr': 0.0005, ...}; those of all networks under `model`."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, GGLNetConfig):
            for network in reversed(NETWORKS.values()):
                found |= paths(network, f"{prefix}{name}.")
        elif isinstance(default, BaseModel):
            found |= paths(type(default), f"{prefix}{name}.")
        elif f"{prefix}{name}" != OPTIONS:
            found[f"{prefix}{name}"] = default
    return found


def is_path(path: str) -> bool:
    """Whether `path` is a value of the tree, or an option that a network of one's own may have."""
    return path in paths() or (path.startswith(f"{OPTIONS}.") and path.removeprefix(f"{OPTIONS}.").isidentifier())


def check_path(path: str, where: str) -> None:
    """`InputError` with the nearest name where `path` is not a value of the tree."""
    if is_path(path):
        return
    known = paths()
    if path.startswith(f"{OPTIONS}."):
        raise InputError(f"{where}: {path} names no option; write {OPTIONS}.NAME=VALUE, and {{a: 1}} for a mapping")
    if path == OPTIONS or any(name.startswith(path + ".") for name in known):
        raise InputError(f"{where}: {path} is a section, not a value; write {path}.<name>=<value>")
    raise InputError(f"{where}: unknown key {path!r}{_nearest_path(path, known)}")


def _nearest_path(path: str, known: Iterable[str]) -> str:
    """`nearest` by the last part of `path`: within its section, since all names there begin alike and so look alike."""
    section, _, name = path.rpartition(".")
    elsewhere = [other for other in known if other.rpartition(".")[2] == name]
    if elsewhere:
        return nearest(elsewhere[0], elsewhere)
    here = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == section]
    if not section or not here:
        return nearest(path, known)
    return nearest(name, here, f"{section}.")


def flatten(tree: Mapping[str, Any], where: str, prefix: str = "") -> dict[str, Any]:
    """{'train': {'lr': 1}} -> {'train.lr': 1}, refusing unknown keys; dotted keys may be mixed in."""
    known = paths()
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and path not in known and not path.startswith(f"{OPTIONS}."):
            if path != OPTIONS and not any(name.startswith(path + ".") for name in known):
                raise InputError(f"{where}: unknown section {path!r}{nearest(path, _sections(known))}")
            found |= flatten(value, where, path + ".")
        else:
            check_path(path, where)
            found[path] = value
    return found


def _sections(known: Iterable[str]) -> set[str]:
    return {name[:i] for name in known for i, letter in enumerate(name) if letter == "."}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `InputError` where it is missing or is something else."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a mapping of sections, found {type(value).__name__}")
    return value


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
) -> Config:
    """Build the tree: defaults < `root`/params.yaml < `recipe` < `overrides` (dotted paths). `model` names the network."""
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
        merge(flatten(read_yaml(recipe), str(recipe)), str(recipe))
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


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """{'train.lr': 1} -> {'train': {'lr': 1}}."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
