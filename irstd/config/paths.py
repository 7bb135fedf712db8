"""The dotted paths of the tree, and values by dotted path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from irstd.config.networks import NETWORKS, GGLNetConfig
from irstd.config.tree import Config
from irstd.errors import InputError, nearest

OPTIONS = "model.options"
"""What lies below is any network's own to name."""


def paths(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, Any]:
    """As `_paths`, looked up once: a search reads thousands of configurations."""
    return dict(_paths(model, prefix))


@cache
def _paths(model: type[BaseModel], prefix: str) -> dict[str, Any]:
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
        there = (file.name for file in path.parent.glob("*.y*ml"))
        raise InputError(f"{path}: no such file{nearest(path.name, there)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a mapping of sections, found {type(value).__name__}")
    return value


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
