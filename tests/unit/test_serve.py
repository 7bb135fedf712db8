"""`irstd serve` on loopback: a real server, asked over HTTP and WebSocket."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import detected
import numpy as np
import pytest
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from irstd.inference.detector import Detector
from irstd.inference.found import boxes, scores
from irstd.inference.package import Package

ROOT = Path(__file__).resolve().parents[2]


class Served:
    def __init__(self, folder: Path, package: Path, *more: str) -> None:
        (folder / "data.dvc").touch()
        call = [sys.executable, "-m", "irstd", "serve", str(package), "--port", "0", "--device", "cpu", *more]
        self.process = subprocess.Popen(
            call, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "IRSTD_HOME": str(folder / "home")},
        )  # fmt: skip
        line = self.process.stdout.readline()
        found = re.search(r"http://(127\.0\.0\.1:\d+)", line)
        assert found, line + self.process.stdout.read()
        self.url, self.ws = f"http://{found[1]}", f"ws://{found[1]}/stream"

    def stop(self) -> str:
        self.process.terminate()
        return self.process.communicate(timeout=30)[0]


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return detected.package(tmp_path_factory.mktemp("served") / "package", clips=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory, package):
    one = Served(tmp_path_factory.mktemp("serve"), package, "--max-megabytes", "2")
    yield one
    # Nothing odd was printed meanwhile: no traceback, no warning.
    assert one.stop().strip() == ""


@pytest.fixture(scope="module")
def wanted(package):
    """What the detector says of the same frames."""
    return Detector.load(package)(detected.scene(12))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def same(lines: list[dict], wanted: list) -> None:
    assert [line["frame"] for line in lines] == list(range(len(wanted)))
    for line, found in zip(lines, wanted, strict=True):
        assert line["boxes"] == boxes(found)
        assert line["scores"] == pytest.approx(scores(found), abs=1e-4)


def test_health(served, package):
    told = requests.get(f"{served.url}/health", timeout=60).json()
    read = Package.read(package)
    assert told["status"] == "ok" and told["limits"]["bytes"] == 2 << 20
    assert told["model"]["package_sha256"] == read.sha256 and told["model"]["files"] == read.files
    assert told["model"]["frames"] == 3 and told["model"]["bit_depth"] == 14 and told["model"]["version"] is None


@pytest.mark.parametrize("kind", ["npy", "mkv", "tiff"])
def test_a_recording_in_one_request(served, wanted, tmp_path, kind):
    images = detected.scene(12)
    if kind == "npy":
        body = npy(images)
    elif kind == "mkv":
        body = detected.recording(tmp_path / "a.mkv", 12).read_bytes()
    else:
        assert cv2.imwritemulti(str(tmp_path / "a.tiff"), list(images))
        body = (tmp_path / "a.tiff").read_bytes()
    told = requests.post(f"{served.url}/detect", params={"name": "a", "bit_depth": 14}, data=body, timeout=60)
    assert told.status_code == 200, told.text
    told = told.json()
    assert told["video"] == "a" and told["frames"] == 12 and told["bit_depth"] == 14 and told["notes"] == []
    same(told["found"], wanted)
    tracked = requests.post(f"{served.url}/detect", params={"tracks": True}, data=body, timeout=60).json()
    assert {tuple(sorted(line["tracks"])) for line in tracked["found"]} == {(1, 2)}


def test_frames_one_by_one(served, wanted):
    """Two streams in turns keep their own past; every frame is answered before the next is sent."""
    images = detected.scene(12)
    lines: list[list[dict]] = [[], []]
    with connect(f"{served.ws}?tracks=true") as one, connect(f"{served.ws}?bit_depth=14") as other:
        for image in images:
            for socket, into in ((one, lines[0]), (other, lines[1])):
                png = cv2.imencode(".png", image)[1].tobytes()
                socket.send(npy(image) if socket is one else png)
                into.append(json.loads(socket.recv(timeout=60)))
    same(lines[0], wanted)
    same(lines[1], wanted)
    # A number as soon as it is known: from the third detection on.
    assert [sorted(line["tracks"], key=str) for line in lines[0]] == [[None, None]] * 2 + [[1, 2]] * 10
    assert requests.get(f"{served.url}/health", timeout=60).json()["waiting"] == 0


@pytest.mark.parametrize(
    ("body", "params", "code", "words"),
    [
        (b"", {}, 400, "the body is empty"),
        (b"hello world, this is text", {}, 415, "not a format that is read"),
        (npy(np.zeros((2, 9, 9), np.float32)), {}, 400, "counts are whole numbers"),
        (npy(np.zeros((2, 9, 9, 3), np.uint8)), {}, 400, "one grey channel"),
        (npy(np.full((2, 9, 9), 20_000, np.uint16)), {}, 400, "14 bits end at 16383"),
        (npy(np.zeros((2, 9, 9), np.uint8)), {"bit_depth": 14}, 400, "bit_depth 14 does not fit uint8"),
        (npy(np.zeros((2, 9, 9), np.uint8)), {"bit_depth": 40}, 422, "bit_depth: input should be less than"),
        (npy(np.zeros((2, 9, 9), np.uint8)), {"traks": 1}, 422, "^traks: unknown parameter .did you mean 'tracks'"),
        (npy(np.zeros((2, 9, 9), np.uint8))[:-30], {}, 400, "not readable as NPY"),
        (npy(np.array([{}], object)), {}, 400, "not readable as NPY"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 60, {}, 400, "."),
        (b"\x1a\x45\xdf\xa3" + b"x" * 60, {}, 400, "cannot be opened|truncated|damaged"),
        (bytes(3 << 20), {}, 413, "at most 2097152"),
    ],
)
def test_bad_requests_get_one_line(served, body, params, code, words):
    told = requests.post(f"{served.url}/detect", params=params, data=body, timeout=60)
    assert told.status_code == code, told.text
    assert list(told.json()) == ["error"]
    line = told.json()["error"]
    assert re.search(words, line) and "\n" not in line and "/tmp" not in line


def test_an_array_that_claims_too_much_and_a_body_without_a_length(served):
    lie = npy(np.zeros((2, 9, 9), np.uint16)).replace(b"(2, 9, 9), ", b"(99999, 9, 9), ")
    told = requests.post(f"{served.url}/detect", data=lie, timeout=60)
    assert told.status_code == 400 and "NPY" in told.json()["error"]
    told = requests.post(f"{served.url}/detect", data=(bytes(1 << 20) for _ in range(4)), timeout=60)
    assert told.status_code == 413 and "more than 2097152" in told.json()["error"]
    assert requests.get(f"{served.url}/nowhere", timeout=60).json() == {"error": "GET /nowhere: not found"}
    assert requests.get(f"{served.url}/health", timeout=60).ok


@pytest.mark.parametrize(
    ("query", "messages", "words"),
    [
        ("?trucks=true", [], "trucks: unknown parameter (did you mean 'tracks'?)"),
        (
            "",
            [npy(detected.scene(1)[0]), npy(detected.scene(1)[0][:20])],
            "frame 1 is 64x20 of 14 bits, those before are 64x48",
        ),
        ("", [npy(detected.scene(2))], "frame 0: holds several frames"),
        ("", ["text"], "binary message"),
        ("", [b"rubbish"], "frame 0: not a format"),
        ("?median=3", [], "all of median, p005 and p995"),
    ],
)
def test_bad_frames_end_their_stream_with_one_line(served, query, messages, words):
    with connect(served.ws + query) as socket:
        for message in messages[:-1]:
            socket.send(message)
            assert "boxes" in json.loads(socket.recv(timeout=60))
        for message in messages[-1:]:
            socket.send(message)
        assert words in json.loads(socket.recv(timeout=60))["error"]
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=60)


def test_another_page_may_not_stream(served):
    with pytest.raises(InvalidStatus):
        connect(served.ws, origin="http://elsewhere.example")


def test_too_many_streams_are_told_to_come_later(served):
    held = [connect(served.ws) for _ in range(8)]
    with connect(served.ws) as socket:
        assert "8 streams are open already" in json.loads(socket.recv(timeout=60))["error"]
    for each in held:
        each.close()


def test_a_port_that_is_taken(served, package, tmp_path):
    from irstd.errors import InputError
    from irstd.service.server import listening

    port = int(served.url.rpartition(":")[2])
    with pytest.raises(InputError, match="give another --port"):
        listening("127.0.0.1", port)
