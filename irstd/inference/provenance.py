"""What a package notes of the shards that its model learned from: groups, digests of splits, licences, kinds of frames.

All of it comes from manifests, so that it holds wherever the shards lie.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from irstd.files import canonical_json, read_json, sha256_text

SPLITS = ("train", "val", "gate", "test")


def noted(manifests: Iterable[Any]) -> dict[str, Any]:
    """`{"groups": {set: {split: [group]}}, "splits": {set: {split: digest}}}`, as a lineage holds them."""
    manifests = list(manifests)
    return {
        "groups": {m.set: groups(m.content) for m in manifests},
        "splits": {m.set: {split: split_digest(m.content, split) for split in SPLITS} for m in manifests},
    }


def groups(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """The groups of each split of a set, by the content of its manifest.

    Where a set is cut into stretches (`split_by: block`), a stretch is its own group: its recording is in all splits.
    """
    whole = content.get("split_by") != "block"
    return {
        split: sorted({content["sequences"][label]["group"] if whole else label for label in content["splits"][split]})
        for split in SPLITS
    }


def group_of(manifests: Iterable[Any]) -> dict[str, str]:
    """The group of each "<set>/<sequence>", as resampling takes it."""
    return {
        f"{m.set}/{name}": f"{m.set}/{entry['group']}"
        for m in manifests
        for name, entry in m.content["sequences"].items()
    }


def split_digest(content: Mapping[str, Any], split: str) -> str:
    """sha256 of what is in one split of a set: it stays when the others grow."""
    samples = {
        s["key"]: s["sha256"] for shard in content["shards"] if shard["split"] == split for s in shard["samples"]
    }
    about = {name: content[name] for name in ("schema", "gradient", "frames", "chunk")}
    return sha256_text(canonical_json(about | {"split": content["splits"][split], "samples": samples}))


def leaked(
    learned: Mapping[str, Iterable[str]], present: Iterable[Any], splits: Collection[str] = ("gate", "test")
) -> list[str]:
    """`set/group` of every group in one of `splits` of the `present` manifests that is among `learned`, groups by set.

    A set may have been cut into stretches when the model learned from it, and be whole now, or the other way round.
    """
    found = set()
    for m in present:
        sequences = m.content["sequences"]
        seen = [_stretch(name) for name in learned.get(m.set, ())]
        # Where other sequences of a set were cut, a whole one goes by its own name.
        whole = {name for name, _, stop in seen if stop == math.inf}
        whole |= {sequences[name]["group"] for name in whole if name in sequences}
        parts = [part for part in seen if part[2] < math.inf]
        groups_cut = {sequences[name]["group"] for name, _, _ in parts if name in sequences}
        for label in {label for split in splits for label in m.content["splits"][split]}:
            name, start, stop = _stretch(label)
            group = sequences[name]["group"]
            same = any(name == other and max(start, a) < min(stop, b) for other, a, b in parts)
            if same or {name, group} & whole or (stop == math.inf and group in groups_cut):
                found.add(f"{m.set}/{label if m.content.get('split_by') == 'block' else group}")
    return sorted(found)


def _stretch(label: str) -> tuple[str, int, float]:
    """Sequence, first frame and the one after the last of `name[0:40]`; a whole sequence has no end."""
    match = re.fullmatch(r"(.+)\[(\d+):(\d+)\]", label)
    return (match[1], int(match[2]), int(match[3])) if match else (label, 0, math.inf)


def learned(content: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """The groups by set that the model of a package learned from, those of the weights that it started from among them; None
    where the package does not say."""
    noted = content["lineage"].get("groups")
    if noted is None:
        return None
    parts = content["config"]["data"].get("train_on", "train").split("+")
    own = {name: [group for part in parts for group in splits[part]] for name, splits in noted.items()}
    before = content["lineage"].get("init_from", {}).get("learned", {})
    return own | {name: sorted({*own.get(name, ()), *there}) for name, there in before.items()}


def untold(content: Mapping[str, Any]) -> bool:
    """Whether the model of a package started, itself or at one more remove, from weights whose own training is not known."""
    start = content["lineage"].get("init_from", {})
    return "init" in content["lineage"] and ("learned" not in start or "untold" in start)


def started(uri: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that starts from the weights of a package notes of it: {"uri", "run", "learned", "untold"}, what is known."""
    run, groups = content["lineage"].get("run"), learned(content)
    found = {"uri": uri, "run": run, "learned": groups, "untold": untold(content) or None}
    return {name: value for name, value in found.items() if value is not None}


def origin(weights: Path) -> dict[str, Any] | None:
    """`started` of the package whose weights are in the file `weights`; None where it is in none."""
    try:
        content = read_json(weights.parent / "package.json") if weights.name == "weights.safetensors" else None
    except (OSError, ValueError):
        return None
    return content and started(str(weights.parent), content)


def inputs(manifests: Iterable[Any], frames: int) -> dict[str, Any] | None:
    """What the model saw: T, bit depths, sizes (height, width); None where it saw no shards of ours."""
    entries = [entry for m in manifests for entry in m.content["sequences"].values()]
    if not entries:
        return None
    return {
        "frames": frames,
        "bit_depths": sorted({entry["bit_depth"] for entry in entries}),
        "sizes": [list(size) for size in sorted({(entry["height"], entry["width"]) for entry in entries})],
    }


def sets(manifests: Iterable[Any]) -> list[dict[str, Any]]:
    """Of each set: name, digest, licences, and sequences, groups and labelled frames by split."""
    found = []
    for m in manifests:
        by_split = groups(m.content)
        found.append(
            {
                "set": m.set,
                "digest": m.digest,
                "licences": sorted({str(e.get("licence") or "not stated") for e in m.content["sequences"].values()}),
                "split_by": m.content.get("split_by", "group"),
                "splits": {
                    split: {
                        "groups": len(by_split[split]),
                        **{k: m.count(split, k) for k in ("sequences", "labelled", "targets")},
                    }
                    for split in SPLITS
                },
            }
        )
    return found
