"""up, down and status with the real services, and a deployed flow run from a shell that knows nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from irstd import stack
from irstd.errors import InputError, WorkError
from irstd.stack import control, health, processes
from irstd.stack.services import Service
from irstd.workspace import Workspace

REPOSITORY = Path(stack.__file__).parents[2]
SETTINGS = ("prefect_port", "mlflow_port", "ray_port", "ray_dashboard_port")

# A flow of the workspace's own, whose driver writes down how it was called.
SMOKE = """
import os, sys
from prefect import flow
from irstd.config import Config
import pipelines.driver
from pipelines.driver import drive
from pipelines.parameters import overrides
from pipelines.results import publish

pipelines.driver.IRSTD = (sys.executable, "driver.py")


@flow
def smoke_flow(what: str, config: Config = Config()):
    publish("smoke-flow", drive([what, *overrides(config)]))
"""
DRIVER = """
import json, os, sys
with open("calls.jsonl", "a") as file:
    print(json.dumps({"arguments": sys.argv[1:], "mlflow": os.environ["MLFLOW_TRACKING_URI"],
                      "run": os.environ["IRSTD_FLOW_RUN"], "root": os.getcwd()}), file=file)
print("[/what] a line of the driver")
if sys.argv[1] == "bad":
    print("train.epochs=ten: not a number")
    sys.exit(2)
print("irstd-result: " + json.dumps({"model": "models:/smoke/1"}))
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # What another test or the caller has set must not decide where the stack's files go or how Ray knows its users.
    for name in ("IRSTD_HOME", "RAY_AUTH_MODE", "PREFECT_API_URL", "PREFECT_HOME", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY), prepend=os.pathsep)


def make_workspace(root: Path, **ports: object) -> Workspace:
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.dvc").touch()
    chosen = {name: processes.free_port() for name in SETTINGS} | ports
    lines = [f"{name} = {json.dumps(value)}" for name, value in chosen.items()]
    (root / "settings.toml").write_text("\n".join(["[stack]", *lines, ""]))
    return Workspace.find(root)


def pids(workspace: Workspace) -> list[int]:
    entries = json.loads(workspace.stack_file.read_text())["services"].values()
    return [process.pid for entry in entries for process in processes.members(entry["pid"], entry["created"])]


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def nothing_left(workspace: Workspace) -> bool:
    return not workspace.stack_file.exists() and not (workspace.root / "prefect.toml").exists()


