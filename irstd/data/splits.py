"""Which split a sequence belongs to: train, val, gate or test, by groups that never move.

`splits.json` of a set records what was once given; as the data grow, only new groups are assigned. A group goes as a
whole, so frames of one scene are never on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irstd.config import SplitConfig
from irstd.errors import InputError
from irstd.files import read_json

if TYPE_CHECKING:
    from irstd.data.sequence import Sequence

SCHEMA = 1
FILE = "splits.json"
SPLITS = ("train", "val", "gate", "test")
UNLABELLED = "unlabelled"  # no labelled frame: kept, never trained on or scored
UNLISTED = "unlisted"  # a published list does not name it
LEAST_GROUPS = 3
# In this order splits get a group of their own where there are few.
_FIRST = ("train", "val", "test", "gate")


def empty(method: str = "balanced", shares: SplitConfig | None = None) -> dict[str, Any]:
    """The content of a `splits.json` without groups."""
    return {"schema": SCHEMA, "method": method, "shares": _shares(shares or SplitConfig()), "groups": {}}


def read(folder: Path) -> dict[str, Any]:
    """The content of `folder`/splits.json; without groups where there is no such file."""
    path = folder / FILE
    if not path.is_file():
        return empty()
    try:
        tree = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}): restore it from the version before") from None
    if not isinstance(tree, dict) or tree.get("schema") != SCHEMA or not isinstance(tree.get("groups"), dict):
        raise InputError(f"{path}: not of schema {SCHEMA}: restore it from the version before")
    for group, split in tree["groups"].items():
        if split not in (*SPLITS, UNLABELLED, UNLISTED):
            raise InputError(
                f"{path}: group {group!r} is in {split!r}, which is no split: restore it from the version before"
            )
    return tree


def is_published(splits: Mapping[str, Any]) -> bool:
    """Whether the content of `splits.json` comes from a published list."""
    return str(splits.get("method", "")).startswith("published:")


def split_of(sequence: Sequence, splits: Mapping[str, Any]) -> str | None:
    """The split of a sequence by the content of `splits.json`; None where its group has none (too few groups)."""
    if not sequence.labelled_frames:
        return UNLABELLED
    return splits["groups"].get(sequence.group)


def least(shares: SplitConfig) -> list[str]:
    """The splits that need a group each before any is assigned: train, val and test, those of them with a share."""
    share = _shares(shares)
    return [split for split in _FIRST if share[split] > 0][:LEAST_GROUPS]


def assign(
    existing: Mapping[str, str],
    groups: Mapping[str, int],
    shares: SplitConfig,
    with_targets: Collection[str] | None = None,
) -> dict[str, str]:
    """Give each new group a split; returns the complete {group: split}, old groups unchanged.

    `groups`: labelled frames of every group of the set, old and new; `with_targets`: the groups that hold any target
    (default: all). Deterministic, and the same for any order of `groups`. Frames with and without targets are balanced
    against the shares each for themselves, targets first. From four labelled groups on every split with a share has
    one; three give train, val and test. With fewer than `least`, nothing is assigned: the next call, with more groups,
    does it.
    """
    found = dict(existing)
    labelled = {group: frames for group, frames in groups.items() if frames > 0}
    share = _shares(shares)
    active = [split for split in _FIRST if share[split] > 0]
    if len(labelled) < len(least(shares)):
        return found
    wanted = active[: len(labelled)]
    targets = set(labelled if with_targets is None else with_targets) & set(labelled)
    for kind in (targets, set(labelled) - targets):
        total = sum(labelled[group] for group in kind)
        room = {split: share[split] * total for split in active}
        for group in kind & set(existing):
            if existing[group] in room:
                room[existing[group]] -= labelled[group]
        # Largest first: the small ones even out what is left.
        new = sorted(kind - set(existing), key=lambda group: (-labelled[group], _hash(group)))
        # A split counts as served by targets in the first round, by anything in the second.
        served = {found[group] for group in (targets if kind is targets else labelled) if group in found}
        for index, group in enumerate(new):
            lacking = [split for split in wanted if split not in served]
            remaining = len(new) - index
            if remaining < len(lacking):  # not one for each: in order of need
                split = lacking[0]
            else:
                choice = lacking if remaining == len(lacking) else active
                split = max(choice, key=lambda each: (room[each], -_FIRST.index(each)))
            found[group] = split
            room[split] -= labelled[group]
            served.add(split)
    return found


def published(
    existing: Mapping[str, str], listed: Mapping[str, str], shares: SplitConfig
) -> tuple[dict[str, str], float | None]:
    """Splits as a published list has them: {group: split} for `listed`, joined to `existing`.

    Where the list has no val, a share of its train groups becomes val: train and val of `shares` in proportion, chosen
    by a hash of the group's name. Returns the complete {group: split} and that share (None where the list has a val).
    `InputError` where a group would move.
    """
    found = dict(existing)
    rate = None
    wanted = dict(listed)
    if "val" not in listed.values() and "train" in listed.values() and shares.train + shares.val > 0:
        rate = shares.val / (shares.train + shares.val)
        train = sorted((group for group, split in listed.items() if split == "train"), key=_hash)
        have = sum(existing.get(group) == "val" for group in train)
        new = [group for group in train if group not in existing]
        take = new[: max(0, round(rate * len(train)) - have)]
        wanted |= {group: "val" for group in take}
        wanted |= {group: "val" for group in train if existing.get(group) == "val"}
    for group, split in wanted.items():
        if found.setdefault(group, split) != split:
            raise InputError(
                f"group {group!r} is in {found[group]!r} and would move to {split!r}: a group never moves; "
                "ingest the other list under another --name"
            )
    return found, rate


def blocks(frames: int, shares: SplitConfig, gap: int) -> list[tuple[str, int, int]]:
    """Cut one sequence into contiguous stretches: (split, start, stop), in time order train, val, gate, test.

    `gap` frames between two stretches belong to neither, so no clip of up to `gap` frames sees both. Lengths follow the
    shares. `InputError` where the sequence is too short for a frame in each.
    """
    share = _shares(shares)
    active = [split for split in SPLITS if share[split] > 0]
    usable = frames - gap * (len(active) - 1)
    if usable < len(active):
        raise InputError(
            f"{frames} frames are too few for {len(active)} stretches with gaps of {gap}: ingest a longer recording, "
            "or set some shares to 0 (shard.split.*)"
        )
    # One frame each, the rest by the shares: cutting at rounded cumulative shares loses and repeats nothing.
    found, start, cumulative = [], 0, 0.0
    spare = usable - len(active)
    for index, split in enumerate(active):
        before = round(cumulative * spare)
        cumulative = min(1.0, cumulative + share[split]) if index < len(active) - 1 else 1.0
        stop = start + 1 + round(cumulative * spare) - before
        found.append((split, start, stop))
        start = stop + gap
    return found


def _shares(shares: SplitConfig) -> dict[str, float]:
    return {split: float(getattr(shares, split)) for split in SPLITS}


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
