"""Archives from elsewhere: what is good is unpacked to the byte, what is not is one line, and nothing leaves the folder."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recordings import tree

from irstd.data import archives
from irstd.data.archives import is_archive, unpack
from irstd.errors import InputError, WorkError

NOISE = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
FILES = {"set/a.bin": NOISE, "set/sub folder/b é.txt": b"b\n", "set/empty": b"", "c": b"c" * 5000}


def zipped(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], mode: str = "w", change: Callable | None = None) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change:
                change(member)
            archive.addfile(member, io.BytesIO(content) if member.isfile() else None)
    return path


def special(kind: bytes, target: str = "") -> Callable[[tarfile.TarInfo], None]:
    def change(member: tarfile.TarInfo) -> None:
        if member.name == "x":
            member.type, member.linkname, member.size = kind, target, 0

    return change


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "outside" / "out").mkdir(parents=True)
    return tmp_path / "outside" / "out"


@pytest.mark.parametrize("ending", ["zip", "ZIP", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "txz"])
def test_good_archives(tmp_path: Path, out: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    kind = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz", "txz": "w:xz"}.get(ending.split(".")[-1], "w")
    zipped(path, FILES) if "zip" in ending.lower() else tarred(path, FILES, kind)
    told: list[tuple[int, int]] = []
    assert is_archive(path)
    unpack(path, out, lambda done, total: told.append((done, total)))
    assert {name: (out / name).read_bytes() for name in FILES} == FILES and len(tree(out)) == len(FILES)
    whole = sum(map(len, FILES.values()))
    assert told[-1] == (whole, whole if "zip" in ending.lower() else 0)
    assert not os.access(out / "c", os.X_OK)


def test_folders_windows_separators_and_hard_links(tmp_path: Path, out: Path) -> None:
    unpack(zipped(tmp_path / "w.zip", {"win\\deep\\a": b"a", "win/b": b"b", "./dot/./c": b"c"}), out)
    assert set(tree(out)) == {"win/deep/a", "win/b", "dot/c"}
    with tarfile.open(tmp_path / "h.tar", "w") as archive:
        for name, kind, link in (
            ("./", tarfile.DIRTYPE, ""),
            ("./h", tarfile.REGTYPE, ""),
            ("./again", tarfile.LNKTYPE, "./h"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"same") if member.size else None)
    unpack(tmp_path / "h.tar", out)
    assert (out / "again").read_bytes() == (out / "h").read_bytes() == b"same"


def crc_of_member(path: Path) -> Path:
    """A stored zip whose content is other than its checksum says."""
    content = zipped(path, {"a": b"good content"}, zipfile.ZIP_STORED).read_bytes()
    path.write_bytes(content.replace(b"good content", b"evil content"))
    return path


def nameless(path: Path) -> Path:
    """A zip whose only member has a name of no letters."""
    content = zipped(path, {"a": b""}, zipfile.ZIP_STORED).read_bytes()
    central, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    first = content[:26] + b"\0\0" + content[28:30] + content[31:central]
    second = (
        content[central : central + 28] + b"\0\0" + content[central + 30 : central + 46] + content[central + 47 : end]
    )
    last = content[end : end + 12] + struct.pack("<II", len(second), len(first)) + content[end + 20 :]
    path.write_bytes(first + second + last)
    return path


def locked(path: Path) -> Path:
    """A zip that says its member is encrypted."""
    content = bytearray(zipped(path, {"a": b"a"}).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(content)
    return path


def linked(path: Path, target: str, mode: int = stat.S_IFLNK) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("x")
        member.external_attr = (mode | 0o777) << 16
        archive.writestr(member, target)
    return path


def lying(path: Path) -> Path:
    """A zip whose central directory says fewer bytes than there are."""
    content = bytearray(zipped(path, {"a": b"x" * 5000}).read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def method(path: Path) -> Path:
    """A zip with a compression that the standard library does not know (9: Deflate64)."""
    content = bytearray(zipped(path, {"a": b"a" * 100}).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(mark) + offset] = 9
    path.write_bytes(content)
    return path


def cut(path: Path, keep: float | int) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    return path


def flipped(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def wrong_end(path: Path) -> Path:
    """A gzip whose checksum, its last bytes, is wrong: the tar in it is whole."""
    content = bytearray(tarred(path, {"a": b"a" * 100}, "w:gz").read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def gzipped_zeros(path: Path, megabytes: int) -> Path:
    with gzip.open(path, "wb", 9) as file:
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
    return path


def header_bomb(path: Path) -> Path:
    """A tar whose extended header says that it is 200 MiB long."""
    member = tarfile.TarInfo("h")
    member.type, member.size = tarfile.XHDTYPE, 200 << 20
    with gzip.open(path, "wb") as file:
        file.write(member.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20))
    return path


# (name, how it is made, what the line says)
BAD: list[tuple[str, Callable[[Path], Path], str]] = [
    ("absolute.zip", lambda p: zipped(p, {"ok": b"", "/etc/x": b"x"}), "'/etc/x' has an absolute path"),
    ("absolute.tar", lambda p: tarred(p, {"ok": b"", "/etc/x": b"x"}), "'/etc/x' has an absolute path"),
    ("drive.zip", lambda p: zipped(p, {"C:\\x": b"x"}), "has an absolute path"),
    ("unc.zip", lambda p: zipped(p, {"\\\\host\\x": b"x"}), "has an absolute path"),
    ("up.zip", lambda p: zipped(p, {"a/../../x": b"x"}), "has '..' in its path"),
    ("up-windows.zip", lambda p: zipped(p, {"..\\x": b"x"}), "has '..' in its path"),
    ("up.tar.gz", lambda p: tarred(p, {"../x": b"x"}, "w:gz"), "has '..' in its path"),
    ("control.zip", lambda p: zipped(p, {"a\nb": b"x"}), "control characters"),
    ("link.zip", lambda p: linked(p, "../secret"), "'x' is a link"),
    ("pipe.zip", lambda p: linked(p, "", stat.S_IFIFO), "'x' is a device or a pipe"),
    ("link.tar", lambda p: tarred(p, {"x": b""}, change=special(tarfile.SYMTYPE, "/etc/passwd")), "'x' is a link"),
    ("inner.tar", lambda p: tarred(p, {"a": b"", "x": b""}, change=special(tarfile.SYMTYPE, "a")), "'x' is a link"),
    (
        "hard.tar",
        lambda p: tarred(p, {"x": b""}, change=special(tarfile.LNKTYPE, "../outside")),
        "has '..' in its path",
    ),
    ("hard-none.tar", lambda p: tarred(p, {"x": b""}, change=special(tarfile.LNKTYPE, "y")), "is not before it"),
    ("device.tar", lambda p: tarred(p, {"x": b""}, change=special(tarfile.CHRTYPE)), "'x' is a device or a pipe"),
    ("fifo.tar.xz", lambda p: tarred(p, {"x": b""}, "w:xz", special(tarfile.FIFOTYPE)), "'x' is a device or a pipe"),
    ("encrypted.zip", locked, "'a' is encrypted"),
    ("method.zip", method, "compression method is not supported"),
    ("nameless.zip", nameless, "'' has no name"),
    ("nameless.tar", lambda p: tarred(p, {"": b"1"}), "'' has no name"),
    ("long.zip", lambda p: zipped(p, {"a" * 256: b"1"}), "has a name that is too long"),
    ("long.tar", lambda p: tarred(p, {"é" * 128 + "/b": b"1"}), "has a name that is too long"),
    ("twice.tar", lambda p: tarred(p, {"a": b"1", "./a": b"2"}), "'./a' is in it twice"),
    ("twice.zip", lambda p: zipped(p, {"a/b": b"1", "a\\b": b"2"}), "is in it twice"),
    ("file-and-folder.zip", lambda p: zipped(p, {"a": b"1", "a/b": b"2"}), "is in it twice"),
    ("folder-and-file.tar", lambda p: tarred(p, {"a/b": b"1", "a": b"2"}), "is in it twice"),
    ("cut.zip", lambda p: cut(zipped(p, FILES), 0.6), "damaged or cut off"),
    ("cut.tar", lambda p: cut(tarred(p, FILES), 0.5), "cut off"),
    ("cut-between.tar", lambda p: cut(tarred(p, {"a": b"x" * 512, "b": b"y"}), 1024), "its end is missing"),
    ("cut-header.tar", lambda p: cut(tarred(p, {"a": b"x" * 512, "b": b"y"}), 1200), "its end is missing"),
    ("cut.tar.gz", lambda p: cut(tarred(p, FILES, "w:gz"), 0.5), "damaged or cut off"),
    ("cut.tar.xz", lambda p: cut(tarred(p, FILES, "w:xz"), 0.5), "damaged or cut off"),
    ("cut.tar.bz2", lambda p: cut(tarred(p, FILES, "w:bz2"), 0.5), "damaged or cut off"),
    ("flipped.zip", lambda p: flipped(zipped(p, {"a": NOISE})), "damaged or cut off"),
    ("flipped.tgz", lambda p: flipped(tarred(p, {"a": NOISE}, "w:gz")), "damaged or cut off"),
    ("end.tgz", wrong_end, "CRC check failed"),
    ("checksum.zip", crc_of_member, "Bad CRC-32"),
    ("lying.zip", lying, "damaged or cut off"),
    ("zero.zip", lambda p: written(p, b""), "damaged or cut off"),
    ("zero.tar", lambda p: written(p, b""), "damaged or cut off"),
    ("page.zip", lambda p: written(p, b"<html>Google Drive: virus scan</html>" * 9), "no archive of its kind"),
    ("page.tar.gz", lambda p: written(p, b"<html>Google Drive: virus scan</html>" * 20), "no archive of its kind"),
    ("bomb.zip", lambda p: zipped(p, {f"{i}": bytes(1 << 20) for i in range(4)}), "grows to more than 200 times"),
    ("bomb.tgz", lambda p: tarred(p, {"a": bytes(4 << 20)}, "w:gz"), "grows to more than 200 times"),
    ("padding.tgz", lambda p: gzipped_zeros(p, 4), "grows to more than 200 times"),
    ("header.tgz", header_bomb, "a header of 209715200 bytes"),
    ("set.7z", lambda p: written(p, b"7z"), "archives of this kind are not read"),
    ("set.rar", lambda p: written(p, b"Rar!"), "archives of this kind are not read"),
    ("frames.gz", lambda p: written(p, b"\x1f\x8b"), "archives of this kind are not read"),
]


@pytest.mark.parametrize(("name", "make", "line"), BAD, ids=[row[0] for row in BAD])
def test_bad_archives(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[Path], Path], line: str
) -> None:
    monkeypatch.setattr(archives, "ALWAYS", 1 << 20)  # else the bombs would have to be large
    path = make(tmp_path / name)
    (out.parent / "neighbour").write_text("mine")
    before = {key: value for key, value in tree(tmp_path).items() if not key.startswith("outside/out/")}
    assert is_archive(path)
    with pytest.raises(InputError) as caught:
        unpack(path, out)
    said = str(caught.value)
    assert line in said and said.startswith(name) and "\n" not in said and ": " in said
    assert {key: value for key, value in tree(tmp_path).items() if not key.startswith("outside/out/")} == before


def test_what_is_there_stays(tmp_path: Path, out: Path) -> None:
    (out / "a").write_text("first")
    with pytest.raises(InputError, match="'a' is there already"):
        unpack(zipped(tmp_path / "two.zip", {"a": b"second"}), out)
    assert (out / "a").read_text() == "first"


def test_the_disk_is_asked_first(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = archives.shutil.disk_usage(out)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda place: usage._replace(free=299_999))
    with pytest.raises(InputError, match=r"needs 300000 bytes of disk, 299999 are free: free some space"):
        unpack(zipped(tmp_path / "a.zip", {"a": NOISE}), out)
    assert not any(out.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path, out: Path) -> None:
    (out / "set").write_text("a file where the archive has a folder")
    with pytest.raises((InputError, WorkError), match="cannot be written"):
        unpack(zipped(tmp_path / "a.zip", FILES), out)
