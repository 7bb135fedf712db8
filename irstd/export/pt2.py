"""The exported graph: `torch.export.load(file).module()(frames)`, in PyTorch without irstd."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental import _config as shapes

from irstd.errors import InputError, WorkError
from irstd.export.graph import SIZES, TOLERANCE, TRACED, DetectionGraph, SegmentationGraph, difference, example
from irstd.files import write_atomic, writing

METADATA = "irstd.json"


def program_of(graph: SegmentationGraph | DetectionGraph, name: str) -> Any:
    """`torch.export.ExportedProgram` of any batch, height and width. `InputError` for a network that cannot be exported."""
    free = torch.export.Dim.DYNAMIC
    # Without this a map of one cell counts as another program, and frames of up to 16 or 32 px are refused.
    with torch.no_grad(), shapes.patch(backed_size_oblivious=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own, of its own names
        try:
            return torch.export.export(graph, (example(graph, *TRACED),), dynamic_shapes=({0: free, 2: free, 3: free},))
        except Exception as error:
            raise InputError(f"{name}: torch.export cannot export it: {reason(error)}") from error


def save(graph: SegmentationGraph | DetectionGraph, out: Path, about: dict[str, str], name: str) -> float:
    """Write `out`, whole or not at all; returns the largest difference from the network.

    Raises: InputError for a network that cannot be exported; WorkError for a graph that gives something else.
    """
    program = program_of(graph, name)
    module = program.module()
    apart = compared(graph, lambda frames: module(frames), name)
    about = about | {"difference": f"{apart:.2g}"}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.export.save(program, buffer, extra_files={METADATA: json.dumps(about, indent=1)})
    with writing(out):
        write_atomic(out, buffer.getvalue())
    return apart


def compared(graph: SegmentationGraph | DetectionGraph, run: Any, name: str) -> float:
    """The largest difference between `run(frames)` and the network at `SIZES`; `WorkError` above `TOLERANCE`."""
    worst = 0.0
    for batch, height, width in SIZES:
        frames_BTHW = example(graph, batch, height, width)
        with torch.no_grad():
            expected = graph(frames_BTHW)
        try:
            apart = difference(run(frames_BTHW), expected, max(height, width))
        except Exception as error:
            raise WorkError(
                f"{name}: what was exported does not run at batch {batch}, {height} x {width}: {reason(error)}"
            ) from error
        if not apart <= TOLERANCE:
            raise WorkError(
                f"{name}: what was exported differs from the network by {apart:.2g} at batch {batch}, {height} x {width}; "
                "it depends on its input in a way that a graph does not hold; nothing was written"
            )
        worst = max(worst, apart)
    return worst


def reason(error: Exception) -> str:
    """The first line of what PyTorch says, or its last cause's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]
