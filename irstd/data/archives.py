"""Unpacking archives that came from elsewhere: zip and tar, plain or compressed by gzip, bzip2 or xz.

Nothing in an archive is trusted: only files, folders and hard links between files are taken, all names stay below the
folder, and what is unpacked is counted against the free disk and the archive's own size. The first thing that is wrong
ends the unpacking with one line; who called removes the folder.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from irstd.errors import InputError, IrstdError
from irstd.files import writing

ZIP = (".zip",)
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Archives that the standard library does not read.
OTHERS = (".7z", ".rar", ".zst", ".lz4", ".lzma", ".gz", ".bz2", ".xz", ".iso", ".cab", ".z01", ".001")
# Frames and masks shrink tenfold at the most; what grows more than this was made to fill a disk.
MOST_RATIO = 200
ALWAYS = 64 << 20  # bytes that are unpacked whatever the ratio
MOST_MEMBERS = 1_000_000
LONGEST_NAME = 255  # bytes, of a file or a folder
BLOCK = 1 << 20
_LARGEST_HEADER = 16 << 20
_COMPRESSED: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)

# Called with (bytes unpacked, bytes in all, or 0 where a tar does not say).
Tell = Callable[[int, int], None]


def is_archive(path: Path) -> bool:
    """Whether a file's name says that it is an archive, of a kind that is read or not."""
    return path.name.lower().endswith((*ZIP, *TAR, *OTHERS))


def stem(path: Path) -> str:
    """The name of an archive without its endings, as that of a folder."""
    ending = next(
        each for each in sorted((*ZIP, *TAR, *OTHERS), key=len, reverse=True) if path.name.lower().endswith(each)
    )
    return path.name[: -len(ending)].lstrip(".") or "archive"


def unpack(path: Path, folder: Path, tell: Tell | None = None) -> None:
    """Unpack `path` into the existing folder `folder`, where other files may lie.

    `InputError` where the archive is not good or not safe, `WorkError` where it cannot be written.
    """
    name = path.name.lower()
    if not name.endswith((*ZIP, *TAR)):
        raise InputError(f"{path.name}: archives of this kind are not read: unpack it first, and give the folder")
    try:
        into = _Target(path, folder, tell)
        _unzip(path, into) if name.endswith(ZIP) else _untar(path, into)
    except IrstdError:
        raise
    except RuntimeError as error:  # zipfile, of a compression that it does not know
        raise InputError(f"{path.name}: {_short(error)}: unpack it first, and give the folder") from None
    except _DAMAGED as error:
        raise InputError(
            f"{path.name}: is no archive of its kind, damaged or cut off ({_short(error)}): get it again"
        ) from None


class _Target:
    """Where the members go, and the account of what they take."""

    def __init__(self, archive: Path, folder: Path, tell: Tell | None) -> None:
        self.archive, self.folder, self.tell = archive, folder, tell
        self.size = archive.stat().st_size
        self.free = shutil.disk_usage(folder).free
        self.done = self.total = 0
        self.files: set[PurePosixPath] = set()
        self.folders: set[PurePosixPath] = set()

    def refuse(self, member: str, what: str) -> InputError:
        shown = member if len(member) <= 80 else f"{member[:77]}..."
        return InputError(f"{self.archive.name}: {shown!r} {what}")

    def place(self, member: str, *, is_folder: bool = False) -> Path:
        """Where a member goes. `InputError` where that is not safe, or taken."""
        path = self.relative(member)
        above = [parent for parent in path.parents if parent.parts]
        taken = path in self.files or (path in self.folders and not is_folder)
        if taken or any(parent in self.files for parent in above):
            raise self.refuse(member, "is in it twice: pack it again with each file once")
        if len(self.files) + len(self.folders) >= MOST_MEMBERS:
            raise InputError(
                f"{self.archive.name}: has more than {MOST_MEMBERS} members: unpack it, and give the folder"
            )
        self.folders.update(above)
        (self.folders if is_folder else self.files).add(path)
        target = self.folder / path
        if not is_folder and target.exists():
            raise self.refuse(member, "is there already, from another archive or a folder: give one of the two")
        return target

    def relative(self, member: str) -> PurePosixPath:
        """The path of a member below the folder; separators of Windows count as such."""
        if not member:
            raise self.refuse(member, "has no name: unpack it yourself, and give the folder")
        parts = member.replace("\\", "/").split("/")
        if parts[0] == "" or re.match(r"[A-Za-z]:", parts[0]):
            raise self.refuse(member, "has an absolute path: unpack it yourself, and give the folder")
        if ".." in parts:
            raise self.refuse(member, "has '..' in its path: unpack it yourself, and give the folder")
        if any(ord(letter) < 32 for letter in member):
            raise self.refuse(member, "has control characters in its name: rename it, and pack it again")
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
            raise self.refuse(member, "has a name that is too long: rename it, and pack it again")
        return PurePosixPath(*(part for part in parts if part not in ("", ".")))

    def account(self, count: int) -> None:
        """Refuse `count` bytes in all where neither the archive's size nor the disk has room for them."""
        if count > max(ALWAYS, MOST_RATIO * self.size):
            raise InputError(
                f"{self.archive.name}: grows to more than {MOST_RATIO} times its {self.size} bytes: "
                "where that is right, unpack it yourself, and give the folder"
            )
        if count > self.free:
            raise InputError(f"{self.archive.name}: needs {count} bytes of disk, {self.free} are free: free some space")

    def write(self, reader: IO[bytes], target: Path, member: str, size: int) -> None:
        """Copy `size` bytes to a new file."""
        left = size
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as writer:
                while left and (block := _read(reader, min(BLOCK, left))):
                    writer.write(block)
                    left -= len(block)
                    self.done += len(block)
        if left:
            raise self.refuse(member, "is cut off: get the archive again")
        if self.tell:
            self.tell(self.done, self.total)


