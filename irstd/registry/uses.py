"""How often a model was measured on test: each look makes the next choice less honest, so they are counted."""

from __future__ import annotations

from filelock import FileLock

from irstd.registry import tracking
from irstd.workspace import Workspace

PREFIX = "irstd.uses."


def counted(workspace: Workspace, run_id: str | None, label: str) -> int | None:
    """Count one more measurement of the run's model on `label` (the split, of which shards); how many there are.

    A tag of the run, since all versions of it have its weights, and of these versions, where people look. None where the
    run is not in this store.
    """
    tag = f"{PREFIX}{label}"
    with FileLock(workspace.home / "uses.lock"):
        if not run_id or not tracking.known(workspace, run_id):
            return None
        found = tracking.client(workspace)
        count = int(found.get_run(run_id).data.tags.get(tag, 0)) + 1
        found.set_tag(run_id, tag, str(count))
        for version in found.search_model_versions(f"run_id = '{run_id}'"):
            found.set_model_version_tag(version.name, version.version, tag, str(count))
    return count
