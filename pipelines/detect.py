"""A recording and a model into detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from irstd.workspace import Workspace
from pipelines.driver import drive
from pipelines.results import publish


@flow(name="detect-flow")
def detect_flow(
    video: str,
    model: str = "models:/ggl-net@champion",
    out: str | None = None,
) -> dict[str, Any] | None:
    """Run `model` on `video`: detections.jsonl and overlay.webm in `out` (default: IRSTD_HOME/detections/<video>)."""
    out = out or str(Workspace.find().home / "detections" / Path(video).stem)
    result = drive.with_options(name="detect")(["detect", video, "--model", model, "--out", out])
    publish("detect-flow", result)
    return result
