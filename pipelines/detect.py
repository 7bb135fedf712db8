"""Recordings and a model into detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact

from irstd.workspace import Workspace
from pipelines.driver import DriverError, drive
from pipelines.results import publish


@flow(name="detect-flow")
def detect_flow(
    video: str | list[str],
    model: str = "models:/ggl-net@champion",
    out: str | None = None,
    formats: str | None = None,
    overlay: bool = True,
    page: bool = False,
    tracks: bool = False,
    bit_depth: int | None = None,
    workers: int | None = None,
    ray: bool | None = None,
) -> dict[str, Any] | None:
    """Run `model` on `video`: recordings, folders of them, or globs; one or a list. Results are in `out` (default:
    IRSTD_HOME/detections/<video>), of several recordings in a folder each.

    `formats`: of jsonl,coco,mot. `ray`: a Ray task for each recording (default: where settings.toml names a cluster), `workers`
    processes otherwise. With `page` the run's artifacts have a link to it. Recordings that failed fail the run when all others
    are done; the same run again does the rest.
    """
    inputs = [video] if isinstance(video, str) else video
    out = out or str(Workspace.find().home / "detections" / _name(inputs))
    arguments = ["detect", *inputs, "--model", model]
    for option, value in (("--format", formats), ("--bit-depth", bit_depth), ("--workers", workers)):
        arguments += [] if value is None else [option, str(value)]
    arguments += [] if ray is None else ["--ray" if ray else "--no-ray"]
    arguments += ["--no-overlay"] * (not overlay) + ["--page"] * page + ["--tracks"] * tracks
    result = drive.with_options(name="detect")([*arguments, "--out", out])
    publish("detect-flow", result)
    if result and result.get("page"):
        create_link_artifact(key="detect-flow-page", link=result["page"], link_text="page of detections")
    if result and result.get("failed"):
        raise DriverError(
            f"{result['failed']} of {result['recordings']} recordings failed; see recordings.json in {out}"
        )
    return result


def _name(inputs: list[str]) -> str:
    """Of the folder of results: the recording's, or that of the first part of a glob that is no pattern."""
    parts = [part for part in Path(inputs[0]).with_suffix("").parts if not set(part) & set("*?[/")]
    return parts[-1] if parts else "recordings"
