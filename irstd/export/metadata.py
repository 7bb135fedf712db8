"""What an exported file says of itself: `irstd.NAME` in ONNX's metadata, `irstd.json` in a `.pt2`. Values are strings."""

from __future__ import annotations

import json
from importlib.metadata import version

from irstd.data.annotations import DEFAULT_CLASS
from irstd.export.graph import DetectionGraph, SegmentationGraph
from irstd.files import sha256_file
from irstd.inference.card import RULES
from irstd.inference.package import WEIGHTS, Package
from irstd.models.adapters import SegmentationAdapter
from irstd.models.bp_fpn.network import COARSEST
from irstd.models.bp_fpn.postprocess import LARGEST
from irstd.models.ggl_net import GGLNet
from irstd.models.ggl_net.network import STRIDE


def of(package: Package, graph: SegmentationGraph | DetectionGraph, uri: str) -> dict[str, str]:
    """`uri`: what the package is called."""
    content, model = package.content, graph.model
    rule = content["intensity"]["rule"]
    found = {
        "version": version("irstd"),
        "model": uri,
        "network": content["config"]["model"]["name"],
        "task": model.task,
        "frames": str(graph.frames),
        "input": "frames float32 [batch, T, height, width], x = (counts - offset) * scale, oldest first, the key frame last",
        "intensity": rule,
        "intensity_says": RULES[rule],
        "intensity_statistics": json.dumps(content["intensity"]["dataset"] if rule == "dataset" else None),
        "bit_depth": str(content["bit_depth"]),
        "resize": content["config"]["data"]["resize"],
        "padding": _padding(model),
        "threshold": repr(float(content["threshold"])),
        "weights_sha256": package.files.get(WEIGHTS) or sha256_file(package.folder / WEIGHTS),
        "package_sha256": package.sha256,
    }
    if isinstance(graph, DetectionGraph):
        network = graph.model
        names = [DEFAULT_CLASS] if network.classes == 1 else [str(number) for number in range(network.classes)]
        return found | {
            "output": "boxes [batch, cells, 4] x, y, w, h in px; scores, classes [batch, cells]; overlaps not suppressed",
            "classes": json.dumps(names),
            "min_score": repr(network.min_score),
            "nms": repr(network.nms),
            "largest": str(LARGEST),
        }
    return found | {"output": "probability [batch, height, width]", "classes": json.dumps([DEFAULT_CLASS])}


def _padding(model: object) -> str:
    multiple = (
        STRIDE if isinstance(model, GGLNet) else model.feed.stride if isinstance(model, SegmentationAdapter) else None
    )
    if multiple is None and hasattr(model, "neck"):
        multiple = COARSEST
    if multiple is None:
        return "none but the network's own"
    return f"inside: the last row and column repeated at the bottom and right to multiples of {multiple}, and cut off again"
