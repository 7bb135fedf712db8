"""`irstd promote`: move the alias `champion` to a version that is better on the same gate split, or back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from irstd import config as configuration
from irstd.commands.show import boxes_scored, measured_as, result, say, scored, table
from irstd.errors import InputError
from irstd.workspace import Workspace

if TYPE_CHECKING:
    from irstd.registry.promotion import Verdict


def run(
    workspace: Workspace,
    uri: str,
    shards: str | None = None,
    bound: float | None = None,
    accept_insufficient: bool = False,
    anew: bool = False,
    back: bool = False,
) -> int:
    """Status 0 where the version is champion afterwards (with `back`: the one before), 1 where the champion stays."""
    from irstd.registry import models, promotion, tracking

    if not uri.startswith("models:/"):
        raise InputError(f"{uri}: promote takes a registered version, such as models:/ggl-net@challenger")
    if back:
        return rollback(workspace, uri)
    if bound is None:
        bound = configuration.load(workspace.root).registry.bound
    if not math.isfinite(bound):
        raise InputError(f"--bound {bound:g}: give a number, such as 0 or 0.01")
    place = workspace.shards_at(shards)
    with tracking.answering(workspace):
        challenger = models.resolve(workspace, uri)
        champion = models.aliased(workspace, challenger.name, "champion")
        verdict = promotion.compare(workspace, challenger, champion, place, bound, accept_insufficient, anew)
        show(verdict)
        used = promotion.record(workspace, challenger, champion, verdict)
    if used:
        say(f"{verdict.split} used {used} time{'s' if used > 1 else ''} for decisions on {challenger.name}")
    already = champion is not None and champion.version == challenger.version
    say(verdict.reason if already else f"{verdict.outcome}: {verdict.reason}")
    told = verdict.difference or {}
    result(
        model=f"models:/{challenger.name}/{challenger.version}",
        champion=f"models:/{champion.name}/{champion.version}" if champion else None,
        promoted=verdict.promoted,
        verdict=verdict.outcome,
        reason=verdict.reason,
        split=verdict.split,
        number=told.get("number"),
        difference=told.get("difference"),
        interval=told.get("interval"),
        groups=told.get("groups"),
        bound=verdict.bound,
        gate_uses=used,
    )
    return 0 if verdict.promoted else 1


def rollback(workspace: Workspace, uri: str) -> int:
    from irstd.registry import models, promotion, tracking

    name = uri.removeprefix("models:/").partition("@")[0].partition("/")[0]
    with tracking.answering(workspace):
        models.resolve(workspace, f"models:/{name}@champion")
        old, new = promotion.rollback(workspace, name)
    reason = f"{name} version {new} is champion again, in place of version {old}"
    say(f"rolled back: {reason}")
    result(model=f"models:/{name}/{new}", promoted=False, verdict="rolled back", reason=reason)
    return 0


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
