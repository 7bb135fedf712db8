"""`irstd export`: a trained network for other runtimes, or a set of data/ in the layout of other tools."""

from __future__ import annotations

import tempfile
from pathlib import Path

from irstd.commands import export_set
from irstd.commands.show import result, say, size
from irstd.errors import InputError, nearest
from irstd.workspace import Workspace

FORMATS = ("onnx", "pt2")


def run(workspace: Workspace, what: str, out: Path | None, format: str | None, to: str | None, attach: bool) -> None:
    """`to` or `attach`: `what` is a model; else a set."""
    if to is not None or attach:
        if format is not None:
            raise InputError("--format: is of a set; a model is written --to onnx or --to pt2")
        model(workspace, what, out, to, attach)
        return
    if "://" in what or what.startswith("models:") or Path(what, "package.json").is_file():
        raise InputError(f"{what}: is a model; say --to onnx or --to pt2")
    if out is None:
        raise InputError("--out: name a new folder")
    export_set.run(workspace, what, format or "coco", out)


def model(workspace: Workspace, uri: str, out: Path | None, to: str | None, attach: bool) -> None:
    """Write one file, or put it beside the version's files in the registry, or both."""
    to = to or (out.suffix.removeprefix(".") if out is not None else None)
    if to not in FORMATS:
        raise InputError(f"--to {to or ''}: say onnx or pt2{nearest(to or '', FORMATS)}")
    if out is None and not attach:
        raise InputError(f"--out: name a new file, such as model.{to}; or --attach it to a registered version")
    if out is not None:
        if out.suffix != f".{to}":
            raise InputError(f"--out {out}: name a file that ends in .{to}")
        if out.exists():
            raise InputError(f"--out {out}: is there already; name a new file")
    if attach and not uri.startswith("models:/"):
        raise InputError(f"{uri}: --attach is for a registered version, such as models:/ggl-net@champion")
    from irstd.export import graph, metadata, onnx, pt2
    from irstd.inference.package import Package
    from irstd.registry import exports, models, tracking

    if to == "onnx":
        onnx.require()
    named, version = uri, None
    if uri.startswith("models:"):
        with tracking.answering(workspace):
            version = models.resolve(workspace, uri)
            named = f"models:/{version.name}/{version.version}"
            package = models.package(workspace, named)
    else:
        package = Package.read(package_folder(uri))
    say(f"export {named}: traced" if to == "onnx" else f"export {named}: exported, which takes about a quarter minute")
    network = graph.graph_of(package.model(), named)
    about = metadata.of(package, network, named)
    with tempfile.TemporaryDirectory(prefix="irstd-export-") as scratch:
        file = out or Path(scratch) / f"model.{to}"
        apart = (onnx if to == "onnx" else pt2).save(network, file, about, named)
        sizes = ", ".join(f"{batch}x{height}x{width}" for batch, height, width in graph.SIZES)
        say(f"largest difference from the network {apart:.2g} (goal {graph.TOLERANCE:g}), at {sizes}")
        if about["resize"] != "native":
            say(f"the graph takes frames that are resized already (data.resize={about['resize']})")
        if out is not None:
            say(f"{out}: {size(out.stat().st_size)}")
        place = None
        if attach:
            with tracking.answering(workspace):
                place = exports.attach(workspace, version, file, to)
            say(f"attached: {place}")
    result(model=named, file=str(out) if out else None, artifact=place, difference=apart)


def package_folder(place: str) -> Path:
    """The folder of the model package that `place` means: its own, or that of a run, of its checkpoint or of its best weights."""
    folder = Path(place)
    if folder.is_file():
        folder = folder.parent
    for found in (folder, folder / "package", folder.parent / "package"):
        if (found / "package.json").is_file():
            return found
    if (folder / "state.json").is_file() or (folder / "checkpoint").is_dir() or (folder / "checkpoints").is_dir():
        raise InputError(f"{place}: the run has no model package yet; the same irstd train command finishes it")
    raise InputError(
        f"{place}: no model here; give models:/NAME@ALIAS, or the folder of a model package, of a run or of its checkpoint"
    )
