"""The command line: one command for each arrow, a thin face over `irstd.commands`.

Heavy imports live in the functions, so that `irstd --help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from irstd.errors import InputError, IrstdError

app = typer.Typer(
    name="irstd",
    help="Data sets and training for infrared small-target detection: raw video in, registered detectors out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
bench = typer.Typer(
    help="Measure the data path and the networks, as ratios against a named baseline.", no_args_is_help=True
)
app.add_typer(bench, name="bench")
weights = typer.Typer(help="Weights that others have published.", no_args_is_help=True)
app.add_typer(weights, name="weights")

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as train.epochs=20")]
Shards = Annotated[
    str | None,
    typer.Option(
        "--shards", metavar="DIR", help="shards elsewhere, a folder or a URL; default: shards/ of the workspace"
    ),
]
ModelUri = Annotated[str, typer.Argument(metavar="MODEL_URI")]
Seconds = Annotated[float, typer.Option("--seconds", min=0.5)]
Register = Annotated[bool, typer.Option("--register/--no-register", help="register the result as challenger")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="show a traceback with an error")] = False,
) -> None:
    """Options of every command."""


@app.command()
def demo() -> None:
    """The whole road on the sample: raw video to a registered model and detections drawn on a video."""
    _call("demo")


@app.command()
def doctor(
    what: Annotated[str, typer.Argument(help="'all', 'data' or 'machine'")] = "all",
    sets: Annotated[
        list[str] | None, typer.Argument(metavar="[SET]...", help="of 'data': which sets; default all")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="of 'data': the page, default .irstd/reports/data.html")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="of 'data': processes, one a core")] = None,
) -> None:
    """Check versions against the lock, ports, disk, cores, and the data's hashes.

    `doctor data` also looks into every frame and label, and writes an HTML page: docs/DOCTOR.md.
    """
    _call("doctor", what=what, sets=sets or [], out=out, workers=workers)


@app.command()
def up() -> None:
    """Start Prefect, MLflow and Ray with their web pages on loopback."""
    _call("services", "up")


@app.command()
def down() -> None:
    """Stop exactly what `up` started."""
    _call("services", "down")


@app.command()
def status() -> None:
    """What of the stack is running, and where."""
    _call("services", "status")


@app.command("run")
def run_flow(
    flow: Annotated[str, typer.Argument(help="train-flow, shard-flow, ...")],
    overrides: Overrides = None,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="wait for the end")] = True,
) -> None:
    """Run a deployed flow on the running stack: FLOW/default.

    Prefect itself addresses a deployment as FLOW/DEPLOYMENT: `prefect deployment run train-flow/default`. The bare name
    `train-flow` cannot work there; here it does. KEY=VALUE are the flow's parameters; dotted ones go into its configuration.
    """
    from irstd.workspace import Workspace

    workspace = Workspace.find().enter()
    from pipelines.run import parse_parameters, run_deployment

    raise typer.Exit(run_deployment(flow, parse_parameters(flow, overrides or []), workspace, watch))


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
    _call(
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
    _call("export", what=what, out=out, to=to, attach=attach, format=format)


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
    _call("shard", overrides=overrides or [], data=data, out=out, workers=workers)


@app.command()
def train(
    model: Annotated[
        str, typer.Argument(help="ggl-net, bp-fpn, package.module:Class, or an entry point of irstd.models")
    ],
    overrides: Overrides = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="a YAML file of recipes/")] = None,
    workers: Annotated[
        str | None,
        typer.Option("--workers", help="processes; 1-4: as many as find room. Default: one a GPU, else up to 2"),
    ] = None,
    register: Annotated[
        bool | None,
        typer.Option(
            "--register/--no-register", help="register the result as challenger; a quick test is not, unless told"
        ),
    ] = None,
    shards: Shards = None,
    out: Annotated[Path | None, typer.Option("--out", help="also write the model package to this folder")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="the recipe's quick test: the same work on the sample, about a minute")
    ] = False,
    init: Annotated[
        str | None, typer.Option("--init", metavar="MODEL_URI", help="start from this model's weights")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="go on with this run though the code has changed")
    ] = None,
    chaos: Annotated[
        str | None, typer.Option("--chaos", metavar="DRILL", help="a failure drill, such as kill-worker@120")
    ] = None,
) -> None:
    """Train a network with Ray Train. The same command again resumes, or takes the finished result."""
    _call(
        "train", model=model, overrides=overrides or [], recipe=recipe, workers=workers, shards=shards, out=out,
        register=not quick if register is None else register, quick=quick, init=init, resume=resume, chaos=chaos,
    )  # fmt: skip


@app.command()
def tune(
    space: Annotated[str, typer.Argument(help="a name in tune_spaces/, or a YAML file")],
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="workers of one trial")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, help="trials side by side; default: what fits")
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="in place of the space's budget.trials")] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", min=0.001, help="in place of the space's budget.hours")
    ] = None,
    confirm: Annotated[
        bool, typer.Option("--confirm/--no-confirm", help="run the best trials and the default again with fresh seeds")
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="refuse to begin anew: go on with a search that was stopped")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="show the space, the plan and the expected hours only")] = False,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="what the trials start from, not the space's")] = None,
    register: Register = True,
    shards: Shards = None,
) -> None:
    """Search a space with Ray Tune; each trial is a child run in MLflow. The same command goes on with a search that was
    stopped."""
    _call(
        "tune",
        space=space,
        overrides=overrides or [],
        workers=workers,
        parallel=parallel,
        register=register,
        shards=shards,
        confirm=confirm,
        resume=resume,
        trials=trials,
        hours=hours,
        show=show,
        recipe=recipe,
    )


@app.command()
def sweep(
    name: Annotated[
        str | None, typer.Argument(help="of a sweep, or its beginning (the space's name); default: the newest")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="the page; default: beside the sweep's record")] = None,
) -> None:
    """Write the page of a search anew: trials, curves, what each path does, the winner."""
    _call("sweep_page", name=name, out=out)


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
        _call(
            "evaluate", uri=model, overrides=overrides or [], stray=stray, field_best=field_best, seeds=seeds, **shared
        )
        return
    if seeds:
        raise InputError("--seeds: is of a model; predictions have none")
    if field_best:
        raise typer.BadParameter("is of a model whose epochs were kept (train.keep_every), not of --predictions")
    if model is not None and "=" in model:  # an override, since there is no model
        model, overrides = None, [model, *(overrides or [])]
    _call(
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
    _call("compare", what=what or [], table=table, split=split, format=format, out=out)


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
    _call(
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
    _call(
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
    _call("serve", uri=model, host=host, port=port, device=device, megabytes=megabytes)


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
    _call("lineage", uri=model, verify=verify, shards=shards, as_json=as_json)


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
    _call("reproduce", uri=model, allow_dirty=allow_dirty, tolerance=tolerance)


@app.command()
def bundle(
    model: ModelUri,
    out: Annotated[Path, typer.Option("--out", help="a new .zip file")],
    shards: Shards = None,
    force: Annotated[bool, typer.Option("--force", help="replace what is there")] = False,
) -> None:
    """Everything that a paper's reader needs in one archive: model, recipe, numbers, splits, versions, licences."""
    _call("bundle", uri=model, out=out, shards=shards, force=force)


