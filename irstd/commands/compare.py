"""`irstd compare`: evaluations beside each other and beside published tables, as Markdown, LaTeX and CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from irstd.commands.show import result, say
from irstd.comparison import published
from irstd.comparison.rows import NUMBERS, Row, arranged, placed
from irstd.comparison.typeset import FORMATS
from irstd.errors import InputError, nearest
from irstd.files import read_json, write_atomic, writing
from irstd.workspace import Workspace

PUBLISHED = Path("benchmarks/published")
EVALUATION = "report.json"


def run(
    workspace: Workspace, what: list[str], table: str | None, split: str, format: str | None, out: Path | None
) -> None:
    """`what`: evaluation files or folders, model URIs, package folders."""
    if format is not None and format not in FORMATS:
        raise InputError(f"--format {format}: unknown{nearest(format, FORMATS)}; known: {', '.join(FORMATS)}")
    if not what and table is None:
        known = ", ".join(published.names(workspace.root / PUBLISHED)) or "none"
        raise InputError(f"nothing to compare: name evaluations, or a published table with --table ({known})")
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    beside = published.read(table, workspace.root / PUBLISHED) if table is not None else []
    rows = []
    evaluations = [evaluation(workspace, each, split) for each in what]
    for label, found in zip(_labels(what, [found.get("name") for found in evaluations]), evaluations, strict=True):
        rows += placed(rows_of(found, label), beside)
    tables = arranged([*beside, *rows])
    write, _ = FORMATS[format or "markdown"]
    say(write(tables).rstrip("\n"))
    if out is not None:
        for write, name in FORMATS.values() if format is None else [FORMATS[format]]:
            with writing(out / name):
                write_atomic(out / name, write(tables))
    result(tables=len(tables), rows=len(rows), published=len(beside), out=None if out is None else str(out))


def evaluation(workspace: Workspace, what: str, split: str) -> dict[str, Any]:
    """What `irstd evaluate` found: from a file or folder that it wrote, or from the model's run in MLflow."""
    path = Path(what)
    if "://" not in what and not what.startswith("models:") and not (path / "package.json").is_file():
        if path.is_dir():
            path = path / EVALUATION
        if not path.is_file():
            raise InputError(
                f"{what}: no evaluation here: name what irstd evaluate --out or --report wrote, a package, or models:/NAME@ALIAS"
            )
        try:
            return checked(read_json(path), str(path))
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path}: is no evaluation ({error}): name a file that irstd evaluate --out wrote"
            ) from None
    return logged(workspace, what, split)


def logged(workspace: Workspace, uri: str, split: str) -> dict[str, Any]:
    """The evaluation on `split` that a model's run carries; that of the model's own shards where there are several."""
    import json

    from irstd.registry import models, tracking

    with tracking.answering(workspace):
        run_id = models.package(workspace, uri).content["lineage"].get("mlflow_run")
        texts = tracking.texts(workspace, run_id, "evaluation-") if run_id else {}
    names = [name for name in texts if name == f"evaluation-{split}.json" or name.startswith(f"evaluation-{split}-")]
    if not names:
        there = f"; there are: {', '.join(texts)}" if texts else ""
        raise InputError(
            f"{uri}: its run holds no evaluation on {split!r}{there}: run irstd evaluate {uri} --split {split}"
        )
    own = f"evaluation-{split}.json"
    if own not in names and len(names) > 1:
        raise InputError(f"{uri}: was evaluated on several sets of other shards ({', '.join(names)}): name their files")
    name = own if own in names else names[0]
    return checked(json.loads(texts[name]), f"{uri}, {name}")


def checked(found: Any, where: str) -> dict[str, Any]:
    """`InputError` unless this is what `irstd evaluate` writes."""
    wanted = {"split", "digests", "chosen", "protocols"}
    good = isinstance(found, dict) and wanted <= {*found} and isinstance(found["protocols"], list)
    if not good or not all(isinstance(row, dict) and "protocol" in row for row in found["protocols"]):
        raise InputError(f"{where}: is no evaluation: name what irstd evaluate --out wrote")
    return found


def rows_of(found: dict[str, Any], label: str) -> list[Row]:
    """The rows of an evaluation: the model under each protocol, and the baselines beside it."""
    shards = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(found["digests"].items()))
    about = {
        "set": ", ".join(sorted(found["digests"])),
        "split": found["split"],
        "selection": found["chosen"],
        "shards": shards,
    }
    rows = [_row(numbers, label, about) for numbers in found["protocols"]]
    for baseline in found.get("baselines", []):
        for numbers in baseline.get("protocols", []):
            method = f"{baseline['method']} (at the rate of {label})"
            rows.append(_row(numbers, method, about | {"reference": True}))
    return rows


def _row(numbers: dict[str, Any], method: str, about: dict[str, Any]) -> Row:
    return Row(
        method=method,
        values={name: numbers[name] for name in NUMBERS if name in numbers},
        intervals={name: tuple(pair) for name, pair in (numbers.get("intervals") or {}).items() if pair},
        grid=str(numbers.get("grid") or "native"),
        protocol=numbers["protocol"],
        images=numbers.get("images", numbers.get("frames")),
        targets=numbers.get("targets"),
        threshold=numbers.get("threshold"),
        **about,
    )


def _labels(what: list[str], names: list[str | None]) -> list[str]:
    """The evaluations' own names, else a file's stem, a folder's name, or as given; in full where two would be the same."""
    short = [
        name or (each if ":" in each else Path(each).name.removesuffix(".json") or each)
        for each, name in zip(what, names, strict=True)
    ]
    return [
        (f"{name} ({full})" if name != full else name) if short.count(name) > 1 else name
        for full, name in zip(what, short, strict=True)
    ]
