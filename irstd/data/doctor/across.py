"""Checks of a set as a whole, and of sets against each other: what no recording can tell by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from irstd.data import duplicates
from irstd.data.doctor.contrast import LEAST_TARGETS, Offsets
from irstd.data.doctor.findings import Finding, many
from irstd.data.doctor.survey import Survey, shifted
from irstd.data.splits import SPLITS

VIEWS = 1000  # that are all compared with each other, in some seconds; beyond it fewer are
EMPTY = 0.01  # share of the labelled frames; fewer without a target measure nothing


def of_set(name: str, surveys: list[Survey]) -> list[Finding]:
    """Findings of a set, but for near-duplicates."""
    return [finding for check in CHECKS for finding in check(name, surveys)]


def sizes(name: str, surveys: list[Survey]) -> Iterator[Finding]:
    found = Counter((s.sequence.width, s.sequence.height) for s in surveys)
    if len(found) > 1:
        (width, height), times = found.most_common(1)[0]
        message = f"{len(found)} sizes; the commonest is {width}x{height} ({many(times, 'sequence')} of {len(surveys)})"
        yield Finding("sizes", name, None, None, message, len(found))


def no_rate(name: str, surveys: list[Survey]) -> Iterator[Finding]:
    found = [s.sequence.name for s in surveys if s.sequence.fps is None and s.sequence.frames > 1]
    yield from _named("no-rate", name, found, "without a frame rate")


def no_licence(name: str, surveys: list[Survey]) -> Iterator[Finding]:
    yield from _named(
        "no-licence", name, [s.sequence.name for s in surveys if not s.sequence.licence], "without a licence"
    )


def no_empty_frames(name: str, surveys: list[Survey]) -> Iterator[Finding]:
    labelled = sum(s.sequence.labelled_frames for s in surveys)
    empty = sum(s.empty for s in surveys)
    if labelled and empty < EMPTY * labelled:
        message = f"{empty} of {many(labelled, 'labelled frame')} without a target"
        yield Finding("no-empty-frames", name, None, None, message, empty)


def shifted_labels(name: str, surveys: list[Survey]) -> Iterator[Finding]:
    """Of sequences too short to be judged alone, such as stills, all together."""
    together = Offsets()
    few = [s for s in surveys if s.offsets.count < LEAST_TARGETS]
    for each in few:
        together.join(each.offsets)
    yield from shifted(name, None, together, [])


def _named(kind: str, name: str, found: list[str], what: str) -> Iterator[Finding]:
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        message = f"{many(len(found), 'sequence')} {what}: {', '.join(found[:3])}{more}"
        yield Finding(kind, name, None, None, message, len(found))


CHECKS = (sizes, no_rate, no_licence, no_empty_frames, shifted_labels)


def near_duplicates(
    name: str, surveys: list[Survey], places: Mapping[str, tuple[str, ...]], published: bool, allowed: Collection[str]
) -> list[Finding]:
    """Sequences that show the same, across splits and within them.

    `places`: {sequence: its splits}, of those that are in one; `allowed`: `shard.split.allow_duplicates`. Within splits,
    sets of many sequences are compared by their middle frames, and very large ones only by their bytes.
    """
    by_name = {s.sequence.name: s for s in surveys}
    members = [duplicates.Member(s.sequence, places[s.sequence.name]) for s in surveys if s.sequence.name in places]
    views = {m.sequence.name: [*by_name[m.sequence.name].views.items()] for m in members}
    pairs = duplicates.find(members, lambda each: views[each.name])
    if len(members) <= VIEWS:
        if sum(map(len, views.values())) > VIEWS:
            views = {key: found[len(found) // 2 :][:1] for key, found in views.items()}
    else:
        views = dict.fromkeys(views, [])
    across = {tuple(pair["sequences"]) for pair in pairs}
    within = [
        pair
        for pair in duplicates.find_within(members, lambda each: views[each.name])
        if tuple(pair["sequences"]) not in across and pair["splits"][0] == pair["splits"][1]
    ]
    cut = {m.sequence.name for m in members if len(m.splits) > 1}
    found = []
    for pair in pairs:
        a, b = pair["sequences"]
        accepted = bool({*allowed} & {name, f"{name}/{a}+{b}", f"{name}/{b}+{a}"})
        milder = "warn" if published or {a, b} & cut else None
        found.append(_pair("across-splits", name, pair, milder, accepted))
    return found + [_pair("repeated-view", name, pair, None, False) for pair in within]


def _pair(kind: str, name: str, pair: dict, milder: str | None, waived: bool) -> Finding:
    (a, b), (i, j), (left, right) = pair["sequences"], pair["frames"], pair["splits"]
    message = f"in {'/'.join(left)}, shows the same as {b} frame {j} in {'/'.join(right)} (similarity {pair['similarity']:.2f})"
    return Finding(kind, name, a, i, message, 1, milder, waived, also=(b, j))


def same_recordings(
    sets: Mapping[str, list[Survey]], places: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> list[Finding]:
    """Recordings with equal bytes in two sets, where their splits differ: {set: ...} of both arguments."""
    seen: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {}
    for name, surveys in sets.items():
        for each in surveys:
            split = places[name].get(each.sequence.name, ())
            if {*split} & {*SPLITS}:
                seen.setdefault(each.sequence.source_sha256, []).append((name, each.sequence.name, split))
    found: dict[tuple[str, str], list[tuple[str, str, tuple, tuple]]] = {}
    for same in seen.values():
        for n, (set_a, a, split_a) in enumerate(same):
            for set_b, b, split_b in same[n + 1 :]:
                if set_a != set_b and split_a != split_b:
                    found.setdefault((set_a, set_b), []).append((a, b, split_a, split_b))
    return [
        Finding(
            "same-recording",
            set_a,
            None,
            None,
            f"{many(len(all_), 'recording')} of {set_b} in other splits, such as {all_[0][0]} ({'/'.join(all_[0][2])}), "
            f"there {all_[0][1]} ({'/'.join(all_[0][3])})",
            len(all_),
        )
        for (set_a, set_b), all_ in found.items()
    ]
