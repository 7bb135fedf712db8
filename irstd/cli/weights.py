"""Weights that others have published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irstd.cli.options import Overrides, call

app = typer.Typer(help="Weights that others have published.", no_args_is_help=True)


@app.command("import")
def weights_import(
    file: Annotated[Path, typer.Argument(help="the authors' GGL-Net, or YOLOX-s: tensors, nothing is unpickled")],
    kind: Annotated[str, typer.Option("--as", help="ggl-net or bp-fpn")],
    out: Annotated[
        Path, typer.Option("--out", help="ggl-net: a folder, the model package; bp-fpn: a file, for train.init")
    ],
    overrides: Overrides = None,
) -> None:
    """Turn released weights into a model package, or into a start for training (docs/MODELS.md)."""
    call("weights", "import_", file=file, kind=kind, out=out, overrides=overrides or [])