@app.command("list")
def list_(what: Annotated[str, typer.Argument(help="data, sets, runs, sweeps or models")] = "data") -> None:
    """Data sets, public sets that can be had by name, runs, sweeps, or registered models."""
    _call("listing", what=what)


@app.command()
def clean(
    what: Annotated[list[str] | None, typer.Argument(help="checkpoints, runs, shards, cache, pulled, logs")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it only the sizes are shown")] = False,
) -> None:
    """Show what takes space, and remove what can be made again."""
    _call("clean", what=what or [], yes=yes)


@weights.command("import")
def weights_import(
    file: Annotated[Path, typer.Argument(help="the authors' GGL-Net, or YOLOX-s: tensors, nothing is unpickled")],
    kind: Annotated[str, typer.Option("--as", help="ggl-net or bp-fpn")],
    out: Annotated[
        Path, typer.Option("--out", help="ggl-net: a folder, the model package; bp-fpn: a file, for train.init")
    ],
    overrides: Overrides = None,
) -> None:
    """Turn released weights into a model package, or into a start for training (docs/MODELS.md)."""
    _call("weights", "import_", file=file, kind=kind, out=out, overrides=overrides or [])


@bench.command("loader")
def bench_loader(
    shards: Shards = None,
    seconds: Seconds = 10.0,
    memory: Annotated[
        bool, typer.Option("--memory", help="private memory over 1 GB and 4 GB of shards instead; writes 5 GB")
    ] = False,
) -> None:
    """Clips a second from shards, against the same clips from image files and plain webdataset, and the limit."""
    _call("bench", "loader", shards=shards, seconds=seconds, memory=memory)


@bench.command("shard")
def bench_shard(seconds: Seconds = 5.0) -> None:
    """Frames a second of the shard writer, against the sum of its parts timed alone."""
    _call("bench", "shard", seconds=seconds)


@bench.command("train")
def bench_train(
    shards: Shards = None,
    seconds: Seconds = 10.0,
) -> None:
    """The share of a training step that waits for data, of both networks, and of the steps that checkpoints take."""
    _call("bench", "train", shards=shards, seconds=seconds)


@bench.command("cluster")
def bench_cluster(
    first: Annotated[bool, typer.Option("--first/--no-first", help="the time to the first step too")] = True,
) -> None:
    """What Ray Train costs in a step, with two workers, and until the first step; takes minutes."""
    _call("bench", "cluster", first=first)


@bench.command("infer")
def bench_infer(
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, help="of each comparison")] = 10.0,
    exported: Annotated[
        bool, typer.Option("--exported/--no-exported", help="the exported graph and onnxruntime too")
    ] = True,
) -> None:
    """Frames a second of the detector, against the bare network; PyTorch, exported graph and onnxruntime side by side."""
    _call("bench", "infer", seconds=seconds, exported=exported)


