"""A challenger into the champion, where it is better."""

from __future__ import annotations

from typing import Any

from prefect import flow

from pipelines.driver import drive
from pipelines.results import publish


@flow(name="promote-flow")
def promote_flow(model: str = "models:/ggl-net@challenger", shards: str | None = None) -> dict[str, Any] | None:
    """Compare `model` with the champion on the split that decides promotions, and move the alias where it wins.

    `shards` names the folder of the shards that both were trained on, where they lie elsewhere.
    """
    result = drive.with_options(name="promote")(["promote", model, *(["--shards", shards] if shards else [])])
    publish("promote-flow", result)
    return result
