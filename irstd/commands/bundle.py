"""`irstd bundle`: all that a paper's reader needs of a model, in one archive that is the same bytes whenever it is made."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from irstd import versioning
from irstd.commands import run_log
from irstd.commands.bundle_text import constraints, licences, readme, sums
from irstd.commands.show import result, say, size
from irstd.data.manifest import Manifest
from irstd.errors import InputError
from irstd.files import canonical_json, sha256_file, writing
from irstd.inference.package import Package
from irstd.workspace import Workspace

TEXTS = (".json", ".csv", ".md", ".txt", ".yaml", ".html", ".dvc", ".lock")
PACKED = (".safetensors", ".png", ".npy")
"""What compression makes no smaller to speak of."""
MOMENT = (1980, 1, 1, 0, 0, 0)

Members = dict[str, Path | bytes]


def run(workspace: Workspace, uri: str, out: Path, shards: str | None = None, force: bool = False) -> None:
    from irstd.registry import lineage, models, tracking

    if out.suffix != ".zip":
        raise InputError(f"--out {out}: name a file that ends in .zip")
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a file")
    if out.exists() and not force:
        raise InputError(f"--out {out}: is there already; name another, or replace it with --force")
    place = workspace.shards_in(shards)
    with tempfile.TemporaryDirectory(prefix="irstd-bundle-") as scratch:
        with tracking.answering(workspace):
            package = models.package(workspace, uri).check()
            version = models.resolve(workspace, uri) if uri.startswith("models:/") else None
            members, missing = _record(workspace, package, Path(scratch))
        members |= _package(package)
        chain = lineage.chain(package, version)
        members["lineage.txt"] = _text("".join(f"{what:<24} {value}\n" for what, value in chain))
        found, more = _data(workspace, package, place)
        members |= found
        missing += more
        members["LICENCES.md"] = _text(licences(package))
        hidden = [str(workspace.root), str(workspace.home), str(Path.home()), tempfile.gettempdir()]
        members = {name: _portable(name, member, hidden) for name, member in members.items()}
        members["README.md"] = _text(readme(package, version, sorted(members), missing))
        members["SHA256SUMS"] = _text(sums(members))
        write(out, members)
    for each in missing:
        say(f"not in it: {each}")
    say(f"{workspace.relative(out)}: {len(members)} files, {size(out.stat().st_size)}")
    result(model=uri, out=str(out), sha256=sha256_file(out), files=len(members), missing=missing)


def _package(package: Package) -> Members:
    """The package, and what trains it again."""
    content = package.content
    config = content["config"]
    if config["train"].get("init"):
        # Where the weights lay is this machine's; which they were is in the lineage.
        config = config | {"train": config["train"] | {"init": Path(config["train"]["init"]).name}}
        content = content | {"config": config}
    name = config["model"]["name"]
    recipe = f"# irstd train {name} --recipe recipe.yaml\n{yaml.safe_dump(config, sort_keys=False)}"
    found: Members = {
        f"model/{p.relative_to(package.folder).as_posix()}": p
        for p in package.folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and p.name != ".run"
    }
    import json

    if content is not package.content:
        found["model/package.json"] = _text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return found | {"recipe.yaml": _text(recipe)}


def _record(workspace: Workspace, package: Package, scratch: Path) -> tuple[Members, list[str]]:
    """History, versions, evaluations and seeds, from the run's folder and else from MLflow; and what is in neither."""
    from irstd.registry import tracking

    lineage = package.content["lineage"]
    run = lineage.get("run")
    if run is None:
        return {"constraints.txt": _text(constraints([], lineage.get("packages", {})))}, [
            "a history: the model was imported"
        ]
    members: Members = {}
    fetched = tracking.fetched(workspace, lineage.get("mlflow_run"), scratch)
    folder = workspace.runs / run
    local = {"results.csv": folder / "checkpoint" / "results.csv", "packages.txt": folder / run_log.PACKAGES}
    for name, path in local.items():
        if path := next((p for p in (path, scratch / name) if p.is_file()), None):
            members[name] = path
    installed = members.pop("packages.txt", None)
    lines = installed.read_text(encoding="utf-8").splitlines() if isinstance(installed, Path) else []
    members["constraints.txt"] = _text(constraints(lines, lineage.get("packages", {})))
    # What MLflow holds was attached when it was measured; what only lies here comes besides.
    for path in sorted(fetched):
        name = path.relative_to(scratch).as_posix()
        if name.startswith("evaluation-") and "/" in name:
            members[f"evaluations/{name.removeprefix('evaluation-')}"] = path
    for place in sorted((workspace.home / "evaluations").glob(f"{run}-*")):
        label = place.name.removeprefix(f"{run}-")
        for path in sorted(p for p in place.rglob("*") if p.is_file()):
            members.setdefault(f"evaluations/{label}/{path.relative_to(place).as_posix()}", path)
    if several := package.content["metrics"].get("seeds"):
        members["seeds.json"] = _text(canonical_json(several) + "\n")
        for seed, each in zip(several["seeds"], several["runs"], strict=True):
            history = workspace.runs / each / "checkpoint" / "results.csv"
            if history.is_file():
                members[f"seeds/{seed}/results.csv"] = history
    missing = (
        [] if "results.csv" in members else ["results.csv, the history: neither the run's folder nor MLflow has it"]
    )
    if not any(name.startswith("evaluations/") for name in members):
        missing.append("evaluations: none was made (irstd evaluate)")
    return members, missing


