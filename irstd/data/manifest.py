"""The manifest of a set's shards: what lies where, and the digest that names it.

`shards/<set>/manifest.json` holds, for every shard, its samples with the byte range of each array, so that a reader can
map a window without unpacking a tar. The digest names the content alone: the same data gives the same digest on every
machine, wherever the shards lie and however they were built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from irstd.data.gradient import GradientSpec
from irstd.data.remote import Cache, Store, is_remote
from irstd.errors import InputError, nearest
from irstd.files import canonical_json, read_json, sha256_text, write_json

SCHEMA = 1
SPLITS = ("train", "val", "gate", "test")


@dataclass(frozen=True)
class Manifest:
    """One set's manifest. `content` is the JSON as documented in docs/FORMATS.md.

    The tars lie in `folder`, or, where there is a `store`, in the store's folder of the set's name.
    """

    folder: Path
    content: dict[str, Any]
    store: Store | None = None

    @classmethod
    def read(cls, folder: Path, store: Store | None = None) -> Manifest:
        """The manifest in `folder`, or that of the store's set `folder`. `InputError` where it is none."""
        path: Path | str = folder / "manifest.json"
        try:
            if store is not None:
                text = store.read(str(path), _is_json)
                path, content = f"{store.url}/{path}", json.loads(text)
            else:
                content = read_json(folder / "manifest.json")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; build the shards first (irstd shard)") from None
        except ValueError as error:
            raise InputError(f"{path}: damaged ({error}); build the shards again (irstd shard)") from None
        if not isinstance(content, dict):
            raise InputError(f"{path}: damaged (not a mapping); build the shards again (irstd shard)")
        if content.get("schema") != SCHEMA:
            raise InputError(f"{path}: schema {content.get('schema')}, this version reads {SCHEMA}; run irstd shard")
        try:
            same = content == sealed(content)
        except (KeyError, TypeError, AttributeError, ValueError):
            same = False
        if not same:
            raise InputError(f"{path}: its digest does not match its content; build the shards again (irstd shard)")
        if content["gradient"]:
            try:
                GradientSpec.from_dict(content["gradient"])
            except InputError as error:
                raise InputError(f"{path}: {error} (irstd shard)") from None
        return cls(folder, content, store)

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
        """Those of a split, or of several, "train+val"."""
        return [shard for shard in self.content["shards"] if shard["split"] in split.split("+")]

    def where(self, shard: dict[str, Any]) -> Path | str:
        """A tar's path, or its URL."""
        return self.folder / shard["file"] if self.store is None else f"{self.store.url}/{self.set}/{shard['file']}"

    def opener(self, shard: dict[str, Any]) -> Callable[[], BinaryIO]:
        """What opens a tar for reading; one on a store is fetched then."""
        if self.store is None:
            return partial(open, self.folder / shard["file"], "rb")
        return partial(self.store.open, f"{self.set}/{shard['file']}", shard["sha256"])

    def without_shards(self) -> Manifest:
        """The same without the entries of its samples, which take most of its memory."""
        return replace(self, content={name: value for name, value in self.content.items() if name != "shards"})

    def count(self, split: str, what: str) -> int:
        return sum(self.content["counts"].get(name, {}).get(what, 0) for name in split.split("+"))


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


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with its digest, and with `sha256` over all of it: the digest leaves out where arrays lie and how they are
    labelled, counted and scaled, and what is read by them must not change unseen."""
    found = {k: v for k, v in content.items() if k != "sha256"} | {"digest": digest(content)}
    return found | {"sha256": sha256_text(canonical_json(found))}


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


def read_all(shards: str | Path, sets: list[str] | None = None, cache: Cache | None = None) -> list[Manifest]:
    """The manifests of the chosen sets (all where `sets` is empty), sorted by name. `shards`: a folder, or its URL."""
    if isinstance(shards, str) and shards.startswith("file://"):
        shards = unquote(urlsplit(shards).path)
    store = Store(str(shards), cache) if is_remote(shards) else None
    folder = Path() if store else Path(shards)
    path = f"{store.url}/manifest.json" if store else folder / "manifest.json"
    try:
        index = json.loads(store.read("manifest.json", _is_json)) if store else read_json(folder / "manifest.json")
        of_one = "sequences" in index
        known = {} if of_one else index["sets"]
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{shards}: no shards here; build them first (irstd shard)") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); build the shards again (irstd shard)") from None
    if of_one:
        raise InputError(f"{shards}: is the folder of one set; give the one above it, and choose with data.sets=[...]")
    chosen = sorted(set(sets or known))
    for name in chosen:
        if name not in known:
            have = ", ".join(sorted(known)) or "none"
            raise InputError(f"data.sets: no shards of a set {name!r}{nearest(name, known)}; there are: {have}")
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            raise InputError(f"{path}: {name!r} is no name of a set; build the shards again (irstd shard)")
    if not chosen:
        raise InputError(f"{path}: lists no set; ingest recordings first (irstd ingest SOURCE --name NAME)")
    return [Manifest.read(folder / name, store) for name in chosen]


def _is_json(path: Path) -> bool:
    """Whether a fetched manifest came whole."""
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
