"""`irstd lineage`: the chain from a model version to its recordings, and whether it holds."""

from __future__ import annotations

from irstd.commands.show import say
from irstd.workspace import Workspace


def run(workspace: Workspace, uri: str, verify: bool, shards: str | None = None) -> int:
    from irstd.registry import lineage, models, tracking

    place = workspace.shards_in(shards)
    with tracking.answering(workspace):
        package = models.package(workspace, uri)
        version = models.resolve(workspace, uri) if uri.startswith("models:/") else None
        for what, value in lineage.chain(package, version):
            say(f"{what:<24} {value}")
        if not verify:
            return 0
        say("")
        for what, broken in lineage.verify(workspace, package, version, place):
            say(f"{'broken' if broken else 'holds':<7} {what}" + (f": {broken}" if broken else ""))
            if broken:
                return 1
    return 0