def _data(workspace: Workspace, package: Package, shards: Path) -> tuple[Members, list[str]]:
    """Manifests, split lists, and DVC's files that name the data; and what is not here."""
    lineage = package.content["lineage"]
    members: Members = {}
    missing: list[str] = []
    for name, digest in lineage.get("sets", {}).items():
        try:
            manifest = Manifest.read(shards / name)
        except InputError:
            manifest = None
        if manifest is None or manifest.digest != digest:
            missing.append(f"manifest and split lists of {name}: its shards here are not those of the model (--shards)")
            continue
        members[f"shards/{name}/manifest.json"] = shards / name / "manifest.json"
        for split, labels in manifest.content["splits"].items():
            members[f"splits/{name}/{split}.txt"] = _text("".join(f"{label}\n" for label in labels))
    md5, commit = lineage.get("data_md5"), lineage.get("git_commit")
    if md5 is not None and versioning.data_md5(workspace.root) == md5:
        members["data.dvc"] = workspace.root / "data.dvc"
    elif md5 is not None:
        members["data.dvc"] = _text(versioning.NAMED.format(md5))
    for name in ("dvc.lock", "dvc.yaml", "params.yaml"):
        text = versioning.file_at(workspace.root, commit, name) if commit else None
        if text is not None:
            members[name] = text
    return members, missing


def _portable(name: str, member: Path | bytes, hidden: list[str]) -> Path | bytes:
    """Texts without the paths of this machine. What only looks like the beginning of one, such as a sequence's name, stays."""
    if not name.endswith(TEXTS):
        return member
    data = member.read_bytes() if isinstance(member, Path) else member
    paths = [re.escape(path.encode()) for path in sorted(hidden, key=len, reverse=True) if len(path) > 1]
    return re.sub(rb"(?<![\w.-])(?:" + b"|".join(paths) + rb")(?![\w-]|\.\w)", b".", data) if paths else data


def _text(text: str) -> bytes:
    return text.encode()


def write(out: Path, members: Mapping[str, Path | bytes]) -> None:
    """The archive, under a temporary name until it is whole: in the order of names, with no time, owner or mode of its own."""
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{out.name}.", dir=out.parent, delete=False) as file:
            temporary = Path(file.name)
        try:
            with zipfile.ZipFile(temporary, "w") as archive:
                for name in sorted(members):
                    entry = zipfile.ZipInfo(f"{out.stem}/{name}", MOMENT)
                    entry.create_system, entry.external_attr = 3, 0o100644 << 16
                    entry.compress_type = zipfile.ZIP_STORED if name.endswith(PACKED) else zipfile.ZIP_DEFLATED
                    member = members[name]
                    if isinstance(member, bytes):
                        archive.writestr(entry, member)
                        continue
                    entry.file_size = member.stat().st_size
                    with member.open("rb") as source, archive.open(entry, "w") as target:
                        shutil.copyfileobj(source, target, 2**20)
            temporary.chmod(0o644)
            temporary.replace(out)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
