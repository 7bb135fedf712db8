"""The stack and the machine, and the whole road at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irstd.cli.options import Overrides, call

app = typer.Typer()


@app.command()
def demo() -> None:
    """The whole road on the sample: raw video to a registered model and detections drawn on a video."""
    call("demo")


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
    call("doctor", what=what, sets=sets or [], out=out, workers=workers)


@app.command()
def up() -> None:
    """Start Prefect, MLflow and Ray with their web pages on loopback."""
    call("services", "up")


@app.command()
def down() -> None:
    """Stop exactly what `up` started."""
    call("services", "down")


@app.command()
def status() -> None:
    """What of the stack is running, and where."""
    call("services", "status")


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
