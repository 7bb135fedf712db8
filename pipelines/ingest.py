"""Recordings and annotations into data/."""

from __future__ import annotations

from typing import Any

from prefect import flow

from pipelines.driver import drive
from pipelines.results import publish


@flow(name="ingest-flow")
def ingest_flow(
    source: str,
    name: str | None = None,
    format: str = "auto",
    bit_depth: int | None = None,
    update: bool = False,
    list_name: str | None = None,
    given: str | None = None,
) -> dict[str, Any] | None:
    """Take the recordings and labels in `source` into the data set `name`, as a new version of data/.

    `source` may be a folder, a recording, an archive, or the name of a public set, which then names the data set too and may
    have been downloaded to `given`.
    """
    named = ["--name", name] if name is not None else []
    arguments = ["ingest", source, *named, "--format", format]
    for option, value in (("--list", list_name), ("--from", given)):
        if value is not None:
            arguments += [option, value]
    if bit_depth is not None:
        arguments += ["--bit-depth", str(bit_depth)]
    if update:
        arguments.append("--update")
    result = drive.with_options(name="ingest")(arguments)
    publish("ingest-flow", result)
    return result
