"""What the workspace holds."""

from __future__ import annotations

from typing import Annotated

import typer

from irstd.cli.options import call

app = typer.Typer()


@app.command("list")
def list_(what: Annotated[str, typer.Argument(help="data, sets, runs, sweeps or models")] = "data") -> None:
    """Data sets, public sets that can be had by name, runs, sweeps, or registered models."""
    call("listing", what=what)


@app.command()
def clean(
    what: Annotated[list[str] | None, typer.Argument(help="checkpoints, runs, shards, cache, pulled, logs")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it only the sizes are shown")] = False,
) -> None:
    """Show what takes space, and remove what can be made again."""
    call("clean", what=what or [], yes=yes)
