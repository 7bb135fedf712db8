"""up, down and status."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from irstd import environment
from irstd.errors import InputError, IrstdError, WorkError
from irstd.stack import processes, record
from irstd.stack.record import Record
from irstd.stack.services import Service, base_environment, mlflow_uri, prefect_api, ray_address, services
from irstd.workspace import Workspace

Say = Callable[[str], None]


def _say(line: str) -> None:
    print(line, flush=True)


def up(workspace: Workspace, *, say: Say = _say) -> Record:
    """Start the stack, wait until every service answers, deploy the flows; the record that was written.

    Where it is up already, says so and returns its record. `InputError` when a port is taken or a part of the stack has
    died; `WorkError` when a service does not come up: everything that was started is stopped again then.
    """
    with _only_one(workspace):
        wanted = services(workspace)
        found = record.read(workspace)
        dead = [name for name, entry in found["services"].items() if not record.running(entry)]
        if found.get("prefect_api") and found["services"] and not dead:
            say("the stack is up already")
            _print_addresses(workspace, found, say)
            return found
        if record.anything(found):
            why = f"{', '.join(dead)} died" if dead else "an `irstd up` was interrupted"
            raise InputError(f"the stack is half up ({why}): run `irstd down`, then `irstd up`")
        _check_before(workspace, wanted)
        environment.ensure_ray_token(workspace.home)
        workspace.mlflow_database.parent.mkdir(parents=True, exist_ok=True)
        # A driver that makes the same fresh database at the same time would break it.
        with FileLock(workspace.mlflow_database.with_name("init.lock")):
            return _start(workspace, wanted, say)


def down(workspace: Workspace, *, grace: float = 20.0, say: Say = _say) -> bool:
    """Stop what `up` started, and nothing else; whether there was anything to stop.

    A process that does not end within `grace` seconds of being asked to is killed.
    """
    with _only_one(workspace):
        found = record.read(workspace)
        anything = record.anything(found)
        _stop(workspace, found, grace, say)
        say("the stack is down" if anything else "nothing is running")
        return anything


def status(workspace: Workspace, *, say: Say = _say) -> list[dict[str, Any]]:
    """Print a table of the services and return its rows: service, address, state, since (seconds since the epoch).

    `state` is "up", "dead", or "does not answer: <why>".
    """
    known = {service.name: service for service in services(workspace)}
    rows = []
    for name, entry in record.read(workspace)["services"].items():
        state = "dead"
        if record.running(entry):
            trouble = known[name].healthy(0.0) if name in known else None
            state = f"does not answer: {trouble}" if trouble else "up"
        rows.append({"service": name, "address": entry["address"], "state": state, "since": entry["created"]})
    if not rows:
        say("nothing is running: start the stack with `irstd up`")
        return rows
    table = [("service", "address", "state", "since")]
    for row in rows:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["since"]))
        table.append((row["service"], row["address"], row["state"], since))
    widths = [max(len(line[column]) for line in table) for column in range(4)]
    for line in table:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return rows


def _check_before(workspace: Workspace, wanted: list[Service]) -> None:
    """Refuse, before anything is started, what would fail half-way."""
    _prefect_yaml(workspace)
    record.check_prefect_toml(workspace)
    seen: dict[int, str] = {}
    for service in wanted:
        for setting, number in service.ports.items():
            if number in seen:
                raise InputError(f"settings.toml: stack.{seen[number]} and stack.{setting} are both {number}")
            seen[number] = setting
            if processes.taken(number):
                raise InputError(
                    f"port {number} ({service.title}) is taken by {processes.listener(number)}:"
                    f" stop it, or set another port as {setting} under [stack] in settings.toml"
                )


def _start(workspace: Workspace, wanted: list[Service], say: Say) -> Record:
    base = base_environment(workspace)
    found: Record = {"services": {}}
    try:
        # All start side by side but for what needs Prefect's server: the worker, then the deployments in its pool.
        early = [service for service in wanted if service.after is None]
        late = [service for service in wanted if service.after is not None]
        for service in early:
            _launch(workspace, service, base, found)
        first = [service for service in early if service.name in {other.after for other in late}]
        _wait(workspace, first, found, say)
        for service in late:
            _launch(workspace, service, base, found)
        _wait(workspace, [service for service in wanted if service not in first], found, say)
        _deploy(workspace, base, say)
        record.write_prefect_toml(workspace, prefect_api(workspace))
        found |= {"mlflow": mlflow_uri(workspace), "prefect_api": prefect_api(workspace), "ray": ray_address(workspace)}
        record.write(workspace, found)
    except BaseException as error:
        if not isinstance(error, IrstdError):
            say("interrupted: stopping what was started")
        _stop(workspace, found, 10.0, lambda line: None)
        raise
    _print_addresses(workspace, found, say)
    return found


def _launch(workspace: Workspace, service: Service, base: dict[str, str], found: Record) -> None:
    log = workspace.home / "logs" / f"{service.name}.log"
    pid, created = processes.start(service.command, base | service.env, workspace.root, log)
    entry = {"pid": pid, "created": created, "port": service.port, "address": service.address, "log": str(log)}
    found["services"][service.name] = entry
    record.write(workspace, found)


def _wait(workspace: Workspace, wanted: list[Service], found: Record, say: Say) -> None:
    """Wait until each of `wanted` answers, one line each; `WorkError` with the end of its log where one does not."""
    waiting = list(wanted)
    told = time.monotonic()
    while waiting:
        for service in list(waiting):
            entry = found["services"][service.name]
            age = time.time() - entry["created"]
            log = Path(entry["log"])
            where = f"{_tail(log)} (log: {workspace.relative(log)})"
            if not record.running(entry):
                raise WorkError(f"{service.title} died while starting: {where}")
            trouble = service.healthy(entry["created"])
            if trouble is None:
                say(f"{service.title} answers ({age:.0f} s)")
                waiting.remove(service)
            elif age > service.limit:
                raise WorkError(f"{service.title} did not answer within {service.limit:.0f} s ({trouble}): {where}")
        if waiting and time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"waiting for {', '.join(service.title for service in waiting)}")
        time.sleep(0.2)


def _deploy(workspace: Workspace, base: dict[str, str], say: Say) -> None:
    """Register the deployments of prefect.yaml, by Prefect's own command, as a user would."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    command += ["--prefect-file", str(_prefect_yaml(workspace))]
    log = workspace.home / "logs" / "deploy.log"
    where = f"(log: {workspace.relative(log)})"
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command,
                env=base,
                cwd=workspace.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=120,
            )
        except subprocess.TimeoutExpired:
            raise WorkError(f"`prefect deploy --all` took more than 120 s {where}") from None
    if done.returncode:
        raise WorkError(f"`prefect deploy --all` failed: {_tail(log)} {where}")
    say("the flows of prefect.yaml are deployed")


