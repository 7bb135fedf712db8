"""data/ into shards."""

from __future__ import annotations

from typing import Any

from prefect import flow

from irstd.config import Config
from pipelines.driver import drive
from pipelines.parameters import overrides
from pipelines.results import publish


@flow(name="shard-flow")
def shard_flow(config: Config = Config()) -> dict[str, Any] | None:  # noqa: B008 - frozen; its web form shows the defaults
    """Cut data/ into shards with gradient maps. Fetches what data.dvc names; does nothing where nothing has changed."""
    result = drive.with_options(name="shard")(["shard", *overrides(config)])
    publish("shard-flow", result)
    return result
