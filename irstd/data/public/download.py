"""Files over https, to the byte: a transfer that breaks off goes on where it was, and nothing unchecked takes a file's name.

`requests` brings connections, redirects, certificates and proxies. What is kept here: `NAME.part` with the bytes that have
come, `NAME.part.etag` with the server's name of that content (sent as If-Range, so that a changed file starts anew), and
the sha256 that decides at the end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from irstd.data.public.records import RemoteFile
from irstd.errors import InputError, WorkError
from irstd.files import sha256_file, writing

TRIES = 5  # in a row without a byte that was new
PAUSE = 1.0  # seconds before the second try; twice as long before each further one
TIMEOUT = (15.0, 60.0)  # seconds to connect, and between two blocks
BLOCK = 1 << 16  # what has come of a block is lost where a transfer breaks off
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

# Called with (bytes that have come, bytes to come in all, place of the file).
Tell = Callable[[int, int, str], None]


class _Changed(Exception):
    """The bytes that were there do not fit what the server has: once more from the first byte."""


def fetch(files: Sequence[RemoteFile], folder: Path, tell: Tell | None = None) -> int:
    """Bring `files` to `folder`, each under its place; what is there and of the right sha256 stays. Returns how many came.

    `InputError` where an address is not https (http is for this machine alone). `WorkError` where a server does not give
    a file, gives another than the list says, or the disk is full; the same call then goes on where it was.
    """
    for file in files:
        _secure(file.url)
    left = [file for file in files if not _there(file, folder / file.place)]
    need, done = _room(left, folder), 0
    with _Session() as session:
        for file in left:
            target = folder / file.place
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            had = _size(_part(target))

            def told(count: int, before: int = done - had, file: RemoteFile = file) -> None:
                if tell:
                    tell(max(0, before + count), need, file.place)

            _fetch(session, file, target, told)
            done += file.size - had
    return len(left)


def _there(file: RemoteFile, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == file.size and sha256_file(target) == file.sha256


def _room(left: Sequence[RemoteFile], folder: Path) -> int:
    """How many bytes are to come. `WorkError` where the disk has no room for them."""
    if not left:
        return 0
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    need = sum(max(0, file.size - _size(_part(folder / file.place))) for file in left)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise WorkError(
            f"{folder}: {need} bytes are to come, {free} are free: free some space, then the same command goes on"
        )
    return need


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _fetch(session: requests.Session, file: RemoteFile, target: Path, tell: Callable[[int], None]) -> None:
    """One file, with tries that are bounded as long as nothing new comes."""
    part, tries, anew = _part(target), 0, False
    while True:
        before = _size(part)
        try:
            _transfer(session, file, part, tell)
            _check(file, part, resumed=before > 0 and not anew)
            break
        except _Changed:
            _forget(part)
            if anew:
                raise _other(file, "ends before the end that is listed") from None
            anew = True
        except requests.RequestException as error:
            grown = _size(part) > before
            tries = 1 if grown else tries + 1
            if tries >= TRIES or not _passing(error):
                raise WorkError(f"{file.url}: {_reason(error)}; the same command goes on where it was") from None
            time.sleep(PAUSE * 2 ** (tries - 1))
    with writing(target):
        _tag(part).unlink(missing_ok=True)
        part.replace(target)


def _transfer(session: requests.Session, file: RemoteFile, part: Path, tell: Callable[[int], None]) -> None:
    """Append to `part` what is missing, or write it anew where the server will not go on."""
    have = _size(part)
    if have >= file.size:
        part.touch()
        return
    tag = _tag(part)
    # Compressed on the way, neither sizes nor ranges would be those of the file.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text(encoding="utf-8")
    with session.get(file.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if have and response.status_code == 416:
            raise _Changed
        response.raise_for_status()
        goes_on = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if goes_on else 0
        etag = response.headers.get("ETag", "")
        with writing(part):
            writer = part.open("ab" if goes_on else "wb")
            # A weak tag does not promise equal bytes, and If-Range takes none.
            tag.write_text(etag, encoding="utf-8") if etag.startswith('"') else tag.unlink(missing_ok=True)
        with writer:
            for block in response.iter_content(BLOCK):
                with writing(part):  # and not around the reading: the errors of requests are OSErrors
                    writer.write(block)
                    writer.flush()
                have += len(block)
                tell(have)
                if have > file.size:
                    break
    if have < file.size:
        raise requests.ConnectionError(f"the answer ended after {have} of {file.size} bytes")


def _check(file: RemoteFile, part: Path, *, resumed: bool) -> None:
    size, found = part.stat().st_size, sha256_file(part)
    if size == file.size and found == file.sha256:
        return
    if resumed:
        raise _Changed
    _forget(part)
    raise _other(file, f"gave {size} bytes with sha256 {found[:12]}")


def _other(file: RemoteFile, what: str) -> WorkError:
    return WorkError(
        f"{file.url}: {what}, listed are {file.size} bytes with {file.sha256[:12]}: what came was removed; "
        "if it stays so, it has changed there: download the set by hand, and give it with --from"
    )


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


class _Session(requests.Session):
    """Asks only addresses that are secure, those that it is redirected to as well."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = 5

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        _secure(request.url or "")
        return super().send(request, **options)


def _secure(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise InputError(f"{url}: is no https address: download the file by hand and give it with --from")


def _passing(error: requests.RequestException) -> bool:
    """Whether another try may help."""
    if isinstance(error, requests.HTTPError):
        return error.response.status_code in _PASSING
    broken = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, broken) and not isinstance(error, requests.exceptions.SSLError)


def _reason(error: BaseException) -> str:
    if isinstance(error, requests.HTTPError):
        return f"the server says {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)  # what urllib3's retries hold
    text = cause.args[0] if isinstance(cause, Exception) and cause.args else cause
    return f"no connection, or it broke off ({' '.join(str(text).split())[:120]})"
