"""Shards into the best of many models."""

from __future__ import annotations

from typing import Any

from prefect import flow

from irstd.config import Config
from pipelines.driver import drive
from pipelines.parameters import overrides
from pipelines.results import publish


@flow(name="tune-flow")
def tune_flow(
    space: str = "demo",
    config: Config = Config(),  # noqa: B008 - frozen; its web form shows the defaults
    workers: int | None = None,
    register_model: bool = True,
    shards: str | None = None,
    parallel: int | None = None,
    trials: int | None = None,
    hours: float | None = None,
    confirm: bool = True,
    recipe: str | None = None,
) -> dict[str, Any] | None:
    """Shard what has changed, search the space `tune_spaces/<space>.yaml`, and register the winner's checkpoint.

    A driver that dies is started once more, and goes on with the search. `parallel`: trials side by side. `trials`, `hours`: in
    place of the space's budget. `confirm`: run the best trials and the default again with fresh seeds. `recipe`: what the
    trials start from, in place of the space's. `shards` names a folder of shards elsewhere: these are taken as they are, and
    nothing is built.
    """
    arguments = ["tune", space]
    given = {"workers": workers, "parallel": parallel, "trials": trials, "hours": hours, "recipe": recipe}
    for name, value in given.items():
        if value is not None:
            arguments += [f"--{name}", str(value)]
    if not confirm:
        arguments.append("--no-confirm")
    if not register_model:
        arguments.append("--no-register")
    if shards is None:
        drive.with_options(name="shard")(["shard"])
    else:
        arguments += ["--shards", shards]
    result = drive.with_options(name="tune")([*arguments, *overrides(config)])
    publish("tune-flow", result)
    return result
