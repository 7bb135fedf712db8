"""Downloads against a real server: to the byte, resumed, checked, and never anything unchecked under a file's name."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from servers import Server, serving

from irstd.data.public import download
from irstd.data.public.download import fetch
from irstd.data.public.records import RemoteFile
from irstd.errors import InputError, WorkError

CONTENT = np.random.default_rng(1).integers(0, 256, 1_000_003, dtype=np.uint8).tobytes()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as running:
        running.files["f.bin"] = CONTENT
        yield running


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_files_come_to_their_places_once(tmp_path: Path, server: Server) -> None:
    server.files |= {"a/1": b"one", "a/2": b"two", "empty": b""}
    files = [server.remote("f.bin", "deep/f.bin"), server.remote("a/1"), server.remote("a/2"), server.remote("empty")]
    told: list[tuple[int, int, str]] = []
    assert fetch(files, tmp_path / "d", lambda *step: told.append(step)) == 4
    assert (tmp_path / "d/deep/f.bin").read_bytes() == CONTENT and (tmp_path / "d/a/2").read_bytes() == b"two"
    assert left(tmp_path / "d") == {"deep/f.bin", "a/1", "a/2", "empty"}
    assert told[-1] == (len(CONTENT) + 6, len(CONTENT) + 6, "a/2")
    assert [step[0] for step in told] == sorted(step[0] for step in told) and len(told) > 4
    count = len(server.requests)
    assert fetch(files, tmp_path / "d") == 0 and len(server.requests) == count
    # What was altered where it lies comes again, alone.
    (tmp_path / "d/a/1").write_bytes(b"eno")
    assert fetch(files, tmp_path / "d") == 1 and (tmp_path / "d/a/1").read_bytes() == b"one"


@pytest.mark.parametrize("tags", [True, False])
def test_a_transfer_that_breaks_off_goes_on_where_it_was(tmp_path: Path, server: Server, tags: bool) -> None:
    server.tags = tags
    server.faults = [("cut", 400_000), ("cut", 100_000)]
    told: list[int] = []
    assert fetch([server.remote("f.bin")], tmp_path, lambda done, *rest: told.append(done)) == 1
    assert (tmp_path / "f.bin").read_bytes() == CONTENT and left(tmp_path) == {"f.bin"}
    (_, none, _), (_, second, tag), (_, third, _) = server.requests
    # All whole blocks that came: 6 of the first answer, 1 of the second.
    starts = [f"bytes={blocks * download.BLOCK}-" for blocks in (6, 7)]
    assert (none, second, third) == (None, *starts) and bool(tag) == tags
    assert told[-1] == len(CONTENT) and told == sorted(told)


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path, server: Server) -> None:
    """SIGKILL in mid-transfer; the next process asks for the rest."""
    file = server.remote("f.bin")
    body = f"""
import os, signal, sys
from pathlib import Path
from irstd.data.public.download import fetch
from irstd.data.public.records import RemoteFile
def tell(done, total, place):
    if done > 500_000:
        os.kill(os.getpid(), signal.SIGKILL)
