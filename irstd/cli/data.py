"""From recordings to shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irstd.cli.options import Overrides, call

app = typer.Typer()


@app.command()
def ingest(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="a folder of recordings and labels, a recording, a zip or tar, or a public set by its name"
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="the set's name: [a-z0-9_-]; default: a public set's")
    ] = None,
    format: Annotated[str, typer.Option("--format", help="auto, or a name of docs/FORMATS.md")] = "auto",
    bit_depth: Annotated[int | None, typer.Option("--bit-depth", min=1, max=16)] = None,
    group_by: Annotated[
        str | None, typer.Option("--group-by", help="regular expression; its first group names the group")
    ] = None,
    list_name: Annotated[str | None, typer.Option("--list", help="which published split list to import")] = None,
    licence: Annotated[str | None, typer.Option("--licence")] = None,
    update: Annotated[bool, typer.Option("--update", help="make a new version of what is there")] = False,
    remove: Annotated[str | None, typer.Option("--remove", metavar="SET/SEQUENCE")] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="REMOTE", help="dvc push to this remote afterwards")
    ] = None,
    given: Annotated[
        Path | None, typer.Option("--from", help="the folder or archive with a public set that you downloaded")
    ] = None,
) -> None:
    """Add recordings with their annotations to data/ as a new version of data.dvc."""
    call(
        "ingest", source=source, name=name, format=format, bit_depth=bit_depth, group_by=group_by, list_name=list_name,
        licence=licence, update=update, remove=remove, push=push, given=given,
    )  # fmt: skip


@app.command()
def export(
    what: Annotated[
        str, typer.Argument(metavar="MODEL_URI|CHECKPOINT|SET", help="a model, or with --format a set of data/")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="a new file, or of a set a new folder")] = None,
    to: Annotated[str | None, typer.Option("--to", help="of a model: onnx or pt2")] = None,
    attach: Annotated[
        bool, typer.Option("--attach", help="of a model: keep the file with its version in the registry")
    ] = False,
    format: Annotated[str | None, typer.Option("--format", help="of a set: coco (default), mot or yolo")] = None,
) -> None:
    """Write a model as ONNX or as an exported graph (docs/EXPORT.md), or a set with its labels for other tools, frames as
    PNG with the sensor's counts."""
    call("export", what=what, out=out, to=to, attach=attach, format=format)


@app.command()
def shard(
    overrides: Overrides = None,
    data: Annotated[Path | None, typer.Option("--data", help="another data folder; needs --out")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="write the shards there, outside DVC; takes shard.* overrides")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="processes; default: one a core")] = None,
) -> None:
    """Build shards/ from data/: what has not changed is kept."""
    call("shard", overrides=overrides or [], data=data, out=out, workers=workers)