def sleeper(code: str = "") -> subprocess.Popen[bytes]:
    """A bystander: a process that looks like the others."""
    return subprocess.Popen([sys.executable, "-c", f"{code}\nimport time; time.sleep(600)"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_stack(tmp_path: Path) -> None:
    # One test, since one `up` costs as much as all the rest together.
    workspace = make_workspace(tmp_path / "work")
    shutil.copy(REPOSITORY / "prefect.yaml", workspace.root)
    (workspace.root / "smoke.py").write_text(SMOKE)
    (workspace.root / "driver.py").write_text(DRIVER)
    with (workspace.root / "prefect.yaml").open("a") as file:
        file.write("  - {name: default, entrypoint: smoke.smoke_flow, work_pool: *local}\n")
    bystander = sleeper()
    lines: list[str] = []
    try:
        record = stack.up(workspace, say=lines.append)
        _check_up(workspace, record, lines)
        _check_loopback(workspace)
        _check_flows(workspace)
        _check_ray(workspace)
        _check_half_up(workspace, record)
        started = pids(workspace)
        assert started
        assert stack.down(workspace, say=lines.append)
        assert not [pid for pid in started if alive(pid)]
        assert nothing_left(workspace)
        assert bystander.poll() is None
        assert not stack.down(workspace, say=lines.append)
        assert lines[-1] == "nothing is running"
        assert stack.status(workspace, say=lines.append) == []
    finally:
        stack.down(workspace, say=lambda line: None)
        bystander.kill()
        bystander.wait()
        shutil.rmtree(workspace.ray_session, ignore_errors=True)


def _check_up(workspace: Workspace, record: stack.control.Record, lines: list[str]) -> None:
    ports = workspace.settings["stack"]
    assert set(record["services"]) == {"prefect", "mlflow", "ray", "worker"}
    # Another process, which reads the record, finds the stack.
    found = Workspace.find(workspace.root)
    assert found.mlflow_uri == f"http://127.0.0.1:{ports['mlflow_port']}"
    assert found.prefect_api == f"http://127.0.0.1:{ports['prefect_port']}/api"
    assert found.ray_address == f"127.0.0.1:{ports['ray_port']}"
    printed = "\n".join(lines)
    for port in (ports["prefect_port"], ports["mlflow_port"], ports["ray_dashboard_port"]):
        assert f"http://127.0.0.1:{port}" in printed
    assert "ray-token" in printed and "train-flow/default" in printed
    assert {row["state"] for row in stack.status(workspace, say=lines.append)} == {"up"}
    # The dashboard answers only those who have the token.
    assert health.answers(f"http://127.0.0.1:{ports['ray_dashboard_port']}/nodes?view=summary") == "HTTP status 401"
    again: list[str] = []
    assert stack.up(workspace, say=again.append)["services"] == record["services"]
    assert again[0] == "the stack is up already"


def _check_loopback(workspace: Workspace) -> None:
    ours = set(pids(workspace))
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in ours]
    assert len(listening) > 4
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


def _check_flows(workspace: Workspace) -> None:
    answer = json.loads(health.request(f"{workspace.prefect_api}/deployments/filter", body={}))
    assert {"train-flow", "smoke-flow"} <= {_flow_name(workspace, d["flow_id"]) for d in answer}
    assert {d["name"] for d in answer} == {"default"} and len(answer) == 7
    assert str(REPOSITORY) not in json.dumps(answer)
    # Another shell: only the virtual environment is active.
    bare = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath]), "HOME": str(workspace.home)}
    command = ["prefect", "deployment", "run", "smoke-flow/default", "--watch", "-p", "what=good"]
    command += ["-p", 'config={"train": {"epochs": 3}, "data": {"sets": ["a b"]}}']
    done = subprocess.run(command, env=bare, cwd=workspace.root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'Completed'" in done.stdout and "a line of the driver" in done.stdout
    artifacts = json.loads(health.request(f"{workspace.prefect_api}/artifacts/filter", body={}))
    assert [a["key"] for a in artifacts] == ["smoke-flow-result"]
    assert "models:/smoke/1" in artifacts[0]["data"]
    # Input that the driver refuses is not tried again.
    assert _run(workspace, "what: bad") == 2
    calls = [json.loads(line) for line in (workspace.root / "calls.jsonl").read_text().splitlines()]
    assert [call["arguments"] for call in calls] == [["good", 'data.sets=["a b"]', "train.epochs=3"], ["bad"]]
    assert calls[0]["mlflow"] == workspace.mlflow_uri
    assert calls[0]["root"] == str(workspace.root)
    assert calls[0]["run"]


def _flow_name(workspace: Workspace, flow: str) -> str:
    return json.loads(health.request(f"{workspace.prefect_api}/flows/{flow}"))["name"]


def _run(workspace: Workspace, parameters: str) -> int:
    """`irstd run smoke-flow` in a process of its own, as Prefect's settings are read once."""
    code = (
        "import sys, yaml, pipelines; from irstd.workspace import Workspace\n"
        "pipelines.FLOWS['smoke-flow'] = 'smoke.smoke_flow'\n"
        "from pipelines.run import run_deployment\n"
        "workspace = Workspace.find().enter()\n"
        "sys.exit(run_deployment('smoke-flow', yaml.safe_load(sys.argv[1]), workspace))"
    )
    done = subprocess.run([sys.executable, "-c", code, parameters], cwd=workspace.root, capture_output=True, text=True)
    assert "train.epochs=ten: not a number" in done.stdout, done.stdout + done.stderr
    return done.returncode


def _check_ray(workspace: Workspace) -> None:
    code = (
        "from irstd.workspace import Workspace\n"
        "workspace = Workspace.find().enter()\n"
        "import ray; ray.init(workspace.ray_address, log_to_driver=False)\n"
        "print('sum', ray.get(ray.remote(lambda: 1 + 2).remote()))\n"
        # Ray's own default is 15: whatever else runs on the machine would come first.
        "import os; print('priority', ray.get(ray.remote(lambda: os.nice(0)).remote()) - os.nice(0))\n"
        # Ray trains in a thread, whose own heap could not keep what a step frees.
        "print('heaps', ray.get(ray.remote(lambda: os.environ['MALLOC_ARENA_MAX']).remote()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=workspace.root, capture_output=True, text=True, timeout=60)
    assert "sum 3" in done.stdout, done.stderr
    assert "priority 0" in done.stdout and "heaps 1" in done.stdout


def _check_half_up(workspace: Workspace, record: stack.control.Record) -> None:
    worker = record["services"]["worker"]
    os.kill(worker["pid"], signal.SIGKILL)
    while processes.running(worker["pid"], worker["created"]):
        time.sleep(0.05)
    rows = {row["service"]: row["state"] for row in stack.status(workspace, say=lambda line: None)}
    assert rows == {"prefect": "up", "mlflow": "up", "ray": "up", "worker": "dead"}
    assert Workspace.find(workspace.root).stack == {}
    with pytest.raises(InputError, match="half up .worker died.*irstd down"):
        stack.up(workspace, say=lambda line: None)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_port_that_is_taken(tmp_path: Path, setting: str) -> None:
    workspace = make_workspace(tmp_path)
    listener = socket.create_server(("127.0.0.1", workspace.settings["stack"][setting]))
    with listener, pytest.raises(InputError, match=setting) as caught:
        stack.up(workspace, say=lambda line: None)
    message = str(caught.value)
    assert str(workspace.settings["stack"][setting]) in message and f"process {os.getpid()}" in message
    assert "\n" not in message
    assert nothing_left(workspace) and not (workspace.home / "logs").exists()


@pytest.mark.parametrize("value", ["x", 80, True, 70000])
def test_a_port_that_is_none(tmp_path: Path, value: object) -> None:
    with pytest.raises(InputError, match="stack.mlflow_port"):
        stack.up(make_workspace(tmp_path, mlflow_port=value), say=lambda line: None)


def test_the_same_port_twice(tmp_path: Path) -> None:
    port = processes.free_port()
    with pytest.raises(InputError, match=f"stack.mlflow_port and stack.ray_port are both {port}"):
        stack.up(make_workspace(tmp_path, mlflow_port=port, ray_port=port), say=lambda line: None)


def test_a_prefect_toml_of_the_user_is_kept(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    (tmp_path / "prefect.toml").write_text("[api]\n")
    with pytest.raises(InputError, match="not written by irstd"):
        stack.up(workspace, say=lambda line: None)
    stack.down(workspace, say=lambda line: None)
    assert (tmp_path / "prefect.toml").read_text() == "[api]\n"


def test_services_of_others_are_not_started(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    workspace.settings["mlflow"]["uri"] = "http://elsewhere:5000"
    workspace.settings["ray"]["address"] = "elsewhere:6379"
    workspace.settings["prefect"]["api"] = "http://elsewhere:4200/api"
    assert [service.name for service in stack.services(workspace)] == ["worker"]


def fake(name: str, code: str, healthy: object = None, **more: object) -> Service:
    ask = (lambda since: None) if healthy is None else healthy
    return Service(name, name, [sys.executable, "-c", code], "nowhere", ask, **more)  # type: ignore[arg-type]


def test_a_service_that_dies_takes_the_rest_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path)
    wait = "import time; time.sleep(60)"
    parts = [
        fake("prefect", wait),
        fake("mlflow", "print('no such database'); raise SystemExit(3)", lambda since: "no"),
    ]
    seen: list[int] = []
    monkeypatch.setattr(control, "services", lambda workspace: parts)
    launch = control._launch
    monkeypatch.setattr(control, "_launch", lambda *a: (launch(*a), seen.extend(pids(workspace))))
    with pytest.raises(WorkError, match="mlflow died while starting: no such database .log: .irstd/logs/mlflow.log"):
        stack.up(workspace, say=lambda line: None)
    assert seen and not [pid for pid in seen if alive(pid)]
    assert nothing_left(workspace)


def test_a_service_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path)
    part = fake("ray", "print('thinking', flush=True); import time; time.sleep(60)", lambda since: "no node", limit=1.0)
    monkeypatch.setattr(control, "services", lambda workspace: [part])
    with pytest.raises(WorkError, match=r"ray did not answer within 1 s \(no node\): thinking"):
        stack.up(workspace, say=lambda line: None)
    assert nothing_left(workspace)


def test_an_up_that_was_killed_is_undone_by_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path)
    found: control.Record = {"services": {}}
    control._launch(workspace, fake("ray", "import time; time.sleep(60)"), dict(os.environ), found)
    started = pids(workspace)
    assert Workspace.find(tmp_path).ray_address is None  # no address before everything answers
    with pytest.raises(InputError, match="interrupted.*irstd down"):
        stack.up(workspace, say=lambda line: None)
    assert stack.down(workspace, say=lambda line: None)
    assert started and not [pid for pid in started if alive(pid)]


def test_a_record_of_before_a_reboot(tmp_path: Path) -> None:
    # The numbers now belong to somebody else: to this very process.
    workspace = make_workspace(tmp_path)
    entry = {"pid": os.getpid(), "created": time.time() - 10_000, "port": 1, "address": "", "log": ""}
    workspace.home.mkdir()
    workspace.stack_file.write_text(json.dumps({"services": {"ray": entry}, "ray": "127.0.0.1:1"}))
    assert stack.status(workspace, say=lambda line: None)[0]["state"] == "dead"
    assert not stack.down(workspace, say=lambda line: None)
    assert nothing_left(workspace)


def test_stop_ends_what_does_not_listen_and_what_was_left_behind(tmp_path: Path) -> None:
    # The service ignores SIGTERM, has a child in a session of its own, and one whose parent is gone.
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = (
        f"import os, subprocess, sys; {deaf}\n"
        f"start = lambda **k: subprocess.Popen([sys.executable, '-c', '{deaf}; time.sleep(60)'], **k).pid\n"
        "if os.fork() == 0: print(start(), flush=True); os._exit(0)\n"
        "os.wait(); print(start(start_new_session=True), flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    pid, created = processes.start([sys.executable, "-c", code], os.environ, tmp_path, log)
    while len(log.read_text().split()) < 2:
        assert processes.running(pid, created), log.read_text()
        time.sleep(0.05)
    orphan, apart = (int(word) for word in log.read_text().split())
    time.sleep(0.5)  # until they are deaf
    assert {process.pid for process in processes.members(pid, created)} >= {pid, orphan, apart}
    processes.stop(pid, created, grace=1.0)
    assert not [p for p in (pid, orphan, apart) if alive(p)]


def test_two_at_once(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    with control._only_one(workspace), pytest.raises(InputError, match="another `irstd up`"):
        stack.down(Workspace.find(tmp_path), say=lambda line: None)


def test_stop_lets_a_worker_report_how_its_children_ended(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('ready', flush=True)\n"
        "print('ended', child.wait(), flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    pid, created = processes.start([sys.executable, "-c", code], os.environ, tmp_path, log)
    while "ready" not in log.read_text():
        assert processes.running(pid, created), log.read_text()
        time.sleep(0.05)
    processes.stop(pid, created, grace=5.0, children_first=True)
    assert "ended -15" in log.read_text()
    assert not alive(pid)
