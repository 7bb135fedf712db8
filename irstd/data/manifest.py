"""The manifest of a set's shards: what lies where, and the digest that names it.

`shards/<set>/manifest.json` holds, for every shard, its samples with the byte range of each array, so that a reader can
map a window without unpacking a tar. The digest names the content alone: the same data gives the same digest on every
machine, wherever the shards lie and however they were built.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from irstd.data.gradient import GradientSpec
from irstd.errors import InputError, nearest
from irstd.files import canonical_json, read_json, sha256_text, write_json

SCHEMA = 1
SPLITS = ("train", "val", "gate", "test")


@dataclass(frozen=True)
class Manifest:
    """One set's manifest. `folder` is where its tars lie; `content` is the JSON as documented in docs/FORMATS.md."""

    folder: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        path = folder / "manifest.json"
        try:
            content = read_json(path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; build the shards first (irstd shard)") from None
        except ValueError as error:
            raise InputError(f"{path}: damaged ({error}); build the shards again (irstd shard)") from None
        if not isinstance(content, dict):
            raise InputError(f"{path}: damaged (not a mapping); build the shards again (irstd shard)")
        if content.get("schema") != SCHEMA:
            raise InputError(f"{path}: schema {content.get('schema')}, this version reads {SCHEMA}; run irstd shard")
        try:
            same = content["digest"] == digest(content)
        except (KeyError, TypeError, AttributeError):
            same = False
        if not same:
            raise InputError(f"{path}: its digest does not match its content; build the shards again (irstd shard)")
        if content["gradient"]:
            try:
                GradientSpec.from_dict(content["gradient"])
            except InputError as error:
                raise InputError(f"{path}: {error} (irstd shard)") from None
        return cls(folder, content)

    @property
    def set(self) -> str:
        return self.content["set"]

    @property
    def digest(self) -> str:
        return self.content["digest"]

    @property
    def frames(self) -> int:
        """T: the longest clip."""
        return self.content["frames"]

    @property
    def gradient(self) -> dict[str, Any] | None:
        return self.content["gradient"]

    @cached_property
    def bit_depth(self) -> int:
        return max((s["bit_depth"] for s in self.content["sequences"].values()), default=8)

    def shards(self, split: str) -> list[dict[str, Any]]:
        return [shard for shard in self.content["shards"] if shard["split"] == split]

    def count(self, split: str, what: str) -> int:
        return self.content["counts"].get(split, {}).get(what, 0)


def pseudo_masks(manifests: Iterable[Manifest], split: str) -> str | None:
    """How the masks of `split` were made where any of them is a pseudo-mask (see `irstd.data.derive`), else None."""
    found = {
        method
        for manifest in manifests
        for shard in manifest.shards(split)
        for sample in shard["samples"]
        if (method := sample.get("derived", {}).get("masks"))
    }
    return ", ".join(sorted(found)) or None


def digest(content: dict[str, Any]) -> str:
    """sha256 of what makes the content of the shards: not of file names, nor of how samples are grouped into tars."""
    samples = {s["key"]: s["sha256"] for shard in content["shards"] for s in shard["samples"]}
    return sha256_text(
        canonical_json(
            {
                "schema": content["schema"],
                "gradient": content["gradient"],
                "frames": content["frames"],
                "chunk": content["chunk"],
                "splits": content["splits"],
                "samples": samples,
            }
        )
    )


def write_index(shards: Path, names: Iterable[str]) -> None:
    """Write `shards`/manifest.json: the sets of `names` that lie there, with their digests. Left alone where it says so."""
    sets = {}
    for name in sorted(names):
        if (shards / name / "manifest.json").is_file():
            content = read_json(shards / name / "manifest.json")
            sets[name] = {
                "manifest": f"{name}/manifest.json",
                "digest": content["digest"],
                "counts": content["counts"],
            }
    index = {"schema": SCHEMA, "sets": sets}
    try:
        if read_json(shards / "manifest.json") == index:
            return
    except (OSError, ValueError):
        pass  # none yet, or damaged
    write_json(shards / "manifest.json", index)


def read_all(shards: Path, sets: list[str] | None = None) -> list[Manifest]:
    """The manifests of the chosen sets (all where `sets` is empty), sorted by name."""
    path = shards / "manifest.json"
    if not path.is_file():
        raise InputError(f"{shards}: no shards here; build them first (irstd shard)")
    try:
        known = read_json(path)["sets"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); build the shards again (irstd shard)") from None
    chosen = sorted(set(sets or known))
    for name in chosen:
        if name not in known:
            have = ", ".join(sorted(known)) or "none"
            raise InputError(f"data.sets: no shards of a set {name!r}{nearest(name, known)}; there are: {have}")
    if not chosen:
        raise InputError(f"{path}: lists no set; ingest recordings first (irstd ingest SOURCE --name NAME)")
    return [Manifest.read(shards / name) for name in chosen]
