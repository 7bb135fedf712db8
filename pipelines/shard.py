"""data/ into shards."""

from __future__ import annotations

from typing import Any

from prefect import flow

from pipelines.driver import drive
from pipelines.results import publish


@flow(name="shard-flow")
def shard_flow() -> dict[str, Any] | None:
    """Cut data/ into shards with gradient maps, as params.yaml says.

    Fetches what data.dvc names; does nothing where nothing has changed.
    """
    result = drive.with_options(name="shard")(["shard"])
    publish("shard-flow", result)
    return result
