"""What the stack consists of: command, environment, address and health request of each service.

A service whose address stands in settings.toml is run by somebody else and is not started here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from irstd import environment
from irstd.errors import InputError
from irstd.stack import health
from irstd.stack.processes import LOOPBACK, free_port
from irstd.workspace import SETTINGS, Workspace

POOL = "irstd"
"""The work pool whose runs the worker executes; prefect.yaml names it too."""


@dataclass(frozen=True)
class Service:
    """One process of the stack. `ports` are the listening ones, by the setting that chooses them."""

    name: str
    title: str
    command: list[str]
    address: str
    healthy: Callable[[float], str | None]
    """Asks the service, given the time at which it was started: None when it answers, else why not."""
    ports: dict[str, int] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    after: str | None = None
    """The service that must answer before this one is started."""
    limit: float = 120.0
    """Seconds until it must answer. Generous: a cold disk and two busy cores make a minute of ten seconds."""

    @property
    def port(self) -> int | None:
        return next(iter(self.ports.values()), None)


def services(workspace: Workspace) -> list[Service]:
    """The services to start, in the order in which they depend on each other."""
    settings = workspace.settings
    found = []
    if not settings["prefect"]["api"]:
        found.append(_prefect(workspace))
    if not settings["mlflow"]["uri"]:
        found.append(_mlflow(workspace))
    if not settings["ray"]["address"]:
        found.append(_ray(workspace))
    found.append(_worker(workspace))
    return found


def prefect_api(workspace: Workspace) -> str:
    """The API of the server that `up` starts, or of the one that settings.toml names."""
    return workspace.settings["prefect"]["api"] or f"http://{LOOPBACK}:{port(workspace, 'prefect_port')}/api"


def mlflow_uri(workspace: Workspace) -> str:
    return workspace.settings["mlflow"]["uri"] or f"http://{LOOPBACK}:{port(workspace, 'mlflow_port')}"


def ray_address(workspace: Workspace) -> str:
    return workspace.settings["ray"]["address"] or f"{LOOPBACK}:{port(workspace, 'ray_port')}"


def port(workspace: Workspace, setting: str) -> int:
    """The port that settings.toml gives to `stack.<setting>`."""
    value = workspace.settings["stack"][setting]
    if isinstance(value, bool) or not isinstance(value, int) or not 1024 <= value <= 65535:
        default = SETTINGS["stack"][setting]
        raise InputError(f"settings.toml: stack.{setting} = {value!r}: expected a port, 1024 to 65535, as {default}")
    return value


def base_environment(workspace: Workspace) -> dict[str, str]:
    """Variables of every service: the caller's, then the workspace's with the addresses that the stack will have."""
    found = dict(os.environ)
    ours = environment.variables(workspace.home, mlflow_uri(workspace), prefect_api(workspace))
    for name, value in ours.items():
        if name in environment.QUIET:
            found.setdefault(name, value)
        else:
            found[name] = value
    # Runs of flows are logged at INFO: their log is what the web page shows.
    found["PREFECT_LOGGING_LEVEL"] = "INFO"
    # `python` in prefect.yaml is this environment's, whether or not the caller has activated it.
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", os.defpath)])
    found["PYTHONUNBUFFERED"] = "1"
    # It would send Ray's own start, and every driver, to another cluster.
    found.pop("RAY_ADDRESS", None)
    if not workspace.settings["ray"]["address"]:
        # Ray takes 127.0.0.1 for the machine's outer address and then listens on every interface, unless it is told (in
        # words meant for other systems) that it is no cluster. Drivers that join need both of these as well.
        found["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        found.setdefault("RAY_AUTH_MODE", "token")
    # The services talk to each other on the loopback: never through a proxy.
    local = f"{LOOPBACK},localhost"
    for name in ("NO_PROXY", "no_proxy"):
        found[name] = f"{found[name]},{local}" if found.get(name) else local
    return found


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _prefect(workspace: Workspace) -> Service:
    number = port(workspace, "prefect_port")
    return Service(
        name="prefect",
        title="Prefect server",
        command=_python("prefect", "--no-prompt", "server", "start", "--host", LOOPBACK, "--port", str(number)),
        address=f"http://{LOOPBACK}:{number}",
        healthy=partial(health.answers, f"http://{LOOPBACK}:{number}/api/health"),
        ports={"prefect_port": number},
        env={
            "PREFECT_LOGGING_LEVEL": "WARNING",
            # Off by default: without them `--watch` shows a run's states but none of its log.
            "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
            "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        },
    )


def _mlflow(workspace: Workspace) -> Service:
    number = port(workspace, "mlflow_port")
    # Artifacts are named by their path and not by the server's proxy (mlflow-artifacts:/), so that what was logged
    # through the server can be read when it is down. The server's own start makes the database, before its worker.
    command = _python("mlflow", "server", "--host", LOOPBACK, "--port", str(number), "--workers", "1")
    command += ["--backend-store-uri", f"sqlite:///{workspace.mlflow_database}"]
    command += ["--default-artifact-root", str(workspace.home / "mlflow" / "artifacts"), "--no-serve-artifacts"]
    return Service(
        name="mlflow",
        title="MLflow server",
        command=command,
        address=f"http://{LOOPBACK}:{number}",
        healthy=partial(health.answers, f"http://{LOOPBACK}:{number}/health"),
        ports={"mlflow_port": number},
        # Its job runner starts a queue's consumers, which nothing here uses.
        env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )


def _ray(workspace: Workspace) -> Service:
    number, dashboard = port(workspace, "ray_port"), port(workspace, "ray_dashboard_port")
    command = _python("ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats")
    command += [f"--node-ip-address={LOOPBACK}", f"--port={number}", f"--num-cpus={environment.cores()}"]
    command += ["--include-dashboard=true", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}"]
    # Ports that nobody has to know: any free ones, or the fixed defaults would collide with another Ray.
    command += [f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0"]
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--temp-dir={workspace.ray_session}"]
    return Service(
        name="ray",
        title="Ray head",
        command=command,
        address=f"http://{LOOPBACK}:{dashboard}",
        healthy=partial(health.ray_answers, f"http://{LOOPBACK}:{dashboard}", workspace.home / "ray-token"),
        ports={"ray_port": number, "ray_dashboard_port": dashboard},
        # Draining is for Ray Serve; here it would only hold `irstd down` up.
        env={"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
    )


def _worker(workspace: Workspace) -> Service:
    api = prefect_api(workspace)
    command = _python("prefect", "--no-prompt", "worker", "start")
    command += ["--pool", POOL, "--type", "process", "--name", POOL]
    return Service(
        name="worker",
        title="Prefect worker",
        command=command,
        address=f"{api.removesuffix('/api')}/work-pools/work-pool/{POOL}",
        healthy=partial(health.worker_answers, api, POOL, POOL),
        after="prefect",
        # A run begins within seconds of being asked for; the default is ten.
        env={"PREFECT_WORKER_QUERY_SECONDS": "2"},
    )
