"""Shards into a trained and registered model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow

from irstd.config import Config, load
from irstd.workspace import Workspace
from pipelines.driver import drive
from pipelines.parameters import given, overrides
from pipelines.results import publish


@flow(name="train-flow")
def train_flow(
    model: str | None = None,
    recipe: str | None = "recipes/demo.yaml",
    config: Config = Config(),  # noqa: B008 - frozen; its web form shows the defaults
    workers: int | str | None = None,
    register_model: bool = True,
    shards: str | None = None,
    seeds: int | list[int] | None = None,
) -> dict[str, Any] | None:
    """Shard what has changed, then train `model` (by default the recipe's) and register the best checkpoint.

    `shards` names a folder of shards elsewhere: these are taken as they are, and nothing is built.

    `seeds`: how many seeds to train, or which; the median on val is registered, with the numbers of all.

    Values: defaults < params.yaml < `recipe` < those given in `config`. `workers` says where it runs, not what; "1-4" is as many
    as find room.
    """
    arguments = ["train", model or _model(recipe, config)]
    if recipe is not None:
        arguments += ["--recipe", recipe]
    if workers is not None:
        arguments += ["--workers", str(workers)]
    if not register_model:
        arguments.append("--no-register")
    if shards is None:
        drive.with_options(name="shard")(["shard"])
    else:
        arguments += ["--shards", shards]
    several = [] if seeds is None else [f"seeds={json.dumps(seeds)}"]
    result = drive.with_options(name="train")([*arguments, *several, *overrides(config)])
    publish("train-flow", result)
    return result


def _model(recipe: str | None, config: Config) -> str:
    """The name of the network that the recipe and the given values lead to."""
    root = Workspace.find().root
    return load(root, root / Path(recipe) if recipe else None, given(config)).model.name
