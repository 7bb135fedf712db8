"""What `irstd shard` asks before it writes: findings that would poison training, and cannot be wrong.

They are judged by the labels and by what ingest marked in `sequence.json`; no frame is decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from irstd.config import Waiver
from irstd.data.doctor import labels, repeats
from irstd.data.doctor.findings import Finding, many, waive
from irstd.data.sequence import Sequence
from irstd.errors import InputError, nearest


def of_sequence(sequence: Sequence) -> list[Finding]:
    """The certain findings of a sequence; none of an unlabelled one."""
    if not sequence.labelled:
        return []
    annotations = sequence.annotations()
    found = [finding for check in labels.CERTAIN for finding in check(sequence, annotations)]
    return found + repeats.certain(sequence, annotations, sequence.marks)


def check(name: str, sequences: Iterable[Sequence], waivers: tuple[Waiver, ...], warn: Callable[[str], None]) -> None:
    """`InputError` at findings of the set `name` that are not waived, with the waiver to write; `warn` tells of the others."""
    findings = waive((finding for each in sequences for finding in of_sequence(each)), waivers)
    stopping = [finding for finding in findings if finding.stops]
    if stopping:
        first = stopping[0]
        more = f" (and {len(stopping) - 1} more: irstd doctor data {name} shows all)" if len(stopping) > 1 else ""
        raise InputError(
            f"{first.place}: {first.message}{more}: {first.remedy}, and ingest it with --update, or accept it with "
            f'waive: ["{name}/{first.sequence}:{first.kind}"] under shard: in params.yaml ("{name}:{first.kind}": all of '
            "the set)"
        )
    waived = Counter(finding.kind for finding in findings if finding.waived)
    for kind, count in waived.items():
        warn(f"shards: set {name}: {kind} in {many(count, 'sequence')}, waived by shard.waive")


def check_waivers(waivers: Iterable[Waiver], sets: dict[str, list[str]], warn: Callable[[str], None]) -> None:
    """Tell of waivers that name no set or sequence of `sets`: {set: its sequences}."""
    for each in waivers:
        if each.set is not None and each.set not in sets:
            warn(f"shards: shard.waive names the set {each.set!r}, which is not there{nearest(each.set, sets)}")
        elif each.set is not None and each.sequence is not None and each.sequence not in sets[each.set]:
            near = nearest(each.sequence, sets[each.set])
            warn(f"shards: shard.waive names {each.set}/{each.sequence}, which is not there{near}")