def _unzip(path: Path, into: _Target) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        into.total = sum(member.file_size for member in members)
        into.account(into.total)
        places = {}
        for index, member in enumerate(members):
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                what = "a link" if kind == stat.S_IFLNK else "a device or a pipe"
                raise into.refuse(member.filename, f"is {what}: unpack it yourself, and give the folder")
            if member.flag_bits & 1:
                raise into.refuse(member.filename, "is encrypted: unpack it with its password, and give the folder")
            places[index] = into.place(member.filename, is_folder=member.filename.endswith("/"))
        for index, member in enumerate(members):
            if not member.is_dir():
                with archive.open(member) as reader:
                    into.write(reader, places[index], member.filename, member.file_size)


def _untar(path: Path, into: _Target) -> None:
    with path.open("rb") as file:
        opener = _COMPRESSED.get(file.read(2))
    with opener(path) if opener else path.open("rb") as raw:
        stream, counted = _Stream(raw), 0
        with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
            for member in archive:
                if not (member.isfile() or member.isdir() or member.islnk()):
                    what = "a link" if member.issym() else "a device or a pipe"
                    raise into.refuse(member.name, f"is {what}: unpack it yourself, and give the folder")
                target = into.place(member.name, is_folder=member.isdir())
                if member.islnk():
                    _link(into, member, target)
                if member.isreg():
                    counted += member.size
                    into.account(counted)
                    reader = archive.extractfile(member)
                    assert reader is not None  # it is a file
                    into.write(reader, target, member.name, member.size)
        # Between two members an archive that was cut off ends like a whole one, without the block of zeros.
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise EOFError("its end is missing")
        while block := _read(raw, BLOCK):  # at the end of what is compressed there is a checksum
            counted += len(block)
            into.account(counted)


def _link(into: _Target, member: tarfile.TarInfo, target: Path) -> None:
    """A hard link: one more name of a file that was unpacked before."""
    other = into.relative(member.linkname)
    if other not in into.files or not (into.folder / other).is_file():
        raise into.refuse(member.name, f"is a link to {member.linkname!r}, which is not before it: pack it again")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(into.folder / other)


class _Stream:
    """What tarfile reads; `last` is the latest block. A header that would fill the memory is refused."""

    def __init__(self, raw: Any) -> None:
        self.raw, self.last = raw, b""

    def read(self, count: int) -> bytes:
        if count > _LARGEST_HEADER:
            raise EOFError(f"a header of {count} bytes")
        self.last = _read(self.raw, count)
        return self.last

    def seek(self, offset: int) -> int:
        return self.raw.seek(offset)

    def tell(self) -> int:
        return self.raw.tell()


def _read(reader: Any, count: int) -> bytes:
    try:
        return reader.read(count)
    except OSError as error:  # gzip and bzip2, of damage: not to be taken for a failure to write
        raise EOFError(_short(error)) from None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
