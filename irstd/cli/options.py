"""What several commands take, and how all of them reach their work."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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


def call(module: str, function: str | None = None, /, **arguments: Any) -> None:
    """Run irstd.commands.<module>.<function> in the workspace; its return value is the exit status (None: 0)."""
    import importlib

    from irstd.workspace import Workspace

    found = importlib.import_module(f"irstd.commands.{module}")
    status = getattr(found, function or "run")(Workspace.find().enter(), **arguments)
    if status:
        raise typer.Exit(status)
