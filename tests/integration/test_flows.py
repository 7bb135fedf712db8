"""Flows: the commands they run, and their driver: its stream, its end, its retries."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import pipelines
from irstd.config import Config, paths
from irstd.errors import InputError
from irstd.workspace import Workspace
from pipelines import FLOWS, driver
from pipelines.driver import BadInput, DriverError, run_driver
from pipelines.parameters import flow_parameters, given, overrides

REPOSITORY = Path(pipelines.__file__).parents[1]
FLOW_MODULES = ("ingest", "shard", "train", "tune", "promote", "detect")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("IRSTD_HOME", raising=False)
    (tmp_path / "data.dvc").touch()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.yaml").write_text("train:\n  epochs: 7\n")
    monkeypatch.chdir(tmp_path)
    return Workspace.find()


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines of a driver that is called outside a run."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("irstd.pipelines")
    handler, level = Keep(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def run(workspace: Workspace, code: str, *arguments: str, **options: Any) -> dict[str, Any] | None:
    return run_driver(arguments, workspace, program=(sys.executable, "-c", code), **options)


def gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def flow(name: str) -> Any:
    from prefect.utilities.importtools import import_object

    return import_object(FLOWS[name])


# What Prefect needs of FastAPI, and prefect.yaml of the flows.


def test_the_server_can_be_made() -> None:
    from prefect.server.api.server import create_app

    assert create_app().routes


def test_fastapi_takes_null_for_a_body_parameter_with_a_default() -> None:
    # Prefect's client sends {"limit": null}; from 0.151 on FastAPI answers 422, and `prefect deploy` fails.
    import asyncio

    import httpx
    from fastapi import Body, FastAPI

    app = FastAPI()

    @app.post("/")
    def read(limit: int = Body(3), offset: int = Body(0, ge=0)) -> int:
        return limit + offset

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.post("/", json={"limit": None, "offset": None})

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()) == (200, 3)


def test_prefect_yaml_deploys_every_flow_as_default_and_names_no_path() -> None:
    text = (REPOSITORY / "prefect.yaml").read_text()
    content = yaml.safe_load(text)
    assert content["name"] == "irstd"
    assert content["pull"] == []
    assert [d["entrypoint"] for d in content["deployments"]] == list(FLOWS.values())
    assert {d["name"] for d in content["deployments"]} == {"default"}
    assert str(REPOSITORY) not in text


@pytest.mark.parametrize("name", FLOWS)
def test_entrypoints_are_flows_of_that_name(name: str) -> None:
    assert flow(name).name == name


# Parameters.


def test_only_the_values_that_were_given_are_passed_on() -> None:
    assert overrides(Config()) == []
    config = Config.model_validate({"train": {"lr": 1e-5, "epochs": 100}, "data": {"sets": ["a", "b"], "crop": None}})
    assert overrides(config) == ['data.sets=["a", "b"]', "data.crop=null", "train.epochs=100", "train.lr=1e-05"]
    assert overrides(config, "train.") == ["train.epochs=100", "train.lr=1e-05"]


def test_prefect_keeps_apart_what_was_given() -> None:
    train = flow("train-flow")
    for config in ({"train": {"epochs": 3}}, Config.model_validate({"train": {"epochs": 3}})):
        found = train.validate_parameters({"config": config, "workers": "2"})
        assert given(found["config"]) == {"train.epochs": 3}
        assert str(found["workers"]) == "2"
    assert given(train.validate_parameters({}).get("config", Config())) == {}


def test_a_form_that_sends_the_whole_tree_overrules_nothing() -> None:
    tree = Config().model_dump(mode="json")
    tree["train"]["epochs"] = 3
    assert given(Config.model_validate(tree)) == {"train.epochs": 3}


def test_every_value_survives_the_way_to_the_command() -> None:
    from irstd.config import load, parse_overrides

    tree = Config().model_dump(mode="json")
    changed = {"lr": 3e-07, "hours": 1.5, "clip": 10.0, "schedule": "constant", "channels_last": False}
    tree["train"] |= changed
    tree["data"] |= {"sets": ["x y", "1e3"], "crop": 64}
    tree["registry"]["name"] = "GGL.net_1"
    wanted = Config.model_validate(tree)
    assert load(overrides=parse_overrides(overrides(wanted))) == wanted


def test_key_value_pairs_become_parameters(workspace: Workspace) -> None:
    train = flow("train-flow")
    assert flow_parameters(train, ["workers=2", "train.lr=1e-3", "recipe=null", "data.sets=[a]"]) == {
        "workers": 2,
        "recipe": None,
        "config": {"train": {"lr": 0.001}, "data": {"sets": ["a"]}},
    }
    # A network's own fields go to the network that will be trained.
    (workspace.root / "recipes" / "demo.yaml").write_text("model: {name: bp-fpn}\n")
    for pairs in (["model=bp-fpn", "recipe=null"], []):
        config = flow_parameters(train, [*pairs, "model.width=0.25"])["config"]
        assert (
            config == {"model": {"name": "bp-fpn", "width": 0.25}} and Config.model_validate(config).model.width == 0.25
        )
    (workspace.root / "tune_spaces").mkdir()
    (workspace.root / "tune_spaces" / "small.yaml").write_text(
        "model: bp-fpn\nspace: {train.lr: {choice: [0.1, 0.2]}}\n"
    )
    config = flow_parameters(flow("tune-flow"), ["space=small", "model.width=0.25"])["config"]
    assert config["model"]["name"] == "bp-fpn"
    with pytest.raises(InputError, match="no parameter 'worker' .did you mean 'workers'"):
        flow_parameters(train, ["worker=2"])
    with pytest.raises(InputError, match="no parameter 'train.lr'"):
        flow_parameters(flow("promote-flow"), ["train.lr=1"])
    with pytest.raises(InputError, match="expected key=value"):
        flow_parameters(train, ["workers"])


def test_running_a_flow_needs_the_stack(workspace: Workspace) -> None:
    from pipelines.run import run_deployment

    with pytest.raises(InputError, match="start it with `irstd up`"):
        run_deployment("train-flow", {}, workspace)
    with pytest.raises(InputError, match="did you mean 'train-flow'"):
        run_deployment("train", {}, workspace)


# The commands.


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> list[list[str]]:
    """What the flows would run."""
    import importlib

    found: list[list[str]] = []

    class Drive:
        @staticmethod
        def with_options(name: str) -> Callable[[list[str]], None]:
            return lambda arguments: found.append(arguments)

    for name in FLOW_MODULES:
        monkeypatch.setattr(importlib.import_module(f"pipelines.{name}"), "drive", Drive)
    return found


CONFIG = Config.model_validate({"train": {"epochs": 3}})
CASES: list[tuple[str, dict[str, Any], list[list[str]]]] = [
    ("ingest-flow", {"source": "in", "name": "a"}, [["ingest", "in", "--name", "a", "--format", "auto"]]),
    (
        "ingest-flow",
        {"source": "DAUB", "list_name": "coco_DAUB", "given": "daub.zip"},
        [["ingest", "DAUB", "--format", "auto", "--list", "coco_DAUB", "--from", "daub.zip"]],
    ),
    (
        "ingest-flow",
        {"source": "in", "name": "a", "format": "simple", "bit_depth": 14, "update": True},
        [["ingest", "in", "--name", "a", "--format", "simple", "--bit-depth", "14", "--update"]],
    ),
    ("shard-flow", {}, [["shard"]]),
    ("train-flow", {}, [["shard"], ["train", "ggl-net", "--recipe", "recipes/demo.yaml"]]),
    (
        "train-flow",
        {"model": "ggl-net", "recipe": None, "config": CONFIG, "workers": 2, "register_model": False},
        [
            ["shard"],
            ["train", "ggl-net", "--workers", "2", "--no-register", "train.epochs=3"],
        ],
    ),
    (
        "tune-flow",
        {"config": CONFIG, "workers": 1},
        [["shard"], ["tune", "demo", "--workers", "1", *overrides(CONFIG)]],
    ),
    ("promote-flow", {}, [["promote", "models:/ggl-net@challenger"]]),
    # Shards elsewhere are taken as they are.
    ("train-flow", {"shards": "s"}, [["train", "ggl-net", "--recipe", "recipes/demo.yaml", "--shards", "s"]]),
    ("tune-flow", {"shards": "s"}, [["tune", "demo", "--shards", "s"]]),
    ("promote-flow", {"shards": "s"}, [["promote", "models:/ggl-net@challenger", "--shards", "s"]]),
    (
        "promote-flow",
        {"bound": 0.01, "accept_insufficient": True},
        [["promote", "models:/ggl-net@challenger", "--bound", "0.01", "--accept-insufficient"]],
    ),
    ("promote-flow", {"rollback": True}, [["promote", "models:/ggl-net@challenger", "--rollback"]]),
    (
        "detect-flow",
        {"video": "a/b.mkv", "out": "c"},
        [["detect", "a/b.mkv", "--model", "models:/ggl-net@champion", "--out", "c"]],
    ),
    (
        "detect-flow",
        {
            "video": ["a", "b/*.mkv"],
            "model": "m",
            "out": "c",
            "formats": "coco,mot",
            "page": True,
            "tracks": True,
            "ray": True,
        },
        [
            [
                "detect",
                "a",
                "b/*.mkv",
                "--model",
                "m",
                "--format",
                "coco,mot",
                "--ray",
                "--page",
                "--tracks",
                "--out",
                "c",
            ]
        ],
    ),
    (
        "detect-flow",
        {"video": "a", "out": "c", "overlay": False, "bit_depth": 14, "workers": 2},
        [
            [
                "detect",
                "a",
                "--model",
                "models:/ggl-net@champion",
                "--bit-depth",
                "14",
                "--workers",
                "2",
                "--no-overlay",
                "--out",
                "c",
            ]
        ],
    ),
]


@pytest.mark.parametrize(("name", "parameters", "wanted"), CASES)
def test_commands(name: str, parameters: dict[str, Any], wanted: list[list[str]], commands: list[list[str]]) -> None:
    flow(name).fn(**parameters)
    assert commands == wanted


def test_an_answer_that_says_no_is_a_result(workspace: Workspace) -> None:
    """Status 1 with a result (a challenger that did not win) is no failure; without one it is."""
    says = "import sys; print('kept'); print('irstd-result: {\"promoted\": false}'); sys.exit(1)"
    assert run_driver(["promote"], workspace, program=[sys.executable, "-c", says]) == {"promoted": False}
    with pytest.raises(DriverError, match="status 1"):
        run_driver(["promote"], workspace, program=[sys.executable, "-c", "import sys; sys.exit(1)"])


def test_detections_go_to_the_home_folder(commands: list[list[str]], workspace: Workspace) -> None:
    flow("detect-flow").fn("a/b.mkv")
    assert commands[0][-1] == str(workspace.home / "detections" / "b")
    flow("detect-flow").fn(["in/night/*.mkv", "c.mkv"])
    assert commands[1][-1] == str(workspace.home / "detections" / "night")


def test_a_recipe_that_is_missing_is_told_before_anything_runs(commands: list[list[str]]) -> None:
    with pytest.raises(InputError, match="no such file"):
        flow("train-flow").fn(recipe="recipes/none.yaml")
    assert commands == []


@pytest.mark.parametrize("command", [command for _, _, wanted in CASES for command in wanted])
def test_the_command_line_takes_the_commands(command: list[str]) -> None:
    import typer

    from irstd.cli import app

    known = typer.main.get_command(app).commands[command[0]]
    assert known.make_context(command[0], command[1:]).params


# The driver.


def test_lines_come_as_they_are_printed(workspace: Workspace, log: list[str]) -> None:
    # The child goes on only when its first line has been seen.
    class Answer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "first":
                (workspace.root / "seen").touch()

    code = (
        "import json, os, pathlib, sys, time\n"
        "print('first')\n"
        "deadline = time.time() + 20\n"
        "while not pathlib.Path('seen').exists():\n"
        "    if time.time() > deadline: sys.exit('nobody has read it')\n"
        "    time.sleep(.01)\n"
        "print('a\\rb', file=sys.stderr); print('[/x]')\n"
        "print('irstd-result: ' + json.dumps({'run': sys.argv[1], 'home': os.environ['PREFECT_HOME']}))\n"
    )
    handler = Answer()
    logging.getLogger("irstd.pipelines").addHandler(handler)
    try:
        result = run(workspace, code, "one")
    finally:
        logging.getLogger("irstd.pipelines").removeHandler(handler)
    assert result == {"run": "one", "home": str(workspace.home / "prefect")}
    assert log == ["irstd one", "first", "a", "b", "[ /x]"]


def test_a_child_without_a_result(workspace: Workspace) -> None:
    assert run(workspace, "print('irstd-result: {half')") is None
    assert run(workspace, "print('irstd-result: 3')") is None


@pytest.mark.parametrize(
    ("code", "kind", "status", "message"),
    [
        ("import sys; print('x'); sys.exit(1)", DriverError, 1, "irstd go ended with status 1: x"),
        ("import sys; print('y: no such folder'); sys.exit(2)", BadInput, 2, "^y: no such folder$"),
        ("import os; print('z', flush=True); os.kill(os.getpid(), 9)", DriverError, -9, "was killed by signal 9: z"),
        ("raise SystemExit(3)", DriverError, 3, "it printed nothing"),
    ],
)
def test_a_child_that_fails(workspace: Workspace, code: str, kind: type, status: int, message: str) -> None:
    with pytest.raises(DriverError, match=message) as caught:
        run(workspace, code, "go")
    assert type(caught.value) is kind
    assert caught.value.status == status


DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
FAMILY = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', {code!r} + 'print(1, flush=True); import time; time.sleep(60)'],"
    " stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "print('ready', os.getpid(), child.pid, flush=True); time.sleep(60)"
)


@pytest.mark.parametrize("deaf", ["", DEAF])
def test_a_cancelled_run_ends_the_whole_group(workspace: Workspace, deaf: str) -> None:
    # Prefect cancels a run by raising in it.
    seen: list[int] = []

    class Cancel(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("ready"):
                seen.extend(int(word) for word in record.getMessage().split()[1:])
                raise KeyboardInterrupt

    logger = logging.getLogger("irstd.pipelines")
    handler, level = Cancel(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(workspace, deaf + FAMILY.format(code=deaf), grace=1.0)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert len(seen) == 2
    assert all(gone(pid, 0.5) for pid in seen)


def test_what_a_child_leaves_behind_does_not_hold_the_run(workspace: Workspace, log: list[str]) -> None:
    # A daemon of its own session keeps the pipe open.
    code = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True).pid)"
    )
    began = time.monotonic()
    run(workspace, code)
    assert time.monotonic() - began < 20
    os.kill(int(log[-1]), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at the death of a parent")
def test_the_child_follows_a_parent_that_is_killed(workspace: Workspace) -> None:
    code = (
        "import sys; from irstd.workspace import Workspace; from pipelines.driver import run_driver\n"
        "child = 'import os, time; print(os.getpid(), file=open(\\'pid\\', \\'w\\'), flush=True); time.sleep(60)'\n"
        "run_driver([], Workspace.find(), program=(sys.executable, '-c', child))"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PREFECT_HOME": str(workspace.home)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        try:
            deadline = time.monotonic() + 30
            while not _words(workspace.root / "pid"):
                assert time.monotonic() < deadline and parent.poll() is None
                time.sleep(0.05)
        finally:
            parent.kill()
    assert gone(int(_words(workspace.root / "pid")[0]))


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.fixture(scope="module")
def _server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


# The child counts its attempts and ends as it is told for each.
ATTEMPT = """
import os, pathlib, sys
file = pathlib.Path("attempts"); n = len(file.read_text()) if file.exists() else 0
file.write_text("x" * (n + 1))
end = sys.argv[1].split(",")[n]
print("attempt", n, os.environ["IRSTD_FLOW_RUN"])
if end == "kill": os.kill(os.getpid(), 9)
sys.exit(int(end))
"""


@pytest.mark.parametrize(
    ("ends", "state", "attempts"),
    [("kill,0", "Completed", 2), ("1,1,0", "Failed", 2), ("2,0", "Failed", 1)],
)
@pytest.mark.timeout(180)
def test_a_driver_that_died_is_started_once_more_but_bad_input_is_not(
    workspace: Workspace,
    _server: None,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
    state: str,
    attempts: int,
) -> None:
    from prefect import flow as make_flow

    monkeypatch.setattr(driver, "IRSTD", (sys.executable, "-c", ATTEMPT))

    @make_flow(name="attempts-flow")
    def attempts_flow() -> None:
        driver.drive([ends])

    found = attempts_flow(return_state=True)
    assert found.name == state, found
    assert len((workspace.root / "attempts").read_text()) == attempts


def test_no_task_is_cached() -> None:
    from prefect.cache_policies import NO_CACHE

    assert driver.drive.cache_policy == NO_CACHE
    assert driver.drive.persist_result is False
    assert driver.drive.retries == 1


def test_results_are_pickled_with_their_status() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(BadInput("x", 2)))
    assert (type(error), str(error), error.status) == (BadInput, "x", 2)


def test_the_configuration_is_a_typed_form() -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(flow("train-flow")).model_dump()
    assert schema["required"] == []
    sections = schema["definitions"]["Config"]["properties"]
    assert set(sections) == {path.split(".")[0] for path in paths()}
    assert json.dumps(schema["definitions"]["TrainConfig"]["properties"]["epochs"])