fetch([RemoteFile({file.url!r}, "f.bin", {file.size}, {file.sha256!r})], Path({str(tmp_path)!r}), tell)
"""
    assert subprocess.run([sys.executable, "-c", body], check=False).returncode == -signal.SIGKILL
    assert left(tmp_path) == {"f.bin.part", "f.bin.part.etag"}
    come = (tmp_path / "f.bin.part").stat().st_size
    assert 500_000 < come < len(CONTENT)
    total: list[int] = []
    fetch([file], tmp_path, lambda done, all_, place: total.append(all_))
    assert server.requests[-1][1] == f"bytes={come}-" and total[-1] == len(CONTENT) - come
    assert (tmp_path / "f.bin").read_bytes() == CONTENT and left(tmp_path) == {"f.bin"}


def test_a_server_without_ranges_starts_anew(tmp_path: Path, server: Server) -> None:
    server.ranges = False
    server.faults = [("cut", 400_000)]
    fetch([server.remote("f.bin")], tmp_path)
    assert server.requests[1][1] == f"bytes={6 * download.BLOCK}-" and (tmp_path / "f.bin").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_starts_anew(tmp_path: Path, server: Server) -> None:
    (tmp_path / "f.bin.part").write_bytes(b"old" * 1000)
    (tmp_path / "f.bin.part.etag").write_text('"old"')
    fetch([server.remote("f.bin")], tmp_path)
    assert server.requests == [("f.bin", "bytes=3000-", '"old"')] and (tmp_path / "f.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [3000, len(CONTENT), len(CONTENT) + 5])
def test_bytes_that_are_not_those_of_the_file_are_dropped(tmp_path: Path, server: Server, size: int) -> None:
    """A part without its tag is appended to; the checksum then shows that it was of something else."""
    (tmp_path / "f.bin.part").write_bytes(bytes(size))
    fetch([server.remote("f.bin")], tmp_path)
    assert (tmp_path / "f.bin").read_bytes() == CONTENT and left(tmp_path) == {"f.bin"}


def test_a_range_that_the_server_refuses(tmp_path: Path, server: Server) -> None:
    long = server.remote("f.bin")
    server.files["f.bin"] = CONTENT[:1000]  # meanwhile shorter than what has come
    (tmp_path / "f.bin.part").write_bytes(CONTENT[:2000])
    with pytest.raises(WorkError, match="ends before the end that is listed, listed are 1000003 bytes"):
        fetch([long], tmp_path)


@pytest.mark.parametrize("listed", [CONTENT[:-1] + b"?", CONTENT + b"more", CONTENT[:-9]])
def test_a_wrong_checksum_leaves_nothing(tmp_path: Path, server: Server, listed: bytes) -> None:
    (tmp_path / "f.bin").write_bytes(b"what was there")
    with pytest.raises(WorkError) as caught:
        fetch([server.remote("f.bin", content=listed)], tmp_path)
    assert "\n" not in str(caught.value) and "what came was removed" in str(caught.value)
    assert left(tmp_path) == {"f.bin"}
    assert (tmp_path / "f.bin").read_bytes() == b"what was there"
    assert len(server.requests) <= download.TRIES


def test_what_passes_is_tried_again_and_what_does_not_is_said(tmp_path: Path, server: Server) -> None:
    server.faults = [503, 429, 500, ("cut", 0)]
    fetch([server.remote("f.bin")], tmp_path)
    assert len(server.requests) == 5
    for status, asked in ((404, 1), (403, 1), (503, download.TRIES)):
        server.requests.clear()
        server.faults = [status] * 9
        with pytest.raises(WorkError, match=rf"the server says {status} .*; the same command goes on where it was"):
            fetch([server.remote("f.bin", "other")], tmp_path)
        assert len(server.requests) == asked and not (tmp_path / "other").exists()


def test_a_server_that_always_breaks_off_ends(tmp_path: Path, server: Server) -> None:
    server.ranges = False
    server.faults = [("cut", 1000)] * 99
    with pytest.raises(WorkError, match="broke off"):
        fetch([server.remote("f.bin")], tmp_path)
    assert len(server.requests) <= download.TRIES + 1


def test_no_server_at_all(tmp_path: Path, server: Server) -> None:
    gone = RemoteFile("http://127.0.0.1:9/f", "f", 1, "0" * 64)
    with pytest.raises(WorkError, match=r"http://127.0.0.1:9/f: no connection.*refused"):
        fetch([gone], tmp_path)


@pytest.mark.parametrize(
    "url", ["http://example.org/f", "ftp://127.0.0.1/f", "file:///etc/passwd", "http://127.0.0.1@example.org/"]
)
def test_addresses_that_are_not_secure(tmp_path: Path, server: Server, url: str) -> None:
    with pytest.raises(InputError, match="is no https address"):
        fetch([RemoteFile(url, "f", 1, "0" * 64)], tmp_path)
    server.faults = [("to", url)]
    with pytest.raises(InputError, match="is no https address"):
        fetch([server.remote("f.bin")], tmp_path)
    assert not left(tmp_path)


def test_redirects_are_followed(tmp_path: Path, server: Server) -> None:
    server.files["g.bin"] = CONTENT
    server.faults = [("to", "/g.bin")]
    fetch([server.remote("f.bin")], tmp_path)
    assert [path for path, *_ in server.requests] == ["f.bin", "g.bin"] and (tmp_path / "f.bin").read_bytes() == CONTENT
    server.faults = [("to", "/f.bin")] * 99
    with pytest.raises(WorkError, match="5 redirects"):
        fetch([server.remote("f.bin", "again")], tmp_path)


def test_a_silent_server_is_given_up(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(download, "TIMEOUT", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/f"
        with pytest.raises(WorkError, match="no answer in time"):
            fetch([RemoteFile(url, "f", 1, "0" * 64)], tmp_path)


def test_the_disk_is_asked_first(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda place: usage._replace(free=1_000_000))
    with pytest.raises(WorkError, match="1000003 bytes are to come, 1000000 are free"):
        fetch([server.remote("f.bin")], tmp_path)
    assert not server.requests
    (tmp_path / "f.bin.part").write_bytes(CONTENT[:1000])  # what has come takes no more room
    assert fetch([server.remote("f.bin")], tmp_path) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_fills_up(tmp_path: Path, server: Server) -> None:
    (tmp_path / "f.bin.part").symlink_to("/dev/full")
    with pytest.raises(WorkError, match=r"f.bin.part: cannot be written \(No space left on device\)"):
        fetch([server.remote("f.bin")], tmp_path)
