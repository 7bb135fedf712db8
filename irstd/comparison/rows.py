"""Numbers side by side: only what was measured alike stands in one table.

Rows of another set, split, protocol, grid or selection of the checkpoint are another table. Rows of other shards may share
one, which then says so and marks nothing as best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

SEGMENTATION = {"iou": "IoU", "niou": "nIoU", "pd": "Pd", "fa": "Fa, 1e-6"}
DETECTION = {
    "ap50": "AP50",
    "ap": "AP (centroid)",
    "precision": "P",
    "recall": "R",
    "f1": "F1",
    "false_alarms_per_frame": "false alarms a frame",
}
NUMBERS = SEGMENTATION | DETECTION
"""The numbers of a table by name, with their headings, in the order of the columns."""
LOWER_IS_BETTER = ("fa", "false_alarms_per_frame")
UNSTATED = "unstated"
"""What a published row says of what its source does not."""


@dataclass(frozen=True)
class Row:
    """The numbers of one method, and all that they depend on.

    values: fractions by name (see `NUMBERS`); None where not given. intervals: (low, high) of some of them, at 95 %.
    grid: "native" or the side in px. selection: how the checkpoint was chosen. images, targets: what
    was scored. shards: which shards were, None for published rows. reference: a training-free method whose threshold was set
    on these very frames, so that it is never marked as best.
    """

    method: str
    values: Mapping[str, float | None]
    set: str
    split: str
    grid: str
    protocol: str
    selection: str
    images: int | None = None
    targets: int | None = None
    source: str = ""
    shards: str | None = None
    threshold: float | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reference: bool = False

    @property
    def task(self) -> str:
        return "detection" if {"ap50", "ap"} & {*self.values} else "segmentation"

    @property
    def measured_as(self) -> tuple[str, ...]:
        """What rows must share to stand in one table."""
        return (self.set, self.split, self.task, self.protocol, self.grid, self.selection)


@dataclass(frozen=True)
class Table:
    """Comparable rows. best: for each number that rows differ in, the indices of the rows that hold the best value."""

    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    best: Mapping[str, frozenset[int]]
    notes: tuple[str, ...] = ()


def placed(rows: Iterable[Row], published: Iterable[Row]) -> list[Row]:
    """Rows of one evaluation, under the published set and split where they hold just its images and targets.

    That many images and targets are no proof, but another list of the same set hardly ever has both counts.
    """
    rows = list(rows)
    known = {(p.images, p.targets): (p.set, p.split) for p in published if p.images and p.targets}
    found = next((known[r.images, r.targets] for r in rows if (r.images, r.targets) in known), None)
    return [replace(row, set=found[0], split=found[1]) for row in rows] if found else rows


def arranged(rows: Iterable[Row]) -> list[Table]:
    """The rows by what they were measured as: tables of one set and split follow each other."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.measured_as, []).append(row)
    order = list(groups)
    where = {key: min(order.index(other) for other in order if other[:-1] == key[:-1]) for key in order}
    return [_table(groups[key]) for key in sorted(order, key=lambda key: (where[key], order.index(key)))]


def _table(rows: list[Row]) -> Table:
    first = rows[0]
    columns = tuple(name for name in NUMBERS if any(row.values.get(name) is not None for row in rows))
    shards = {row.shards for row in rows if row.shards is not None}
    notes = []
    if len(shards) > 1:
        each = "; ".join(f"{row.method}: {row.shards}" for row in rows if row.shards is not None and not row.reference)
        notes.append(f"Measured on different shards, so these numbers do not rank: {each}.")
    if shards and any(row.shards is None for row in rows):
        notes.append(
            f"The published list is recognised by its {first.images} images and {first.targets} targets alone: "
            "that the images are the same is not checked."
        )
    if any(row.reference for row in rows):
        notes.append("Classical baselines are not marked: their threshold was set on these frames.")
    unstated = UNSTATED in (first.split, first.protocol, first.grid, first.selection)
    if unstated and len(rows) > 1:
        notes.append("What is unstated may differ from row to row: nothing is marked as best.")
    best = {} if unstated or len(shards) > 1 else {name: _best(rows, name) for name in columns}
    return Table(_title(first), tuple(rows), columns, best, tuple(notes))


def _title(row: Row) -> str:
    grid = "native grid" if row.grid == "native" else f"grid {row.grid}"
    protocol = f"protocol {row.protocol}"
    return f"{row.set}, {row.split}: {protocol}, {grid}, selection {row.selection}"


def _best(rows: list[Row], name: str) -> frozenset[int]:
    """Empty where fewer than two rows have the number."""
    values = {i: v for i, row in enumerate(rows) if not row.reference and (v := row.values.get(name)) is not None}
    if len(values) < 2:
        return frozenset()
    top = min(values.values()) if name in LOWER_IS_BETTER else max(values.values())
    return frozenset(i for i, value in values.items() if value == top)
