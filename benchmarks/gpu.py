"""What a GPU makes of the networks, as ratios against plain float32 modules in the same run.

    python benchmarks/gpu.py [--seconds 10] [--batch 16] [--crop 256]

Training steps are the loop's own (augmentation, loss, backward, optimizer) on a batch that lies ready; inference is `predict`.
Sides: float32 modules in rows, eager, as released code runs them (GGL-Net: the plain module of `irstd.bench`); ours in bf16 and
channels last; the same compiled. Then BP-FPN against its host, its two parts one by one, and the share of the time in which
the GPU computes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from irstd import config as configuration
from irstd.bench.baselines import Scenes, write_shards
from irstd.bench.plain_ggl_net import PlainGGLNet
from irstd.bench.timing import Report, Side, figure, interleaved
from irstd.data.manifest import read_all
from irstd.models import build_model
from irstd.models.batch import Batch, normalised, to_device
from irstd.models.contract import memory_format
from irstd.models.losses import segmentation_loss
from irstd.training.loaders import loader_for
from irstd.training.step import Stepper

FAST = {"train.precision": "bf16", "train.channels_last": True}
PLAIN = {"train.precision": "float32", "train.channels_last": False}
PARTS: dict[str, dict[str, Any]] = {
    "host": {"model.bp": False},
    "GILS": {"model.dgr.variant": "none"},
    "DGR": {"model.gils.source": "none"},
    "GILS and DGR": {},
}
"""Of BP-FPN: what is measured against the host."""
CALLS = 4  # of a piece of work
STEPS = 10**6  # of the schedule; a benchmark stands at its beginning


class Arm:
    """A network with its training step and its inference, on batches of one kind."""

    def __init__(self, device: torch.device, options: dict[str, Any], compiled: bool = False) -> None:
        self.config = configuration.load(overrides=options)
        self.device, self.compiled = device, compiled
        torch.manual_seed(0)
        model = build_model(self.config)
        self.model = model.to(device, memory_format=memory_format(model, self.config.train.channels_last))
        if compiled:
            for part in self.model.compiled_parts():
                part.compile()
        self.stepper = Stepper(self.model, self.config, STEPS)
        self.step = 0

    def train(self, batch: Batch) -> int:
        self.model.train()
        self.stepper(batch, self.step)
        self.step += 1
        return len(batch["key"])

    def infer(self, batch: Batch) -> int:
        self.model.eval()
        bf16 = self.config.train.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return len(self.model.predict(batch))


class PlainArm(Arm):
    """GGL-Net as its authors' module is written: NCHW, three channels, every operation by itself, PyTorch's own AdamW."""

    def __init__(self, device: torch.device, options: dict[str, Any]) -> None:
        self.config, self.device, self.compiled = configuration.load(overrides=options), device, False
        torch.manual_seed(0)
        self.plain = PlainGGLNet(self.config.model.width).to(device)
        train = self.config.train
        self.optimizer = torch.optim.AdamW(
            self.plain.parameters(), train.lr, weight_decay=train.weight_decay, foreach=False
        )

    def train(self, batch: Batch) -> int:
        self.plain.train()
        found = to_device(batch, self.device)
        loss, _ = segmentation_loss(self._logits(found), found["masks"].unsqueeze(1), self.config.train.loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return len(batch["key"])

    @torch.no_grad()
    def infer(self, batch: Batch) -> int:
        self.plain.eval()
        return len(torch.sigmoid(self._logits(to_device(batch, self.device))).cpu())

    def _logits(self, batch: Batch) -> torch.Tensor:
        return self.plain(normalised(batch)[:, -1:].repeat(1, 3, 1, 1))


def batch_for(shards: Path, options: dict[str, Any]) -> Batch:
    """The first batch of the training loader."""
    config = configuration.load(overrides=options)
    manifests = read_all(shards, config.data.sets)
    return next(iter(loader_for(config, shards, "train", manifests, batch_size=config.train.batch)))


def side(work: Callable[[Batch], int], batch: Batch, device: torch.device) -> Side:
    """Some calls and the wait for all that they queued."""

    def run() -> tuple[int, float]:
        start = time.perf_counter()
        count = sum(work(batch) for _ in range(CALLS))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return count, time.perf_counter() - start

    return run


def precision(
    shards: Path, device: torch.device, seconds: float, ggl: dict[str, Any], bp: dict[str, Any], compiled: bool = True
) -> Report:
    """Samples a second of both networks: bf16 and channels last, eager and compiled, against plain float32."""
    report = Report("bf16 and channels last against plain float32")
    for name, options, plain in (("ggl-net", ggl, PlainArm), ("bp-fpn", bp, Arm)):
        given = {"model.name": name} | options
        batch = batch_for(shards, given)
        arms = {"plain float32": plain(device, given | PLAIN), "bf16, channels last": Arm(device, given | FAST)}
        if compiled:
            arms["compiled"] = Arm(device, given | FAST, compiled=True)
        for what in ("train", "infer"):
            sides = {n: side(getattr(arm, what), batch, device) for n, arm in arms.items()}
            timing = interleaved(sides, seconds)
            for n in sides:
                busy = busy_share(sides[n], device)
                report.rows.append(
                    {"network": name, "what": what, "side": n, "samples/s": timing.rate(n), "GPU busy": busy}
                )
                if n != "plain float32":
                    report.ratios.append((f"{name}, {what}: {n} / plain float32", timing.ratio(n, "plain float32")))
    return report


def parts(shards: Path, device: torch.device, seconds: float, bp: dict[str, Any]) -> Report:
    """BP-FPN with GILS, with DGR and with both, against its host."""
    report = Report("GILS and DGR against the host")
    given = {"model.name": "bp-fpn"} | bp | FAST
    batch = batch_for(shards, given)
    arms = {name: Arm(device, given | options) for name, options in PARTS.items()}
    for what in ("train", "infer"):
        sides = {name: side(getattr(arm, what), batch, device) for name, arm in arms.items()}
        timing = interleaved(sides, seconds)
        for name in sides:
            report.rows.append({"what": what, "side": name, "samples/s": timing.rate(name)})
            if name != "host":
                report.ratios.append((f"{what}: time of {name} / host", timing.ratio("host", name)))
    return report


def busy_share(work: Side, device: torch.device) -> float | None:
    """Share of the time in which a kernel runs on the GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        _, seconds = work()
    spans = sorted((e.time_range.start, e.time_range.end) for e in profile.events() if e.device_type.name == "CUDA")
    covered, end = 0.0, float("-inf")
    for start, stop in spans:  # kernels of two streams may overlap
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered / 1e6 / seconds


def show(report: Report) -> None:
    print(report.title)
    for row in report.rows:
        values = [f"{k} {figure(v) if isinstance(v, float) else v}" for k, v in row.items() if v is not None]
        print("  " + "  ".join(values))
    for line in report.lines():
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each comparison")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled sides out; they take minutes")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: there is no GPU that PyTorch can use here")
        return
    device = torch.device("cuda")
    options = {"train.batch": given.batch, "data.crop": given.crop}
    print(torch.cuda.get_device_name(device), torch.__version__)
    with tempfile.TemporaryDirectory(prefix="irstd-gpu-") as folder:
        scenes = Scenes(sequences=2, frames=max(64, given.batch), height=512, width=640)
        shards = write_shards(scenes, Path(folder))
        show(precision(shards, device, given.seconds, options, options, not given.no_compile))
        show(parts(shards, device, given.seconds, options))


if __name__ == "__main__":
    main()