@bench.command("detect")
def bench_detect(
    seconds: Annotated[float, typer.Option("--seconds", min=0.5)] = 20.0,
    recording: Annotated[Path | None, typer.Option("--recording", help="in place of a synthetic one")] = None,
) -> None:
    """Frames a second of `irstd detect` without overlay, against the bare model over decoded frames."""
    _call("bench", "detect", seconds=seconds, recording=recording)


@bench.command("doctor")
def bench_doctor(seconds: Seconds = 10.0) -> None:
    """Frames a second of `doctor data`, against decoding alone."""
    _call("bench", "doctor", seconds=seconds)


@bench.command("models")
def bench_models(
    network: Annotated[str | None, typer.Argument(metavar="[NETWORK]", help="ggl-net or bp-fpn; default: both")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, help="of each comparison")] = 20.0,
    compiled: Annotated[bool, typer.Option("--compiled", help="GGL-Net by torch.compile too; takes minutes")] = False,
) -> None:
    """GGL-Net against the plain module, BP-FPN against its host: inference, training step, memory, streaming."""
    _call("bench", "models", seconds=seconds, compiled=compiled, network=network)


def _call(module: str, function: str | None = None, /, **arguments: Any) -> None:
    """Run irstd.commands.<module>.<function> in the workspace; its return value is the exit status (None: 0)."""
    import importlib

    from irstd.workspace import Workspace

    found = importlib.import_module(f"irstd.commands.{module}")
    status = getattr(found, function or "run")(Workspace.find().enter(), **arguments)
    if status:
        raise typer.Exit(status)


def run(arguments: list[str]) -> int:
    """Run a command line and return the exit status: 0 done, 1 the work failed, 2 bad input or usage."""
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        found = app(arguments, standalone_mode=False)
        return found if isinstance(found, int) else 0
    except IrstdError as error:
        if debug:
            raise
        print(f"irstd: {error}", file=sys.stderr)
        return error.status
    except typer.exceptions.TyperException as error:
        message = error.format_message()
        if not message or message.startswith("Usage:"):  # no arguments: the help is the answer
            print(message)
        else:
            print(f"irstd: {message[0].lower() + message[1:]} (irstd --help)", file=sys.stderr)
        return 2
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("irstd: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        line = (str(error).strip().splitlines() or [""])[0]
        print(f"irstd: unexpected {type(error).__name__}: {line} (add --debug for the traceback)", file=sys.stderr)
        return 1
