"""`irstd bench models`: BP-FPN against its host, and frame by frame against whole clips.

BP-FPN's goals are times at the most, so its ratios to the host have goals a little below 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from irstd import config as configuration
from irstd.bench.baselines import Scenes, render
from irstd.bench.timing import Report, clock, interleaved, threads, timed
from irstd.errors import WorkError
from irstd.models.bp_fpn import BPFPN
from irstd.models.contract import Model
from irstd.training.optimizer import build_optimizer

FRAMES = 5
SIDE, CROP, BATCH = 512, 256, 2
INFERENCE, TRAINING, STREAMING = 1 / 1.02, 1 / 1.05, 1.3
TOLERANCE = 1e-4
"""Of raw predictions, relative to the largest."""


def measure(seconds: float, side: int = SIDE, width: float = 1.0, batch: int = BATCH, crop: int = CROP) -> Report:
    """Time inference on a clip of `side`, streaming, and training steps on `batch` crops, for about `seconds` each."""
    report = Report("BP-FPN against its host, and streaming")
    report.facts = [
        f"T = {FRAMES}, width {width:g}, random weights, 1 thread; inference folded and channels last, on {side}x{side}",
        f"training: default GILS and DGR, loss, backward, AdamW; {batch} clips of {crop}x{crop}",
        "checked: with the shortcut's alpha = 0 BP-FPN gives what the host gives, bit for bit; the stream what clips give",
    ]
    with threads(1):
        _inference(report, side, width, seconds)
        _training(report, width, batch, crop, seconds)
    return report


def networks(width: float) -> tuple[BPFPN, BPFPN]:
    """BP-FPN and its host with the same weights, which pass signals on: those of the start hide what differs."""
    torch.manual_seed(0)
    host = BPFPN(FRAMES, bp=False, width=width)
    for module in host.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    ours = BPFPN(FRAMES, width=width)
    ours.load_state_dict(host.state_dict(), strict=False)
    return tuple(model.to(memory_format=torch.channels_last).eval() for model in (ours, host))


def _inference(report: Report, side: int, width: float, seconds: float) -> None:
    ours, host = (model.folded() for model in networks(width))
    frames_THW, _ = render(Scenes(sequences=1, frames=2 * FRAMES, height=side, width=side), 0)
    video_1THW = torch.from_numpy(frames_THW[None] / np.float32(255))
    clip_1THW = video_1THW[:, FRAMES:]
    stream = ours.stream()
    with torch.no_grad():
        whole = ours(clip_1THW)
        if not torch.equal(whole, host(clip_1THW)):
            raise WorkError("bench models: BP-FPN with alpha = 0 is not its host; a ratio would mean nothing")
        for t in range(2 * FRAMES):
            streamed = stream(video_1THW[:, t])
        if not (streamed - whole).abs().max() <= TOLERANCE * whole.abs().max():
            raise WorkError("bench models: the stream differs from the whole clip; a ratio would mean nothing")
        frame_1HW = video_1THW[:, -1]
        sides = {
            "host": lambda: len(host(clip_1THW)),
            "BP-FPN": lambda: len(ours(clip_1THW)),
            "BP-FPN, streaming": lambda: len(stream(frame_1HW)),
        }
        timing = interleaved({name: timed(run, clock(1)) for name, run in sides.items()}, seconds)
    report.rows += [{"what": "inference", "side": n, "frames/s": timing.rate(n)} for n in timing.seconds]
    name = f"inference, BP-FPN / host (1.02 times the time: {INFERENCE:.3f})"
    report.ratios.append((name, timing.ratio("BP-FPN", "host")))
    report.goals[name] = INFERENCE
    report.ratios.append(("streaming / the whole clip again", timing.ratio("BP-FPN, streaming", "BP-FPN")))
    report.goals["streaming / the whole clip again"] = STREAMING


def _training(report: Report, width: float, batch: int, crop: int, seconds: float) -> None:
    ours, host = (model.train() for model in networks(width))
    frames_THW, _ = render(Scenes(sequences=1, frames=batch * FRAMES, height=crop, width=crop), 0)
    given = {
        "frames": frames_THW.reshape(batch, FRAMES, crop, crop),
        "offset": np.zeros(batch, np.float32),
        "scale": np.full(batch, 1 / 255, np.float32),
        "size": np.full((batch, 2), crop, np.int64),
        "boxes": [np.array([[crop / 2, crop / 3, 6, 5]], np.float32)] * batch,
    }
    config = configuration.load(overrides={"model.name": "bp-fpn"})

    def step(model: Model) -> Callable[[], int]:
        optimizer = build_optimizer(model, config.train)

        def run() -> int:
            loss, _ = model.loss(given)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return batch

        return run

    timing = interleaved({"host": timed(step(host), clock(1)), "BP-FPN": timed(step(ours), clock(1))}, seconds)
    report.rows += [{"what": "training step", "side": n, "frames/s": timing.rate(n)} for n in timing.seconds]
    name = f"training step, BP-FPN / host (1.05 times the time: {TRAINING:.3f})"
    report.ratios.append((name, timing.ratio("BP-FPN", "host")))
    report.goals[name] = TRAINING
