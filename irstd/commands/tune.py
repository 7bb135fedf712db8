"""`irstd tune`: search a space, confirm the best trials with fresh seeds, register the winner's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from irstd import config as configuration
from irstd.commands import confirmation
from irstd.commands.leaderboard import words
from irstd.commands.search import Search
from irstd.commands.show import result, say, table
from irstd.errors import InputError
from irstd.workspace import Workspace


def run(
    workspace: Workspace,
    space: str,
    overrides: list[str],
    workers: int | None,
    parallel: int | None,
    register: bool,
    shards: str | None,
    confirm: bool = True,
    resume: bool = False,
    trials: int | None = None,
    hours: float | None = None,
    show: bool = False,
    recipe: Path | None = None,
) -> None:
    changed = configuration.parse_overrides(overrides)
    for key in changed:
        if key.startswith("shard."):
            raise InputError(f"{key}: shards are built before a run; change it in params.yaml and run irstd shard")
    limits = {name: value for name, value in (("trials", trials), ("hours", hours)) if value is not None}
    search_ = Search(workspace, space, changed, workers, parallel, shards, confirm, limits, recipe)
    search_.describe()
    if show:
        return
    found = search_.run(resume)
    say(f"the best checkpoint of each trial: {found['about']}")
    say(table(found["rows"]))
    best = found["best"]
    say(f"best: trial {best['number']}, {words(best['overrides'])}")
    if found["confirmation"]:
        say("the best of a search looks better than it is, its value was chosen for being high; with fresh seeds:")
        say(table(confirmation.table(found["confirmation"], found["metric"])))
        say(confirmation.verdict(found["confirmation"], found["metric"]))
    version = None
    if register:
        version = search_.register(found)
    name = found["config"].registered_name
    result(
        sweep=found["name"],
        mlflow=found["url"],
        page=found["page"],
        best=best["overrides"],
        winner=found["winner"],
        model=f"models:/{name}/{version}" if version else None,
    )


def search(
    workspace: Workspace,
    name: str,
    overrides: dict[str, Any],
    workers: int | None = None,
    parallel: int | None = None,
    shards: str | None = None,
) -> dict[str, Any]:
    """The sweep's record: its name, the table of trials, the best one, the winner's configuration. A finished one is taken."""
    found = Search(workspace, name, overrides, workers, parallel, shards)
    found.describe()
    return found.run()
