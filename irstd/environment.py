"""Environment variables of every process of irstd, in one place.

They keep what is written inside IRSTD_HOME, keep the components from calling home, and give each process on a CPU its
share of threads: spinning OpenMP threads of two processes on two cores cost a factor of five. Beside them: how many cores
there are, and whether a process still runs.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

# What must hold before a library is imported. A variable that the user has set is left alone.
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow would try for four minutes before it says that a server is away. Who has time tries again by himself.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DVC_NO_ANALYTICS": "1",
    # Ray's hook for `uv run` would zip the whole workspace (video included) to every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # A driver that joins a cluster by its address does not look for the token by itself.
    "RAY_AUTH_MODE": "token",
    # A lost worker is said in one line of ours (irstd/cluster/faults.py), not in Ray's ten.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed",
    # Ray warns about its own next default; the choice is stated here.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray would give its workers the lowest share of the processor but four; a run of a plain script has the common one.
    "RAY_worker_niceness": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENCV_LOG_LEVEL": "ERROR",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "GIT_TERMINAL_PROMPT": "0",
}

HEAP = {"MALLOC_ARENA_MAX": "1"}
"""One heap for all threads: Ray trains in a thread, whose own heap could not keep large blocks (irstd/training/heap.py)."""


def variables(home: Path, mlflow_uri: str, prefect_api: str = "", threads: int | None = None) -> dict[str, str]:
    """Variables for a process of the workspace whose IRSTD_HOME is `home`.

    `prefect_api` is the address of the running stack's server, or empty: Prefect then starts a temporary one.
    """
    found = QUIET | HEAP
    found["IRSTD_CACHE"] = str(home / "cache")
    found["PREFECT_HOME"] = str(home / "prefect")
    found["PREFECT_API_URL"] = prefect_api
    found["MLFLOW_TRACKING_URI"] = mlflow_uri
    found["RAY_AUTH_TOKEN_PATH"] = str(home / "ray-token")
    if threads:
        found["OMP_NUM_THREADS"] = str(threads)
    return found


def apply(values: dict[str, str]) -> None:
    """Set `values` in this process; those of `QUIET` and `HEAP` that the user has set are kept."""
    for name, value in values.items():
        if name in QUIET | HEAP:
            os.environ.setdefault(name, value)
        else:
            os.environ[name] = value


def ensure_ray_token(home: Path) -> None:
    """Write the token with which Ray's processes of this workspace know each other, once, readable by its owner only."""
    path = home / "ray-token"
    if path.exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def running(pid: int, since: float) -> bool:
    """Whether the very process that was started as `pid` at `since` (seconds, as psutil says it) is still there.

    A process id alone may have been given to another one.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - since) < 2
    except psutil.Error:
        return False
