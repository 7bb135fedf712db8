"""Ratios against a named baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irstd.cli.options import Seconds, Shards, call

app = typer.Typer(
    help="Measure the data path and the networks, as ratios against a named baseline.", no_args_is_help=True
)


@app.command("loader")
def bench_loader(
    shards: Shards = None,
    seconds: Seconds = 10.0,
    memory: Annotated[
        bool, typer.Option("--memory", help="private memory over 1 GB and 4 GB of shards instead; writes 5 GB")
    ] = False,
) -> None:
    """Clips a second from shards, against the same clips from image files and plain webdataset, and the limit."""
    call("bench", "loader", shards=shards, seconds=seconds, memory=memory)


@app.command("shard")
def bench_shard(seconds: Seconds = 5.0) -> None:
    """Frames a second of the shard writer, against the sum of its parts timed alone."""
    call("bench", "shard", seconds=seconds)


@app.command("train")
def bench_train(
    shards: Shards = None,
    seconds: Seconds = 10.0,
) -> None:
    """The share of a training step that waits for data, of both networks, and of the steps that checkpoints take."""
    call("bench", "train", shards=shards, seconds=seconds)


@app.command("cluster")
def bench_cluster(
    first: Annotated[bool, typer.Option("--first/--no-first", help="the time to the first step too")] = True,
) -> None:
    """What Ray Train costs in a step, with two workers, and until the first step; takes minutes."""
    call("bench", "cluster", first=first)


@app.command("infer")
def bench_infer(
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, help="of each comparison")] = 10.0,
    exported: Annotated[
        bool, typer.Option("--exported/--no-exported", help="the exported graph and onnxruntime too")
    ] = True,
) -> None:
    """Frames a second of the detector, against the bare network; PyTorch, exported graph and onnxruntime side by side."""
    call("bench", "infer", seconds=seconds, exported=exported)


@app.command("detect")
def bench_detect(
    seconds: Annotated[float, typer.Option("--seconds", min=0.5)] = 20.0,
    recording: Annotated[Path | None, typer.Option("--recording", help="in place of a synthetic one")] = None,
) -> None:
    """Frames a second of `irstd detect` without overlay, against the bare model over decoded frames."""
    call("bench", "detect", seconds=seconds, recording=recording)


@app.command("doctor")
def bench_doctor(seconds: Seconds = 10.0) -> None:
    """Frames a second of `doctor data`, against decoding alone."""
    call("bench", "doctor", seconds=seconds)


@app.command("models")
def bench_models(
    network: Annotated[str | None, typer.Argument(metavar="[NETWORK]", help="ggl-net or bp-fpn; default: both")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, help="of each comparison")] = 20.0,
    compiled: Annotated[bool, typer.Option("--compiled", help="GGL-Net by torch.compile too; takes minutes")] = False,
) -> None:
    """GGL-Net against the plain module, BP-FPN against its host: inference, training step, memory, streaming."""
    call("bench", "models", seconds=seconds, compiled=compiled, network=network)
