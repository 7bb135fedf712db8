"""Recordings and annotations into data/."""

from __future__ import annotations

from typing import Any

from prefect import flow

from pipelines.driver import drive
from pipelines.results import publish


@flow(name="ingest-flow")
def ingest_flow(
    source: str,
    name: str,
    format: str = "auto",
    bit_depth: int | None = None,
    update: bool = False,
) -> dict[str, Any] | None:
    """Take the recordings and labels in the folder `source` into the data set `name`, as a new version of data/."""
    arguments = ["ingest", source, "--name", name, "--format", format]
    if bit_depth is not None:
        arguments += ["--bit-depth", str(bit_depth)]
    if update:
        arguments.append("--update")
    result = drive.with_options(name="ingest")(arguments)
    publish("ingest-flow", result)
    return result
