"""Near-duplicates across splits: what a model is tested on must not be what it was trained on.

Of each sequence the first, a middle and the last frame are compared with those of the sequences in other splits. In splits
that are our own a pair fails the build; those of a published list, which is compared with other people's tables, and of
stretches cut from one recording (`shard.split.by=block`) are counted and said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from irstd.data import appearance
from irstd.data.appearance import View, view
from irstd.data.sequence import Sequence
from irstd.data.video import frames_at
from irstd.errors import InputError, IrstdError
from irstd.files import canonical_json, sha256_text

TRIES = 2  # pairs of frames of two sequences that are aligned, the likeliest first


@dataclass(frozen=True)
class Member:
    """A sequence and the splits that it has frames in (one, but where it was cut)."""

    sequence: Sequence
    splits: tuple[str, ...]


def check(
    name: str,
    members: list[Member],
    published: bool,
    allowed: Iterable[str],
    before: Mapping[str, Any] | None,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """The manifest's entry on near-duplicates in the set `name`: {"compared", "pairs"}.

    `allowed`: SET, or SET/SEQUENCE+SEQUENCE, as `shard.split.allow_duplicates` has them. `before`: the entry of the last
    build, taken over where the same recordings lie in the same splits. `InputError` where the splits are ours
    (not `published`) and a pair is neither cut nor allowed.
    """
    compared = sha256_text(
        canonical_json([appearance.VERSION, *([m.sequence.name, m.sequence.source_sha256, m.splits] for m in members)])
    )
    kept = before["pairs"] if before is not None and before.get("compared") == compared else None
    pairs = find(members) if kept is None else kept
    cut = {m.sequence.name for m in members if len(m.splits) > 1}
    accepted = set(allowed)
    refused, rest = [], []
    for pair in pairs:
        a, b = pair["sequences"]
        fine = published or {a, b} & cut or accepted & {name, f"{name}/{a}+{b}", f"{name}/{b}+{a}"}
        (rest if fine else refused).append(pair)
    if refused:
        more = f", and {len(refused) - 1} more pairs of its sequences do" if len(refused) > 1 else ""
        a, b = refused[0]["sequences"]
        raise InputError(
            f"set {name}: {_say(refused[0])} show the same{more}: ingest them as one group under another --name "
            f"(--group-by, or group: in a sidecar), or accept it with allow_duplicates: [{name}/{a}+{b}] "
            f"([{name}]: all of the set) in params.yaml, under shard: and split:"
        )
    if rest:
        why = "its published list" if published else "its splits"
        warn(f"shards: set {name}: {len(rest)} near-duplicates across {why}, such as {_say(rest[0])}; kept as they are")
    return {"compared": compared, "pairs": pairs}


def _say(pair: dict[str, Any]) -> str:
    sides = zip(pair["sequences"], pair["frames"], pair["splits"], strict=True)
    return " and ".join(f"{name} (frame {frame}, {'/'.join(splits)})" for name, frame, splits in sides)


Look = Callable[[Sequence], Iterable[tuple[int, View]]]
"""The frames of a sequence that are compared: (index, view)."""


def find(members: list[Member], look: Look | None = None) -> list[dict[str, Any]]:
    """Pairs of sequences with frames in different splits that show the same, the most alike first.

    [{"sequences": [a, b], "splits": [[...], [...]], "frames": [i, j], "similarity"}]; recordings with equal bytes have 1.
    `look`: by default the first, a middle and the last frame, about.
    """
    # Sequences that lie whole in one split are compared with those of others only.
    kinds = {m.splits: i for i, m in enumerate(members)}
    parts = [n if len(m.splits) > 1 else len(members) + kinds[m.splits] for n, m in enumerate(members)]
    return _pairs(members, parts, look or _views)


def find_within(members: list[Member], look: Look | None = None) -> list[dict[str, Any]]:
    """Pairs of sequences of different groups that show the same, whatever their splits; see `find`."""
    groups = {m.sequence.group: i for i, m in enumerate(members)}
    return _pairs(members, [groups[m.sequence.group] for m in members], look or _views)


def _pairs(members: list[Member], parts: list[int], look: Look) -> list[dict[str, Any]]:
    """Pairs of members of different `parts`; see `find`."""
    views: list[View] = []
    owner, index = [], []
    for number, member in enumerate(members):
        for position, each in look(member.sequence):
            views.append(each)
            owner.append(number)
            index.append(position)
    owner_N = np.array(owner, int)
    part_N = np.array([parts[n] for n in owner], int)
    best: dict[tuple[int, int], tuple[float, int, int]] = {}
    by_sha: dict[str, list[int]] = {}
    for number, member in enumerate(members):
        by_sha.setdefault(member.sequence.source_sha256, []).append(number)
    for same in by_sha.values():
        for n, a in enumerate(same):
            for b in same[n + 1 :]:
                if parts[a] != parts[b]:
                    best[a, b] = 1.0, 0, 0
    tries: dict[tuple[int, int], int] = {}
    for _, i, j, shift in sorted(appearance.candidates(views, part_N), reverse=True):
        key = int(owner_N[i]), int(owner_N[j])
        if key in best or tries.get(key, 0) == TRIES:
            continue
        tries[key] = tries.get(key, 0) + 1
        value = appearance.similarity(views[i], views[j], shift)
        if value >= appearance.SAME:
            best[key] = round(value, 2), index[i], index[j]
    return [
        {
            "sequences": [members[a].sequence.name, members[b].sequence.name],
            "splits": [list(members[a].splits), list(members[b].splits)],
            "frames": [i, j],
            "similarity": value,
        }
        for (a, b), (value, i, j) in sorted(best.items(), key=lambda item: (-item[1][0], item[0]))
    ]


def _views(sequence: Sequence) -> list[tuple[int, View]]:
    """The views of the first, a middle and the last frame, about; none where there is nothing to be seen in them."""
    wanted = sorted({0, sequence.frames // 2, sequence.frames - 1})
    try:
        found = frames_at(sequence.recording, wanted, sequence.bit_depth)
    except IrstdError:  # a damaged recording is for the writer to report, which reads all of it
        return []
    return [(i, view(frame_HW)) for i, frame_HW in zip(wanted, found, strict=False)]
