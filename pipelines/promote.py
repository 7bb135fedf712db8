"""A challenger into the champion, where it is better."""

from __future__ import annotations

from typing import Any

from prefect import flow

from pipelines.driver import drive
from pipelines.results import publish


@flow(name="promote-flow")
def promote_flow(
    model: str = "models:/ggl-net@challenger",
    shards: str | None = None,
    bound: float | None = None,
    accept_insufficient: bool = False,
    rollback: bool = False,
) -> dict[str, Any] | None:
    """Compare `model` with the champion on the split that decides promotions, and move the alias where it wins.

    `shards` names the folder of the shards that both were trained on, where they lie elsewhere. `bound`: what the interval of
    the difference must lie above. `accept_insufficient`: with too few groups for one, the numbers alone decide. `rollback`:
    nothing is compared, and the champion before this one is champion again. The verdict is the run's artifact.
    """
    arguments = ["promote", model, *(["--shards", shards] if shards else [])]
    arguments += [] if bound is None else ["--bound", f"{bound:g}"]
    arguments += ["--accept-insufficient"] * accept_insufficient + ["--rollback"] * rollback
    result = drive.with_options(name="promote")(arguments)
    publish("promote-flow", result)
    return result
