"""Shards on a store that fsspec reaches (s3://, https://, memory:// ...), through a cache on the local disk.

A tar is fetched at its first use under a temporary name, compared with the sha256 that its manifest gives, and renamed to
`<sha256>.tar`; each process compares it once more before it first reads it. A fetch that brings no byte for `timeout`
seconds, half a file or other bytes is given up and tried again, then it is one error. Where the cache grows over its
limit, the tars that were opened longest ago go; a reader that has one of them mapped keeps it. Several processes share
a cache: a tar is fetched by one of them while the others wait.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from filelock import FileLock

from irstd.errors import InputError, WorkError

GIB = 2**30


def _folder() -> Path:
    # A workspace's processes are told (irstd.environment); the loader by itself looks where it runs.
    home = Path(os.environ.get("IRSTD_HOME") or ".irstd").absolute()
    return Path(os.environ.get("IRSTD_CACHE") or home / "cache") / "shards"


@dataclass(frozen=True)
class Cache:
    """Where fetched tars are kept, and how they are fetched.

    Attributes:
        folder: default `cache/shards` under IRSTD_HOME.
        limit: bytes that the tars may take; at least one tar is kept, and one more lies there while it is fetched. An
            epoch visits all tars in no order: below the size of what a run reads, tars are fetched again and again.
        timeout: seconds without a byte after which a fetch is given up.
        tries: how often a fetch is begun.
        wait: seconds before the second try; doubled before each further one.
    """

    folder: Path = field(default_factory=_folder)
    limit: int = 64 * GIB
    timeout: float = 60.0
    tries: int = 3
    wait: float = 1.0


class Store:
    """One folder of shards on a store. `InputError` for a URL of no known kind."""

    def __init__(self, url: str, cache: Cache | None = None) -> None:
        self.url, self.cache = url.rstrip("/"), cache or Cache()
        self.verified: set[str] = set()  # tars of the cache that this process has hashed
        kind = url.partition("://")[0]
        options: dict[str, Any] = {}
        if kind in ("http", "https"):
            from aiohttp import ClientTimeout

            seconds = self.cache.timeout
            options["client_kwargs"] = {"timeout": ClientTimeout(None, sock_connect=seconds, sock_read=seconds)}
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            hint = "pip install 'irstd[cluster]'" if kind == "s3" else "install what the message names"
            raise InputError(f"{url}: {error}; {hint}") from None
        except ValueError as error:
            raise InputError(f"{url}: not a URL that fsspec reads ({error})") from None

    def open(self, name: str, sha256: str) -> BinaryIO:
        """The tar `name` from the cache, fetched where it is not there. `WorkError` where it cannot be had."""
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise InputError(
                f"{self.url}: its manifest names no sha256 for {name}; build the shards again (irstd shard)"
            )
        folder = self._made()
        path = folder / f"{sha256}.tar"
        with FileLock(folder / f".{sha256[:2]}.lock"):
            file = self._cached(path, sha256)
            if file is None:
                for left in folder.glob(f".{sha256}.*"):  # of a process that was killed
                    left.unlink(missing_ok=True)
                part = self._fetch(name, folder / f".{sha256}", lambda got: _sha256(got) == sha256)
                file = part.open("rb")
                os.replace(part, path)
                self.verified.add(sha256)
        self._evict(path)
        return file

    def read(self, name: str, check: Callable[[Path], bool]) -> bytes:
        """The bytes of a small file, fetched anew. `FileNotFoundError` where the store has none."""
        part = self._fetch(name, self._made() / ".manifest", check)
        try:
            return part.read_bytes()
        finally:
            part.unlink()

    def _made(self) -> Path:
        try:
            self.cache.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._disk(error) from None
        return self.cache.folder

    def _cached(self, path: Path, sha256: str) -> BinaryIO | None:
        """The open tar where the cache has it whole; a damaged one is removed."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        if sha256 not in self.verified:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                file.close()
                path.unlink(missing_ok=True)
                return None
            self.verified.add(sha256)
        os.utime(file.fileno())  # used now
        return file

    def _fetch(self, name: str, stem: Path, check: Callable[[Path], bool]) -> Path:
        """Fetch `name` to a new file STEM.<random> that passes `check`."""
        reason = ""
        for attempt in range(self.cache.tries):
            if attempt:
                time.sleep(self.cache.wait * 2 ** (attempt - 1))
            part = stem.with_name(f"{stem.name}.{uuid.uuid4().hex}")
            good = False
            try:
                self._get(f"{self.root}/{name}", part)
                good = check(part)
                if good:
                    return part
                reason = f"its {part.stat().st_size} bytes are not those that were written"
            except FileNotFoundError:
                raise
            except Exception as error:  # whatever the store's driver raises
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise self._disk(error) from None
                reason = f"{type(error).__name__}: {error}".rstrip(": ")
            finally:
                if not good:
                    part.unlink(missing_ok=True)
        raise WorkError(
            f"{self.url}/{name}: not fetched in {self.cache.tries} tries (the last: {reason}); check the store and the "
            "network, or upload the shards again"
        )

    def _get(self, remote: str, part: Path) -> None:
        """Copy `remote` to `part`. In a thread, since a driver may wait for ever; progress is the size of the file."""
        failed: list[BaseException] = []

        def work() -> None:
            try:
                # Small pieces, so that a slow store is not taken for one that stalls.
                pieces = {"chunk_size": 2**18} if remote.startswith(("http://", "https://")) else {}
                self.files.get_file(remote, str(part), **pieces)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work, name="fetch", daemon=True)
        thread.start()
        size, since = -1, time.monotonic()
        while thread.is_alive():
            thread.join(0.1)
            now = part.stat().st_size if part.exists() else -1
            if now != size:
                size, since = now, time.monotonic()
            elif thread.is_alive() and time.monotonic() - since > self.cache.timeout:
                raise TimeoutError(f"no byte for {self.cache.timeout:g} s after {max(size, 0)} bytes")
        if failed:
            raise failed[0]

    def _evict(self, keep: Path) -> None:
        """Remove the tars that were opened longest ago until the rest fits; never `keep`."""
        with FileLock(self.cache.folder / ".evict.lock"):
            found = []
            for path in self.cache.folder.glob("*.tar"):
                with suppress(FileNotFoundError):  # found damaged by another process, and removed
                    status = path.stat()
                    found.append((status.st_mtime_ns, path, status.st_size))
            total = sum(size for *_, size in found)
            for _, path, size in sorted(found):
                if total <= self.cache.limit:
                    break
                if path != keep:
                    path.unlink(missing_ok=True)
                    total -= size

    def _disk(self, error: OSError) -> WorkError:
        return WorkError(
            f"{self.cache.folder}: the cache cannot be written ({error.strerror}); free some space, or set IRSTD_HOME"
        )


def is_remote(shards: str | Path) -> bool:
    """Whether `shards` is a URL rather than a path."""
    return isinstance(shards, str) and "://" in shards


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
