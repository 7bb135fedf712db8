"""What a model is worth, what it finds, and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irstd.cli.options import ModelUri, Overrides, Shards, call
from irstd.errors import InputError

app = typer.Typer()


@app.command()
def evaluate(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL_URI", help="models:/ggl-net@champion, or a package's folder")
    ] = None,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option("--split")] = "test",
    shards: Shards = None,
    out: Annotated[Path | None, typer.Option("--out", help="also write the numbers to this JSON file")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="folder for curves and rows; default: below .irstd/evaluations")
    ] = None,
    fa: Annotated[
        float | None, typer.Option("--fa", help="also the lowest threshold that keeps to this Fa on val")
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option("--baselines", help="of top-hat,local-contrast,low-rank, or none; default: the first two"),
    ] = None,
    field_best: Annotated[
        bool,
        typer.Option("--field-best", help="every kept epoch, the best on the split marked, as the field's tables are"),
    ] = False,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="instead of a model: PNG, NPY or MOT files in a folder, or COCO results"),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="what the predictions are called in tables")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="of the predictions; default: .5")] = None,
    missing: Annotated[
        str, typer.Option("--missing", help="frames without a prediction: 'refuse', or count them as 'empty'")
    ] = "refuse",
    images: Annotated[
        Path | None, typer.Option("--images", help="the COCO file whose images the results' ids mean")
    ] = None,
    seeds: Annotated[bool, typer.Option("--seeds", help="of a model of several seeds: measure all of them")] = False,
) -> None:
    """Score a model, or predictions made anywhere, on a split; classical baselines at the same rate beside it."""
    beside = None if baselines is None else [b for b in baselines.split(",") if b != "none"]
    shared = {"split": split, "shards": shards, "out": out, "report": report, "fa": fa, "beside": beside}
    if predictions is None:
        alone = {"--name": name, "--threshold": threshold, "--images": images}
        stray = [option for option, value in alone.items() if value is not None]
        call(
            "evaluate", uri=model, overrides=overrides or [], stray=stray, field_best=field_best, seeds=seeds, **shared
        )
        return
    if seeds:
        raise InputError("--seeds: is of a model; predictions have none")
    if field_best:
        raise typer.BadParameter("is of a model whose epochs were kept (train.keep_every), not of --predictions")
    if model is not None and "=" in model:  # an override, since there is no model
        model, overrides = None, [model, *(overrides or [])]
    call(
        "predictions", place=predictions, uri=model, overrides=overrides or [], name=name, threshold=threshold,
        missing=missing, images=images, **shared,
    )  # fmt: skip


@app.command()
def compare(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="EVALUATION|MODEL_URI", help="files of irstd evaluate --out, or models"),
    ] = None,
    table: Annotated[str | None, typer.Option("--table", help="a name of benchmarks/published/, or a CSV file")] = None,
    split: Annotated[str, typer.Option("--split", help="of models: which of their evaluations")] = "test",
    format: Annotated[str | None, typer.Option("--format", help="markdown, latex or csv")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="a folder for the tables; without --format in all three")
    ] = None,
) -> None:
    """Evaluations side by side, and beside published numbers; what was not measured alike stands apart."""
    call("compare", what=what or [], table=table, split=split, format=format, out=out)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(metavar="MODEL_URI", help="such as models:/ggl-net@challenger")],
    shards: Shards = None,
    bound: Annotated[
        float | None, typer.Option("--bound", help="what the difference must surely exceed; default: registry.bound")
    ] = None,
    accept_insufficient: Annotated[
        bool,
        typer.Option("--accept-insufficient", help="with too few groups for an interval, the numbers alone decide"),
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="measure both on the gate that is here, though it has changed since training")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="make the champion before this one champion again")
    ] = False,
) -> None:
    """Make a version champion if it beats the one that is, on the same gate split; status 1 where it does not."""
    call(
        "promote",
        uri=model,
        shards=shards,
        bound=bound,
        accept_insufficient=accept_insufficient,
        anew=anew,
        back=rollback,
    )


@app.command()
def detect(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="recordings, folders of recordings or of frames, quoted globs"),
    ],
    model: Annotated[str, typer.Option("--model", help="MODEL_URI")],
    out: Annotated[
        Path, typer.Option("--out", help="folder for the results; of several recordings a folder each in it")
    ],
    bit_depth: Annotated[
        int | None,
        typer.Option("--bit-depth", min=1, max=16, help="of the counts, where neither container nor sidecar says it"),
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="overlay.webm")] = True,
    formats: Annotated[str, typer.Option("--format", help="of jsonl,coco,mot")] = "jsonl",
    page: Annotated[bool, typer.Option("--page", help="page.html: detections over time, frames, tracks")] = False,
    tracks: Annotated[
        bool, typer.Option("--tracks", help="join detections to tracks (pip install 'irstd[tracks]')")
    ] = False,
    distance: Annotated[
        float | None, typer.Option("--track-distance", min=0.1, help="px from where a track is expected; default: 10")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="recordings side by side; default: 1")] = None,
    ray: Annotated[
        bool | None,
        typer.Option("--ray/--no-ray", help="a Ray task each; default: where settings.toml names a cluster"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")] = "auto",
    anew: Annotated[bool, typer.Option("--anew", help="also what is done already")] = False,
) -> None:
    """Run a model on recordings: detections as JSON lines, COCO or MOT, an overlay video, a page (docs/DETECTION.md)."""
    call(
        "detect", inputs=inputs, uri=model, out=out, bit_depth=bit_depth, overlay=overlay, formats=formats, page=page,
        tracks=tracks, distance=distance, workers=workers, on_ray=ray, device=device, anew=anew,
    )  # fmt: skip


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL_URI")],
    port: Annotated[int, typer.Option("--port", help="0 takes a free one")] = 8700,
    host: Annotated[str, typer.Option("--host", help="whom it answers; nobody is asked who he is")] = "127.0.0.1",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")] = "auto",
    megabytes: Annotated[int, typer.Option("--max-megabytes", min=1, help="of a recording in one request")] = 1024,
) -> None:
    """A model behind HTTP: /health, /detect (recordings), /stream (frames one by one); see docs/DETECTION.md."""
    call("serve", uri=model, host=host, port=port, device=device, megabytes=megabytes)


@app.command()
def lineage(
    model: ModelUri,
    verify: Annotated[
        bool, typer.Option("--verify", help="recompute every hash; status 1 at the first broken link")
    ] = False,
    shards: Shards = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """The chain from a model version to its recordings."""
    call("lineage", uri=model, verify=verify, shards=shards, as_json=as_json)


@app.command()
def reproduce(
    model: ModelUri,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="also a model whose commit is not all of its code")
    ] = False,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="of IoU, Pd, AP, ... on val, where bits cannot be the same")
    ] = 0.02,
) -> None:
    """Train a model again from its commit and its data, and compare link by link; status 1 where it is not the same."""
    call("reproduce", uri=model, allow_dirty=allow_dirty, tolerance=tolerance)


@app.command()
def bundle(
    model: ModelUri,
    out: Annotated[Path, typer.Option("--out", help="a new .zip file")],
    shards: Shards = None,
    force: Annotated[bool, typer.Option("--force", help="replace what is there")] = False,
) -> None:
    """Everything that a paper's reader needs in one archive: model, recipe, numbers, splits, versions, licences."""
    call("bundle", uri=model, out=out, shards=shards, force=force)
