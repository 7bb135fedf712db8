"""`irstd bench infer`: PyTorch, the exported graph and onnxruntime on the same frames and threads, in turns.

"torch" is the network as the detector runs it, folded for inference. Weights are random: they cost the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from irstd.bench.timing import Report, clock, interleaved, threads, timed
from irstd.errors import WorkError
from irstd.export import graph, onnx, pt2
from irstd.models.bp_fpn import BPFPN
from irstd.models.contract import Model
from irstd.models.ggl_net import GGLNet

SIDES = (256, 512)
CALIBRATED = 128  # side in pixels


def measure(seconds: float, sides: tuple[int, ...] = SIDES, ggl_width: int = 16, bp_width: float = 1.0) -> Report:
    """Time the three for about `seconds` a network and side, one key frame at a time on one thread of the CPU."""
    onnx.require()
    report = Report("exported networks")
    report.facts = [
        f"GGL-Net of width {ggl_width}; BP-FPN of width {bp_width:g}, T=5; one key frame at a time, one thread, random weights",
        "torch: as the detector runs it, folded; difference: the largest of probabilities, scores, and boxes by the frame's side",
    ]
    with threads(1):
        for name, model in networks(ggl_width, bp_width).items():
            exported = graph.graph_of(model, name)
            module = pt2.program_of(exported, name).module()
            run = onnx.session(onnx.model_of(exported, {}, name).SerializeToString())
            eager = type(exported)(model.folded()).eval()
            for side in sides:
                frames_BTHW = graph.example(exported, 1, side, side)
                array_BTHW = frames_BTHW.numpy()
                works: dict[str, Callable[[], Any]] = {
                    "torch": lambda e=eager, x=frames_BTHW: e(x),
                    "exported graph": lambda m=module, x=frames_BTHW: m(x),
                    "onnxruntime": lambda r=run, x=array_BTHW: r(x),
                }
                _compared(report, f"{name} {side}x{side}", side, works, seconds)
    return report


def networks(ggl_width: int, bp_width: float) -> dict[str, Model]:
    """Random weights; batch statistics that keep activations within bounds, as those of a trained network do."""
    torch.manual_seed(0)
    made: dict[str, Model] = {"GGL-Net": GGLNet(width=ggl_width), "BP-FPN": BPFPN(width=bp_width)}
    for model in made.values():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        x_BTHW = 0.5 + 0.1 * torch.randn(2, model.frames, CALIBRATED, CALIBRATED)
        with torch.no_grad():
            model.to(memory_format=torch.channels_last).train()(x_BTHW)
        model.eval()
    return made


def _compared(report: Report, where: str, side: int, works: dict[str, Callable[[], Any]], seconds: float) -> None:
    with torch.no_grad():
        expected = works["torch"]()
        apart = {name: graph.difference(work(), expected, side) for name, work in works.items() if name != "torch"}
        for name, value in apart.items():
            if not value <= graph.TOLERANCE:
                raise WorkError(f"bench infer: {where}: {name} differs from torch by {value:.2g}")

        def one(work: Callable[[], Any]) -> Callable[[], int]:
            def run() -> int:
                work()
                return 1

            return run

        timing = interleaved({name: timed(one(work), clock(1)) for name, work in works.items()}, seconds)
    for name in works:
        row = {"network": where, "side": name, "frames/s": timing.rate(name)}
        report.rows.append(row | {"difference": f"{apart[name]:.1e}" if name in apart else "-"})
    report.ratios += [(f"{where}: {name} / torch", timing.ratio(name, "torch")) for name in apart]
