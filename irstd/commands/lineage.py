"""`irstd lineage`: the chain from a model version to its recordings, and whether it holds."""

from __future__ import annotations

import json

from irstd.commands.show import say
from irstd.workspace import Workspace


def run(workspace: Workspace, uri: str, verify: bool, shards: str | None = None, as_json: bool = False) -> int:
    """Status 1 where a link is broken; links behind it are not looked at. `as_json`: the same as one JSON object."""
    from irstd.registry import lineage, models, tracking, verification

    place = workspace.shards_in(shards)
    with tracking.answering(workspace):
        # As the registry has it, whatever is kept here.
        package = models.package(workspace, uri, checked=False)
        version = models.resolve(workspace, uri) if uri.startswith("models:/") else None
        chain = lineage.chain(package, version)
        links = []
        if not as_json:
            for what, value in chain:
                say(f"{what:<24} {value}")
            say("" if verify else "not checked; --verify computes every hash again")
        if verify:
            try:
                for what, broken in verification.verify(workspace, package, version, place):
                    links.append({"link": what, "holds": broken is None, "reason": broken})
                    if not as_json:
                        say(f"{'broken' if broken else 'holds':<7} {what}" + (f": {broken}" if broken else ""))
                    if broken:
                        break
            except ValueError as error:
                # What cannot even be read does not hold.
                reason = str(error).splitlines()[0]
                links.append({"link": "package", "holds": False, "reason": reason})
                if not as_json:
                    say(f"broken  package: {reason}")
    holds = all(link["holds"] for link in links)
    if as_json:
        found = {"model": uri, "chain": dict(chain), "lineage": package.content["lineage"]}
        say(json.dumps(found | ({"links": links, "holds": holds} if verify else {}), indent=1, sort_keys=True))
    return 0 if holds else 1
