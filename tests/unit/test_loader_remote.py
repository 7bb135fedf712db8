"""Shards on a store: fetched once, checked, kept within a limit; a store that misbehaves is one error, and soon."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from irstd.data.loader import ClipLoader
from irstd.data.manifest import Manifest
from irstd.data.remote import Cache
from irstd.errors import InputError, WorkError
from tests.unit.test_loader_order import assert_same

GATE = "sample/gate-000000.tar"


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; `server.faults` says how many of the next requests for tars go wrong, and how."""

    def do_GET(self) -> None:
        server = self.server
        if not self.path.endswith(".tar"):
            super().do_GET()
            return
        server.requests.append(self.path)
        fault = server.faults.pop(0) if server.faults else None
        if fault == "error":
            self.send_error(503)
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "other":
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault in ("half", "stall"):
            content = content[: len(content) // 2]
        self.wfile.write(content)
        self.wfile.flush()
        if fault == "stall":
            server.released.wait(20)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(sample_shards: Path) -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(sample_shards)))
    found.faults, found.requests, found.released = [], [], threading.Event()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.released.set()
    found.shutdown()
    thread.join()
    found.server_close()


def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def cache(folder: Path, **more: float) -> Cache:
    return Cache(folder / "cache", **{"timeout": 20.0, "wait": 0.0, **more})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("guarded", [False, True])
def test_the_same_batches_as_from_the_disk_and_each_tar_once(server, sample_shards, tmp_path, workers, guarded):
    options = {"batch_size": 3, "crop": 16, "workers": workers, "guarded": guarded}
    for _ in range(2):  # the second loader finds the cache full
        for split in ("train", "val"):
            remote = ClipLoader(url(server), split, cache=cache(tmp_path), **options)
            for found, expected in zip(remote, ClipLoader(sample_shards, split, **options), strict=True):
                assert_same(found, expected)
    assert len(server.requests) == len(set(server.requests)) == 2
    tars = {s["sha256"] for split in ("train", "val") for s in Manifest.read(sample_shards / "sample").shards(split)}
    kept = [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")]
    assert sorted(kept) == sorted(f"{sha256}.tar" for sha256 in tars)


def test_other_kinds_of_urls(sample_shards, tmp_path):
    files = fsspec.filesystem("memory")
    files.put(str(sample_shards), "/bucket/shards", recursive=True)
    try:
        expected = list(ClipLoader(sample_shards, "gate"))
        for address in ("memory://bucket/shards", f"file://{sample_shards}"):
            for found, wanted in zip(ClipLoader(address, "gate", cache=cache(tmp_path)), expected, strict=True):
                assert_same(found, wanted)
        files.rm(f"/bucket/shards/{GATE}")
        with pytest.raises(WorkError, match=r"gate-000000.tar: cannot be read \(no such file\); upload the shards"):
            list(ClipLoader("memory://bucket/shards", "gate", cache=cache(tmp_path / "other")))
    finally:
        files.rm("/bucket", recursive=True)
    with pytest.raises(InputError, match="memory://bucket/shards: no shards here"):
        ClipLoader("memory://bucket/shards", "gate", cache=cache(tmp_path))
    with pytest.raises(InputError, match="nosuch://x: not a URL that fsspec reads"):
        ClipLoader("nosuch://x", "gate", cache=cache(tmp_path))


@pytest.mark.parametrize("fault", ["error", "half", "other", "stall"])
def test_a_fault_that_passes_is_tried_again_and_one_that_stays_is_named(server, tmp_path, fault):
    settings = cache(tmp_path, tries=2, timeout=0.3)
    server.faults = [fault]
    assert len(list(ClipLoader(url(server), "gate", cache=settings))) > 0
    shutil.rmtree(tmp_path / "cache")
    server.faults = [fault] * 2
    with pytest.raises(WorkError, match=rf"{GATE}: not fetched in 2 tries \(the last: .+\); check the store") as raised:
        list(ClipLoader(url(server), "gate", cache=settings))
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")]
    assert len(list(ClipLoader(url(server), "gate", cache=settings))) > 0  # once the store is well again


def test_a_driver_that_waits_for_ever_is_given_up(sample_shards, tmp_path, monkeypatch):
    """Not every driver has a time limit of its own."""
    files, released = fsspec.filesystem("memory"), threading.Event()
    files.put(str(sample_shards), "/slow", recursive=True)
    read = type(files).get_file

    def get_file(self, remote: str, local: str, **options: object) -> None:
        if remote.endswith(".tar"):
            Path(local).write_bytes(b"some")
            released.wait(20)
        else:
            read(self, remote, local, **options)

    monkeypatch.setattr(type(files), "get_file", get_file)
    try:
        with pytest.raises(WorkError, match=r"no byte for 0\.2 s after 4 bytes"):
            list(ClipLoader("memory://slow", "gate", cache=cache(tmp_path, tries=1, timeout=0.2)))
    finally:
        released.set()
        files.rm("/slow", recursive=True)


def test_the_cache_is_checked_and_stays_within_its_limit(server, sample_shards, tmp_path):
    def tar(split: str) -> Path:
        return tmp_path / "cache" / f"{Manifest.read(sample_shards / 'sample').shards(split)[0]['sha256']}.tar"

    for split in ("gate", "val"):
        list(ClipLoader(url(server), split, cache=cache(tmp_path)))
    # A damaged tar of the cache is fetched again.
    content = tar("gate").read_bytes()
    tar("gate").write_bytes(content[:1000] + b"?" + content[1001:])
    list(ClipLoader(url(server), "gate", cache=cache(tmp_path)))
    assert tar("gate").read_bytes() == content and [r[1:] for r in server.requests].count(GATE) == 2
    # Over the limit the one used longest ago goes; its reader goes on.
    gate = ClipLoader(url(server), "gate", batch_size=1, cache=cache(tmp_path))
    reading = iter(gate)
    next(reading)
    limit = content_size(sample_shards, "val") + content_size(sample_shards, "test")
    assert limit < limit + len(content)
    list(ClipLoader(url(server), "val", cache=cache(tmp_path)))
    list(ClipLoader(url(server), "test", cache=cache(tmp_path, limit=limit)))
    assert not tar("gate").exists() and tar("val").exists() and tar("test").exists()
    assert len(list(reading)) == len(gate) - 1
    list(ClipLoader(url(server), "gate", cache=cache(tmp_path, limit=1)))  # one is always kept
    assert [path.name for path in (tmp_path / "cache").glob("*.tar")] == [tar("gate").name]


def content_size(shards: Path, split: str) -> int:
    return sum((shards / "sample" / s["file"]).stat().st_size for s in Manifest.read(shards / "sample").shards(split))


def test_several_readers_of_one_cache_fetch_a_tar_once(server, tmp_path):
    failed: list[BaseException] = []

    def work() -> None:
        try:
            list(ClipLoader(url(server), "gate", cache=cache(tmp_path)))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(server.requests) == 1
