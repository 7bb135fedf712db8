"""Parameters of flows: the typed configuration as `key=value`, and `key=value` as parameters."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

import yaml

from irstd.config import Config, flatten, is_path, load, nest, parse_overrides, paths
from irstd.errors import InputError, nearest
from irstd.workspace import Workspace


def given(config: Config) -> dict[str, Any]:
    """The values that were given, by dotted path; the others are the recipe's and the defaults' to say.

    Prefect's web form can send the whole tree with one value changed. Where every value is there, the ones that equal
    the defaults count as not given: a recipe would otherwise be overruled by a form that nobody has filled in.
    """
    found = flatten(config.model_dump(mode="json", exclude_unset=True), "config")
    defaults = flatten(Config(model=type(config.model)(name=config.model.name)).model_dump(mode="json"), "config")
    # A form for another network than the default one says which.
    defaults["model.name"] = Config().model.name
    if found.keys() == defaults.keys():
        found = {path: value for path, value in found.items() if value != defaults[path]}
    return found


def overrides(config: Config, section: str = "") -> list[str]:
    """The given values (of `section`, or all) as a command takes them: ['train.lr=0.001', 'data.sets=["sirst"]']."""
    return [f"{path}={json.dumps(value)}" for path, value in given(config).items() if path.startswith(section)]


def flow_parameters(flow: Callable[..., Any], pairs: Iterable[str]) -> dict[str, Any]:
    """['workers=2', 'train.lr=1e-3'] -> {'workers': 2, 'config': {'train': {'lr': 0.001}}}.

    A key is a parameter of the flow or, where the flow takes a `config`, a dotted path into the configuration.
    """
    known = [name for name in inspect.signature(flow).parameters if name != "config"]
    takes_config = "config" in inspect.signature(flow).parameters
    found: dict[str, Any] = {}
    config: list[str] = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if equals and key in known:
            found[key] = yaml.safe_load(text)
        elif takes_config and equals and is_path(key):
            config.append(pair)
        elif not equals or not key:
            raise InputError(f"{pair!r}: expected key=value, such as {known[0] if known else 'train.epochs'}=...")
        else:
            keys = [*known, *(paths() if takes_config else [])]
            raise InputError(f"{pair}: the flow has no parameter {key!r}{nearest(key, keys)}")
    if config:
        values = parse_overrides(config)
        if any(path.startswith("model.") for path in values) and "model.name" not in values:
            # Prefect holds the configuration against its types, and a network's fields are its own.
            values["model.name"] = _network(flow, found)
        found["config"] = nest(values)
    return found


def _network(flow: Callable[..., Any], found: dict[str, Any]) -> str:
    """The network that the flow will train: its `model`, that of its space, or that of its recipe."""
    from irstd.cluster import spaces

    defaults = {name: each.default for name, each in inspect.signature(flow).parameters.items()}
    values = defaults | found
    if values.get("model"):
        return values["model"]
    root = Workspace.find().root
    recipe = None if values.get("recipe") is None else root / values["recipe"]
    if "space" in values:
        space = spaces.read(values["space"], root)
        space = space if recipe is None else space.model_copy(update={"recipe": str(recipe)})
        return spaces.config_of(space, root, {}).model.name
    return load(root, recipe).model.name
