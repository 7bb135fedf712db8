"""The texts of a bundle that are made for it: what it is and how to check it, licences, versions, hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from irstd.commands.show import boxes_scored, measured_as, scored
from irstd.files import sha256_file
from irstd.inference import choice, seeds
from irstd.inference.package import Package
from irstd.registry.lineage import where

OWN = ("irstd",)


def constraints(installed: Iterable[str], recorded: Mapping[str, str]) -> str:
    """A constraint file for pip: every version that was installed, else those of the lineage. The builds of torch that an
    index offers differ by machine, so labels of builds are left out."""
    pins = dict(line.split("==", 1) for line in installed if "==" in line)
    pins |= {name: version for name, version in recorded.items() if name != "python"}
    lines = [f"{name}=={version.split('+')[0]}" for name, version in pins.items() if name not in OWN]
    python = f"# Python {recorded['python']}\n" if "python" in recorded else ""
    return python + "".join(f"{line}\n" for line in sorted(lines, key=str.lower))


def licences(package: Package) -> str:
    """Of the data that the model learned from, as their sources state them, with the citation of public sets."""
    from irstd.data.public import records

    lines = ["# Licences", "", "The data are not in this archive. What their sources state:", ""]
    for entry in package.content.get("data") or []:
        lines.append(f"- **{entry['set']}** ({entry['digest'][:12]}): {'; '.join(entry['licences'])}")
        if known := records.find(entry["set"]):
            lines.append(f"  {known.citation}")
    if len(lines) == 4:
        lines.append("- not recorded")
    return "\n".join(lines) + "\n\nThe code of irstd is under Apache-2.0.\n"


def sums(members: Mapping[str, Path | bytes]) -> str:
    """As `sha256sum -c` reads them."""
    found = {
        name: hashlib.sha256(member).hexdigest() if isinstance(member, bytes) else sha256_file(member)
        for name, member in members.items()
    }
    return "".join(f"{found[name]}  {name}\n" for name in sorted(found))


def readme(package: Package, version: Any | None, names: list[str], missing: list[str]) -> str:
    content, lineage = package.content, package.content["lineage"]
    name = content["config"]["model"]["name"]
    title = f"{version.name} version {version.version}" if version is not None else name
    lines = [
        f"# {title}",
        "",
        f"A model for small targets in infrared recordings (`{name}`), and its whole record.",
        "",
    ]
    lines += ["| file | what it is |", "| --- | --- |"]
    for part, about in PARTS.items():
        if any(each == part or each.startswith(f"{part}/") for each in names):
            lines.append(f"| `{part}` | {about} |")
    if missing:
        lines += ["", "Not here:", "", *(f"- {each}" for each in missing)]
    lines += ["", "## Check it", "", "```", "sha256sum -c SHA256SUMS", "```", "", "## Numbers", "", *_numbers(content)]
    lines += ["", "## Use it", "", "With irstd installed:", "", "```"]
    lines += ["irstd detect RECORDING --model model --out found", "irstd evaluate model --split test", "```"]
    lines += ["", "## Train it again", ""]
    if "source" in lineage:
        return "\n".join([*lines, "It was imported, and trained by others."]) + "\n"
    places = lineage.get("workers") or []
    workers = f" --workers {places[-1]['workers']}" if places else ""
    commit = lineage.get("git_commit") or "COMMIT"
    lines += [
        "```",
        f"git checkout {commit}           # of irstd",
        "pip install -c constraints.txt -e .",
        "cp data.dvc . && dvc pull data.dvc                 # or: irstd ingest your copy of the sets",
        "irstd shard                                        # digests: shards/*/manifest.json",
        f"irstd train {name} --recipe recipe.yaml{workers}",
        "```",
        "",
        "In a clone that has the version in its registry `irstd reproduce MODEL_URI` does all of it and compares. Equal bits are",
        "promised for the same versions, number of workers and kind of device:",
        "",
        *(f"- {where(place)}" for place in places),
        f"- weights sha256 `{lineage['weights_sha256']}`, seed {lineage['seed']}",
    ]
    if lineage.get("git_dirty"):
        lines.append("- the working tree had changes that were not committed: the commit is not all of its code")
    if "init" in lineage:
        lines.append(f"- it started from weights with sha256 `{lineage['init']}`, which are not in this archive")
    return "\n".join(lines) + "\n"


def _numbers(content: Mapping[str, Any]) -> list[str]:
    metrics = content["metrics"]
    if not metrics.get("values"):
        return ["None were measured in training."]
    values = metrics["values"]
    text = scored(values) if "fa" in values else boxes_scored(values)
    names = ("protocol", "grid", "threshold", "split", "digests", "chosen")
    about = measured_as(*(metrics[name] for name in names))
    lines = [f"{text} ({about}). Those of other splits are in `evaluations/`."]
    if chosen := content.get("threshold_chosen"):
        lines += ["", f"Threshold: {choice.phrase(chosen)}."]
    if several := metrics.get("seeds"):
        lines += [
            "",
            f"Over {several['n']} seeds, mean and deviation (n - 1): {seeds.phrase(several)}; this is {several['registered']}.",
        ]
    return lines


PARTS = {
    "model": "the package: weights as safetensors, package.json, the model card; code/ of a network that is not irstd's",
    "recipe.yaml": "the configuration that trains it again",
    "constraints.txt": "versions of all packages, for pip install -c",
    "results.csv": "losses and val of every validation",
    "seeds.json": "val of all seeds of this training",
    "seeds": "losses and val of the other seeds",
    "evaluations": "numbers with intervals, curves, rows of each frame and sequence",
    "splits": "which sequences were in which split",
    "shards": "manifests: hashes of every sample that it saw",
    "data.dvc": "names the version of the recordings",
    "dvc.lock": "hashes of the stages of DVC at the commit",
    "dvc.yaml": "those stages",
    "params.yaml": "options of the shards at the commit",
    "lineage.txt": "the chain from the model to its recordings",
    "LICENCES.md": "of the data",
    "SHA256SUMS": "of every file",
}
