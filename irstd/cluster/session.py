"""A Ray session for one command: the Ray that `irstd up` recorded, or a local one that ends with the command."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from irstd.cluster.plan import Resources
from irstd.environment import cores
from irstd.errors import WorkError
from irstd.workspace import Workspace

# How Ray Train's controller and workers run; Ray passes these on to them.
RAY_TRAIN = {
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    # What a worker prints is heard where it prints (irstd/cluster/console.py).
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Seconds between looks at the workers: a report, an end and a death each wait for one.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}

_keep = False
_own = False
"""Whether this process started the Ray that it is connected to."""


@contextmanager
def kept() -> Iterator[None]:
    """Inside this block the first `session` starts Ray and the others use the same; it ends with the block."""
    global _keep
    _keep = True
    try:
        yield
    finally:
        _keep = False
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            ray.shutdown()


@contextmanager
def session(workspace: Workspace, cpus: int | None = None) -> Iterator[Resources]:
    """Connect to, or start, Ray; yields what it has. The session is closed at the end, and a local Ray stopped."""
    # Nodes that are about to be taken away are watched for by a process of its own; a local Ray has one node.
    watcher = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1" if workspace.ray_address else "0"}
    os.environ |= RAY_TRAIN | watcher
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    global _own
    address = workspace.ray_address
    _own = not address
    options: dict = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
    if address:
        options |= {"address": address, "runtime_env": {"env_vars": workspace.environment()}}
    else:
        workspace.ray_session.mkdir(mode=0o700, parents=True, exist_ok=True)
        options |= {"num_cpus": cpus or cores(), "include_dashboard": False, "_temp_dir": str(workspace.ray_session)}
        # A variable of the caller's shell must not make a local session join somebody's cluster.
        os.environ.pop("RAY_ADDRESS", None)
        options["address"] = "local"
    try:
        if not ray.is_initialized():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise WorkError(f"Ray at {address or 'this machine'} does not answer: {_first_line(error)}") from error
    try:
        found = ray.cluster_resources()
        nodes = tuple(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
        yield Resources(found.get("CPU", 0), found.get("GPU", 0), address or "this machine", nodes)
    finally:
        if not _keep:
            ray.shutdown()


def free_places() -> None:
    """Give back what workers hold whose controller was lost. On a cluster a process of Ray's does that, which asks the dashboard;
    a Ray of one command has none, and nobody else's workers."""
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    for identifier, group in placement_group_table().items() if _own else ():
        if group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(identifier)))


def address() -> str:
    """Where another driver joins the running session."""
    import ray

    return ray.get_runtime_context().gcs_address


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
