"""`irstd promote`: move the alias `champion` to a version that is better on the same gate split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from irstd.commands.show import boxes_scored, measured_as, result, say, scored, table
from irstd.errors import InputError
from irstd.workspace import Workspace

if TYPE_CHECKING:
    from irstd.registry.promotion import Verdict


def run(workspace: Workspace, uri: str, shards: str | None = None) -> int:
    """Status 0 where the version is champion afterwards, 1 where the champion stays."""
    from irstd.registry import models, promotion, tracking

    if not uri.startswith("models:/"):
        raise InputError(f"{uri}: promote takes a registered version, such as models:/ggl-net@challenger")
    place = workspace.shards_at(shards)
    with tracking.answering(workspace):
        challenger = models.resolve(workspace, uri)
        champion = models.aliased(workspace, challenger.name, "champion")
        verdict = promotion.compare(workspace, challenger, champion, place)
        show(verdict)
        say(f"{'promoted' if verdict.promoted else 'kept'}: {verdict.reason}")
        promotion.record(workspace, challenger, champion, verdict)
    result(model=f"models:/{challenger.name}/{challenger.version}", promoted=verdict.promoted, reason=verdict.reason)
    return 0 if verdict.promoted else 1


def show(verdict: Verdict) -> None:
    """Print what both versions measured, and as what."""
    rows: list[dict[str, Any]] = []
    for role, values in (("challenger", verdict.challenger), ("champion", verdict.champion)):
        if values:
            numbers = scored(values) if "fa" in values else boxes_scored(values)
            rows.append({"": role, "version": values["version"], "threshold": values["threshold"], "numbers": numbers})
    if rows:
        row = verdict.challenger or {}
        how = measured_as(row["protocol"], row.get("grid"), row["threshold"], verdict.split, verdict.digests or {})
        say(f"on split {verdict.split}: {how}")
        say(table(rows))
