"""`irstd bench models`: GGL-Net, folded and as it trains, against the plain module with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from irstd import config as configuration
from irstd.bench import step_memory
from irstd.bench.baselines import Scenes, render
from irstd.bench.plain_ggl_net import PlainGGLNet
from irstd.bench.timing import Ratio, Report, Timing, clock, interleaved, threads, timed
from irstd.config import LossConfig
from irstd.errors import WorkError
from irstd.models.ggl_net import GGLNet
from irstd.models.losses import segmentation_loss
from irstd.training.heap import keep_freed_memory
from irstd.training.optimizer import build_optimizer

WIDTH = 16
SIDES = (256, 512)
BATCH, CROP = 4, 256
CHECKED = 64  # side of the images on which gradients are compared, px
TOLERANCE = 1e-4
"""Of probabilities."""
FASTER, FASTER_COMPILED, FASTER_TRAINING = 1.4, 1.8, 1.15
LEAST_MEMORY, MOST_TIME = 0.5, 1.35
PROCESSES = 3


def measure(
    seconds: float,
    compiled: bool = False,
    sides: tuple[int, ...] = SIDES,
    width: int = WIDTH,
    batch: int = BATCH,
    crop: int = CROP,
    counts: tuple[int, ...] = (1, 2),
    processes: int = PROCESSES,
) -> Report:
    """Time both for about `seconds` a comparison; inference on frames of `sides`, training on `batch` crops.

    `counts`: of threads. `processes`: a side, for the memory of a step. `compiled`: with `torch.compile`, which takes
    minutes; needs a C++ compiler.
    """
    report = Report("GGL-Net against the plain module")
    report.facts = [
        f"width {width}, random weights, statistics of a part of a frame; both compute the gradient map",
        "plain: NCHW, three channels, every operation by itself, evaluation mode without gradients; ours: folded, channels last",
        f"checked: probabilities of both sides within {TOLERANCE:g}, losses and gradients of a training step within rounding",
    ]
    ours, plain = networks(width)
    for count in counts:
        with threads(count):
            for side in sides:
                _inference(report, ours, plain, side, count, seconds, compiled and count == 1)
    with threads(1):
        _training(report, width, batch, crop, seconds)
    _memory(report, width, batch, crop, processes)
    return report


def networks(width: int) -> tuple[GGLNet, PlainGGLNet]:
    """The same weights in both, with batch statistics that keep the probabilities between 0 and 1."""
    torch.manual_seed(0)
    ours = GGLNet(width=width, border="authors").to(memory_format=torch.channels_last)
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        ours.train()(image(128))
    plain = PlainGGLNet(width)
    plain.load_state_dict(ours.state_dict())
    return ours.eval(), plain.eval()


def image(side: int, batch: int = 1) -> torch.Tensor:
    """Frames float32 [batch, 1, side, side] in [0, 1]."""
    frames_THW, _ = render(Scenes(sequences=1, frames=batch, height=side, width=side), 0)
    return torch.from_numpy(frames_THW[:, None] / np.float32(255))


def training_batch(batch: int, side: int) -> dict[str, Any]:
    """A batch as the loader gives it, of whole frames with two targets each."""
    frames_THW, masks_THW = render(Scenes(sequences=1, frames=batch, height=side, width=side), 0)
    return {
        "frames": frames_THW[:, None],
        "masks": masks_THW,
        "offset": np.zeros(batch, np.float32),
        "scale": np.full(batch, 1 / 255, np.float32),
        "size": np.full((batch, 2), side, np.int64),
    }


def _inference(
    report: Report, ours: GGLNet, plain: PlainGGLNet, side: int, count: int, seconds: float, compiled: bool
) -> None:
    grey = image(side)
    tripled = grey.repeat(1, 3, 1, 1)
    fast = ours.folded()
    sides: dict[str, Callable[[], torch.Tensor]] = {"plain": lambda: plain(tripled), "ours": lambda: fast(grey)}
    if compiled:
        torch.compiler.reset()
        made, theirs = torch.compile(fast, options={"freezing": True}), torch.compile(plain)
        sides |= {"ours, compiled": lambda: made(grey), "plain, compiled": lambda: theirs(tripled)}
    with torch.no_grad():
        expected = torch.sigmoid(sides["plain"]())
        for name, run in sides.items():
            apart = float((torch.sigmoid(run()) - expected).abs().max())
            if not apart <= TOLERANCE:
                raise WorkError(f"bench models: {name} differs from the plain GGL-Net by {apart:.2g} at {side}x{side}")
        timing = interleaved({n: timed(lambda r=r: len(r()), clock(count)) for n, r in sides.items()}, seconds)
    where = f"inference {side}x{side}, {count} thread{'s' * (count > 1)}"
    _rows(report, where, "frames/s", timing)
    _ratio(report, timing, f"{where}: ours / plain", "ours", "plain", FASTER)
    if compiled:
        _ratio(report, timing, f"{where}: ours, compiled / plain", "ours, compiled", "plain", FASTER_COMPILED)
        _ratio(report, timing, f"{where}: both compiled", "ours, compiled", "plain, compiled", None)


def _training(report: Report, width: int, batch: int, crop: int, seconds: float) -> None:
    """The whole step: forward, loss, backward, optimizer. The plain side has PyTorch's own AdamW.

    Both have the heap that a training has here; without it the plain side is a little slower, and ours more so.
    """
    keep_freed_memory()
    config = configuration.load(overrides={"model.width": width})
    ours, plain = (model.train() for model in networks(width))
    given = training_batch(batch, crop)
    grey, mask = image(crop, batch), torch.from_numpy(given["masks"])[:, None]
    tripled = grey.repeat(1, 3, 1, 1)

    def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return segmentation_loss(model(x), mask, config.train.loss)[0]

    _same_gradients(ours, plain, config.train.loss)
    train = config.train
    optimizers = {
        "ours": build_optimizer(ours, train),
        "plain": torch.optim.AdamW(plain.parameters(), train.lr, weight_decay=train.weight_decay),
    }

    def step(name: str, model: nn.Module, x: torch.Tensor) -> Callable[[], int]:
        def run() -> int:
            optimizers[name].zero_grad(set_to_none=True)
            loss_of(model, x).backward()
            optimizers[name].step()
            return len(x)

        return run

    sides = {"plain": step("plain", plain, tripled), "ours": step("ours", ours, grey)}
    timing = interleaved({name: timed(run, clock(1)) for name, run in sides.items()}, seconds)
    where = f"training step, {batch} crops {crop}x{crop}"
    _rows(report, where, "samples/s", timing)
    _ratio(report, timing, f"{where}: ours / plain", "ours", "plain", FASTER_TRAINING)


def _same_gradients(ours: GGLNet, plain: PlainGGLNet, loss: LossConfig) -> None:
    """`WorkError` where the losses or the gradients of a step on two small images differ by 1e-4 of their length.

    In double precision, which tells a difference from the rounding that batch statistics of few values enlarge.
    """
    grey, mask = image(CHECKED, 2).double(), torch.from_numpy(training_batch(2, CHECKED)["masks"])[:, None]
    values, gradients = [], []
    for model, x in ((ours, grey), (plain, grey.repeat(1, 3, 1, 1))):
        double = deepcopy(model).double()
        value, _ = segmentation_loss(double(x), mask, loss)
        found = torch.autograd.grad(value, list(double.parameters()))
        values.append(value.item())
        gradients.append(torch.cat([g.flatten() for g in found]))
    apart = float((gradients[0] - gradients[1]).norm() / gradients[1].norm())
    if abs(values[0] - values[1]) > 1e-4 * abs(values[1]) or apart > 1e-4:
        raise WorkError(
            f"bench models: a training step differs from the plain GGL-Net's: {values}, gradients {apart:.2g}"
        )


def _memory(report: Report, width: int, batch: int, crop: int, processes: int) -> None:
    """Memory and time of a step with activation checkpointing and without, each in processes of its own, in turns."""
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for _ in range(processes):
        for checkpointing, of in found.items():
            of.append(step_memory.measure(width, batch, crop, checkpointing))
    kept, again = found[False], found[True]
    where = f"training step, {batch} crops {crop}x{crop}"
    share = _share(kept, again, "step")
    report.results += [
        f"MEMORY of a {where}, peak resident above the loaded model: {_megabytes(kept, 'step')}; with activation "
        f"checkpointing {_megabytes(again, 'step')}, {share} of it; goal {LEAST_MEMORY:g}: "
        f"{'held' if share.median <= LEAST_MEMORY else 'missed'}",
        f"MEMORY of the whole process: {_megabytes(kept, 'process')}; with activation checkpointing "
        f"{_megabytes(again, 'process')}, {_share(kept, again, 'process')} of it",
    ]
    seconds = Timing({"kept": [p["seconds"] for p in kept], "again": [p["seconds"] for p in again]})
    name = f"{where}: with activation checkpointing / without ({MOST_TIME:g} times the time: {1 / MOST_TIME:.3f})"
    _ratio(report, seconds, name, "again", "kept", 1 / MOST_TIME)


def _share(kept: list[dict[str, float]], again: list[dict[str, float]], what: str) -> Ratio:
    """The second's part of the first, process by process."""
    return Timing({"kept": [p[what] for p in kept], "again": [p[what] for p in again]}).ratio("kept", "again")


def _megabytes(found: list[dict[str, float]], name: str) -> str:
    sizes = sorted(p[name] / 1e6 for p in found)
    return f"{median(sizes):.0f} MB [{sizes[0]:.0f}, {sizes[-1]:.0f}]"


def _rows(report: Report, where: str, unit: str, timing: Timing) -> None:
    report.rows += [{"what": where, "side": name, "a second": timing.rate(name), "of": unit} for name in timing.seconds]


def _ratio(report: Report, timing: Timing, name: str, side: str, other: str, goal: float | None) -> None:
    report.ratios.append((name, timing.ratio(side, other)))
    if goal is not None:
        report.goals[name] = goal
