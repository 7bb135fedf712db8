"""From shards to a registered model: runs, sweeps, and their pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irstd.cli.options import Overrides, Register, Shards, call

app = typer.Typer()


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
    call(
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
    call(
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
    call("sweep_page", name=name, out=out)
