"""ONNX, for onnxruntime and whatever else reads it.

The network is traced, and not taken by way of `torch.export`: the same graph in two seconds where symbolic shapes take a
minute. A trace holds what happened with one example; that nothing of the example's size is left in it is checked on
onnxruntime with other batches, heights and widths before the file is written.
"""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irstd.errors import InputError
from irstd.export.graph import INPUT, TRACED, DetectionGraph, SegmentationGraph, example
from irstd.export.pt2 import compared, reason
from irstd.files import write_atomic, writing

OPSET = 18
PREFIX = "irstd."
NEEDS = ("onnx", "onnxruntime")


def require() -> None:
    """`InputError` where the extra is not installed."""
    missing = [module for module in NEEDS if find_spec(module) is None]
    if missing:
        raise InputError(f"ONNX needs {' and '.join(missing)}: pip install 'irstd[export]'")


def model_of(graph: SegmentationGraph | DetectionGraph, about: dict[str, str], name: str) -> Any:
    """`onnx.ModelProto` of any batch, height and width. `InputError` for a network that cannot be exported."""
    import onnx

    buffer = io.BytesIO()
    axes: dict[str, dict[int, str]] = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    axes |= zip(graph.outputs, graph.axes, strict=True)
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer's are about checks of the example's shape, and about being the older of two ways: see above.
        for kind in (torch.jit.TracerWarning, DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        try:
            torch.onnx.export(
                graph, (example(graph, *TRACED),), buffer, input_names=[INPUT], output_names=list(graph.outputs),
                opset_version=OPSET, dynamic_axes=axes, dynamo=False,
            )  # fmt: skip
        except Exception as error:
            raise InputError(f"{name}: torch.onnx cannot export it: {reason(error)}") from error
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, {f"{PREFIX}{key}": value for key, value in about.items()})
    model.doc_string = about.get("output", "")
    return model


def save(graph: SegmentationGraph | DetectionGraph, out: Path, about: dict[str, str], name: str) -> float:
    """Write `out`, whole or not at all; returns the largest difference from the network on onnxruntime.

    Raises: InputError for a network that cannot be exported, or without the extra `export`; WorkError for a graph that
    gives something else than the network.
    """
    require()
    import onnx

    model = model_of(graph, about, name)
    run = session(model.SerializeToString())
    apart = compared(graph, lambda frames: run(frames.numpy()), name)
    entry = model.metadata_props.add()
    entry.key, entry.value = f"{PREFIX}difference", f"{apart:.2g}"
    onnx.checker.check_model(model)
    with writing(out):
        write_atomic(out, model.SerializeToString())
    return apart


def session(model: bytes, threads: int = 1) -> Any:
    """onnxruntime on `threads` threads of the CPU, as a function of float32 frames [B, T, H, W]: a list of arrays."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(frames_BTHW: np.ndarray) -> list[np.ndarray]:
        return made.run(None, {INPUT: frames_BTHW})

    return run