def _prefect_yaml(workspace: Workspace) -> Path:
    """The workspace's prefect.yaml, or the one that lies beside the package `pipelines`."""
    import pipelines

    for folder in (workspace.root, *(Path(entry).parent for entry in pipelines.__path__)):
        if (folder / "prefect.yaml").is_file():
            return folder / "prefect.yaml"
    raise InputError(f"no prefect.yaml in {workspace.root}: it names the flows that `irstd up` deploys")


def _stop(workspace: Workspace, found: Record, grace: float, say: Say) -> None:
    """Stop the record's services, the worker first: its runs can still tell the server that they were ended."""
    late = [name for name in found["services"] if name == "worker"]
    for name in late + [name for name in found["services"] if name not in late]:
        entry = found["services"][name]
        if processes.members(entry["pid"], entry["created"]):
            processes.stop(entry["pid"], entry["created"], grace, children_first=name in late)
            say(f"stopped {name}")
    record.remove_prefect_toml(workspace)
    record.remove(workspace)


def _tail(log: Path, lines: int = 3) -> str:
    """The last lines of a log as one."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "no log"
    last = [" ".join(line.split()) for line in text.splitlines() if line.strip(" ╭╮╰╯│─")][-lines:]
    return " / ".join(last) or "no output"


def _print_addresses(workspace: Workspace, found: Record, say: Say) -> None:
    say(f"Prefect        {prefect_api(workspace).removesuffix('/api')}")
    say(f"MLflow         {mlflow_uri(workspace)}")
    if "ray" in found["services"]:
        token = workspace.relative(workspace.home / "ray-token")
        say(f"Ray dashboard  {found['services']['ray']['address']}   (asks for a token: `cat {token}`)")
    say(f"Ray            {ray_address(workspace)}")
    say("run a flow     prefect deployment run train-flow/default --watch   (Prefect wants FLOW/DEPLOYMENT)")
    say("               irstd run train-flow                                (the same)")


@contextmanager
def _only_one(workspace: Workspace) -> Iterator[None]:
    """Two `irstd up` at once would start everything twice."""
    workspace.home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace.home / "stack.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError("another `irstd up` or `irstd down` is at work in this workspace: wait for it") from None
    try:
        yield
    finally:
        lock.release()
