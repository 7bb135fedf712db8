"""Public sets by name: the table, the page, and the way from a server or a folder to data/."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recordings import shared, tree, write_image
from servers import Server, serving

from irstd.commands import sources
from irstd.data import sequence, splits
from irstd.data.importers import FORMATS, scan
from irstd.data.ingest import IngestReport, ingest
from irstd.data.public import SETS, PublicSet, find, hint, records
from irstd.data.public.obtain import hand_place, obtain, present
from irstd.errors import InputError, WorkError
from irstd.workspace import Workspace

PAGE = Path(__file__).resolve().parents[2] / "docs" / "DATASETS.md"


# --- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", SETS, ids=lambda known: known.slug)
def test_a_record(known: PublicSet) -> None:
    assert known.format in FORMATS and known.slug == sequence.slug(known.name)
    assert known.home.startswith("https://") and known.citation and known.split and known.tested
    # Every address is of a repository that is read at a commit, and says what of it was read.
    assert known.sources and all(
        re.fullmatch(r"[\w.-]+/[\w.-]+ at [0-9a-f]{8}: .+", source) for source in known.sources
    )
    # It is fetched whole, or two lines say what is to be done by hand; what is fetched beside that are lists alone.
    lists = [file for file in known.files if file.place.endswith(".txt")]
    if known.by_hand:
        assert len(known.by_hand) == 2 and "https://" in known.by_hand[0] and lists == known.files
    else:
        assert len(known.files) > len(lists)
    assert known.list_name is None or lists
    places = [file.place for file in known.files]
    assert len(set(places)) == len(places) and all(".." not in place and not place.startswith("/") for place in places)
    for file in known.files:
        owner, at = re.fullmatch(
            r"https://raw\.githubusercontent\.com/([\w.-]+/[\w.-]+)/([0-9a-f]{40})/.+", file.url
        ).groups()
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256) and file.size > 0
        assert any(source.startswith(f"{owner} at {at[:8]}:") for source in known.sources)


def test_no_name_stands_for_two_sets() -> None:
    names = [name for known in SETS for name in {known.name, *known.aliases}]
    assert all(find(name) is known for known in SETS for name in (known.name, *known.aliases))
    assert len({re.sub("[-_ ]", "", name.lower()) for name in names}) == len(names)
    assert find("nuaa_sirst") is find("NUAA SIRST") is find("NUAASIRST") is find("sirst") is SETS[0]
    assert find("coco") is None and find("") is None and find(".") is None
    assert hint("NUAA-SIRT") == " (did you mean 'NUAA-SIRST'?)" and hint("itsdt15") == " (did you mean 'ITSDT-15K'?)"
    assert hint("qqqqqq") == ""


def test_what_is_fetched_is_what_the_authors_have() -> None:
    """Counts that the authors' pages state, of the files that are listed."""
    counts = {
        "nuaa-sirst": {"images/": 427, "masks/": 427, "idx_427/": 4, "idx_320/": 4, "50_50/": 2},
        "sirst-v2": {"images/": 1024, "masks/": 1024, "": 3},
        "halmstad": {"Video_IR/": 730, "": 1},
    }
    for name, expected in counts.items():
        found: dict[str, int] = {}
        for file in find(name).files:
            folder = file.place.rpartition("/")[0]
            found[folder and folder + "/"] = found.get(folder and folder + "/", 0) + 1
        assert found == expected
    labels = {file.place.removesuffix("_LABELS.mat") for file in find("halmstad").files if file.place.endswith(".mat")}
    assert labels == {file.place.removesuffix(".mp4") for file in find("halmstad").files if file.place.endswith(".mp4")}


def row(known: PublicSet) -> str:
    """The set's row of docs/DATASETS.md."""
    how = "by hand; its lists fetched" if known.by_hand and known.files else "by hand" if known.by_hand else "fetched"
    checksum = "sha256 of each file" if known.files else ""
    if known.by_hand:
        checksum = "; ".join(
            filter(None, [checksum and "sha256 of the lists", "none published: the first one is kept"])
        )
    cells = (
        known.name,
        known.what,
        known.licence or "none stated",
        how,
        checksum,
        f"`{known.format}`",
        known.split,
        known.tested,
    )
    return f"| {' | '.join(cells)} |"


def details(known: PublicSet) -> str:
    """The set's paragraph of docs/DATASETS.md."""
    lines = [f"**{known.name}** (`irstd ingest {known.name}`). {known.citation}.", f"Home: {known.home}."]
    if known.by_hand:
        lines.append(f"By hand: {known.by_hand[0]}; give {known.by_hand[1]}.")
    lines += [f"Note: {note}." for note in known.notes]
    lines.append(f"Sources: {'; '.join(known.sources)}.")
    return "\n".join(lines)


def test_the_page_says_what_the_table_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for known in SETS:
        assert row(known) in page and details(known) in page
    assert len(re.findall(r"^\| [A-Z][\w-]+ \| ", page, re.MULTILINE)) == len(SETS)


# --- from a server or a folder to data/ ----------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / "work").mkdir(parents=True)
    return tmp_path / "home"


def stills(folder: Path, count: int = 6) -> Path:
    """Images with masks in the layout of the sirst importer."""
    for i in range(count):
        image = np.random.default_rng(i).integers(0, 200, (24, 32), dtype=np.uint8)
        mask = np.zeros((24, 32), np.uint8)
        mask[5 + i, 7] = 255
        write_image(folder / "images" / f"{i:06d}.png", image)
        write_image(folder / "masks" / f"{i:06d}.png", mask)
    return folder


def public(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, bytes], **changes
) -> PublicSet:
    """NUDT-SIRST's record, its files on the server; it is fetched whole unless `by_hand` is given."""
    server.files |= files
    lines = [server.remote(path) for path in files]
    monkeypatch.setattr(records, "FILES", tmp_path)
    (tmp_path / "test.txt").write_text(
        "\n".join([f"# {server.url}/", *(f"{file.sha256} {file.size} {file.place}" for file in lines)]) + "\n"
    )
    remote = records.Remote("test.txt", {"set/": "", "lists/": "50_50/"})
    return replace(find("NUDT-SIRST"), **{"fetched": (remote,), "by_hand": None, "sequences": 6} | changes)


LISTS = {"lists/train.txt": b"000000\n000001\n000002\n000003\n", "lists/test.txt": b"000004\n000005\n"}
BY_HAND = ("https://example.org/set.zip", "the folder that holds images/ and masks/")


def packed(path: Path, folder: Path, under: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, under + file.relative_to(folder).as_posix())
    return path


def taken(known: PublicSet, home: Path, given: Path | None = None) -> IngestReport:
    """The set ingested into home/data under its own name; nothing temporary is left."""
    work = home / "work"
    work.mkdir(exist_ok=True)
    try:
        folder = obtain(known, home, work, given)
        return ingest(folder, known.slug, home / "data", work / "s", format=known.format, list_name=known.list_name)
    finally:
        shutil.rmtree(work)


def split_sizes(home: Path, known: PublicSet) -> dict[str, int]:
    given = splits.read(home / "data" / known.slug)
    where = [splits.split_of(each, given) for each in sequence.sequences(home / "data", known.slug)]
    return {name: where.count(name) for name in ("train", "val", "test")}


def test_a_set_that_is_fetched_whole(
    tmp_path: Path, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stills(tmp_path / "source")
    files = {f"set/{name}": (source / name).read_bytes() for name in tree(source)} | LISTS
    known = public(server, monkeypatch, tmp_path, files)
    assert present(known, home) is None
    server.faults = [("cut", 10)] + [200] * 0
    monkeypatch.setattr("irstd.data.public.download.PAUSE", 0.0)
    report = taken(known, home)
    assert len(report.added) == 6 and split_sizes(home, known) == {"train": 3, "val": 1, "test": 2}
    assert present(known, home) == "fetched" and len(server.requests) == len(files) + 1
    found = sequence.sequences(home / "data", known.slug)[2]
    assert (found.folder / "000002.png").read_bytes() == (source / "images/000002.png").read_bytes()
    # Once more: nothing is asked of the server, nothing changes.
    assert taken(known, home).unchanged == report.added and len(server.requests) == len(files) + 1
    (home / "fetched" / known.slug / "images" / "000000.png").unlink()
    assert present(known, home) == "partly fetched"


def test_a_server_that_fails_leaves_data_as_it_was(
    tmp_path: Path, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stills(tmp_path / "source")
    files = {f"set/{name}": (source / name).read_bytes() for name in tree(source)} | LISTS
    known = public(server, monkeypatch, tmp_path, files)
    content = server.files.pop("set/masks/000005.png")
    with pytest.raises(WorkError, match=r"set/masks/000005.png: the server says 404"):
        taken(known, home)
    assert not (home / "data").exists() and present(known, home) == "partly fetched"
    asked = len(server.requests)
    server.files["set/masks/000005.png"] = content
    assert len(taken(known, home).added) == 6
    assert len(server.requests) < asked + len(files)  # what had come stays


def test_a_set_that_is_downloaded_by_hand(
    tmp_path: Path, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = public(server, monkeypatch, tmp_path, LISTS, by_hand=BY_HAND)
    with pytest.raises(InputError) as caught:
        taken(known, home)
    assert str(caught.value) == (
        "NUDT-SIRST: put the folder that holds images/ and masks/ into home/downloads/nudt-sirst/, or give it with --from; "
        "the same command then goes on"
    )
    assert not server.requests
    packed(tmp_path / "set.zip", stills(tmp_path / "source"), "NUDT-SIRST/")
    place = hand_place(known, home)
    place.mkdir(parents=True)
    shutil.copy(tmp_path / "set.zip", place)
    before = tree(place)
    assert present(known, home) == "by hand"
    report = taken(known, home)
    assert len(report.added) == 6 and split_sizes(home, known) == {"train": 3, "val": 1, "test": 2}
    assert tree(place) == before
    shutil.rmtree(place)
    assert present(known, home) == "its lists"
    # The same from elsewhere: the archive, its folder, the folder above it, folders whose archives lie in parts.
    outer = tmp_path / "outer" / "NUDT-SIRST"
    shutil.copytree(tmp_path / "source", outer)
    (outer.parent / "README.md").write_text("as it came")
    parts = tmp_path / "parts"
    parts.mkdir()
    for part in ("images", "masks"):
        packed(parts / f"{part}.zip", tmp_path / "source" / part, f"{part}/")
    for given in (tmp_path / "set.zip", tmp_path / "source", outer.parent, parts):
        before = tree(given) if given.is_dir() else {}
        again = taken(known, home, given)
        assert again.unchanged == report.added and not again.updated, given
        assert not given.is_dir() or tree(given) == before
    assert len(server.requests) == len(LISTS)


def test_lists_that_lie_in_the_set_are_taken(
    tmp_path: Path, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = public(server, monkeypatch, tmp_path, LISTS, by_hand=BY_HAND)
    source = stills(tmp_path / "source")
    (source / "50_50").mkdir()
    for name, names in (("train", "000000\n000001\n000002\n"), ("test", "000003\n000004\n000005\n")):
        (source / "50_50" / f"{name}.txt").write_text(names)
    taken(known, home, source)
    assert not server.requests and split_sizes(home, known)["test"] == 3


def test_an_archive_has_the_checksum_that_it_had_first(
    tmp_path: Path, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = public(server, monkeypatch, tmp_path, LISTS, by_hand=BY_HAND)
    archive = packed(tmp_path / "set.zip", stills(tmp_path / "source"))
    taken(known, home, archive)
    packed(archive, stills(tmp_path / "other", 7))
    with pytest.raises(
        InputError, match=r"set.zip: its sha256 is [0-9a-f]{12}, and was [0-9a-f]{12} when it first came"
    ) as caught:
        taken(known, home, archive)
    Path(str(caught.value).rpartition("remove ")[2]).unlink()
    assert len(taken(known, home, archive).added) == 1


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda p: p / "nowhere", "nowhere: no folder and no archive: give the folder or the archive with NUDT-SIRST"),
        (lambda p: write_image(p / "one.png", np.zeros((4, 4), np.uint8)), "one.png: no folder and no archive"),
        (lambda p: stills(p / "s" / "deep" / "er").parents[1], None),
        (
            lambda p: write_image(p / "flat" / "1.png", np.zeros((4, 4), np.uint8)).parent,
            "is not laid out as NUDT-SIRST is",
        ),
        (lambda p: p / "x.7z", "archives of this kind are not read"),
        (lambda p: p / "cut.zip", "damaged or cut off"),
    ],
    ids=["missing", "image", "deep", "flat", "7z", "cut"],
)
def test_what_is_given_may_be_no_such_set(
    tmp_path: Path,
    home: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Path],
    line: str | None,
) -> None:
    known = public(server, monkeypatch, tmp_path, LISTS, by_hand=BY_HAND)
    (tmp_path / "x.7z").write_bytes(b"7z")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    given = make(tmp_path)
    if line is None:
        assert len(taken(known, home, given).added) == 6
        return
    with pytest.raises(InputError) as caught:
        taken(known, home, given)
    assert line in str(caught.value) and "\n" not in str(caught.value) and not (home / "data").exists()


def test_two_cannot_fetch_one_set_at_once(
    tmp_path: Path, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    known = public(server, monkeypatch, tmp_path, LISTS)
    (home / "fetched").mkdir()
    with FileLock(home / "fetched" / f".{known.slug}.lock"), pytest.raises(InputError, match="another irstd ingest"):
        taken(known, home)


def test_repositories_as_they_are_cloned_fit_too(tmp_path: Path, home: Path) -> None:
    """The authors' layout is put right as that of fetched files is: SIRST-v2 keeps its images in two folders."""
    source, clone = stills(tmp_path / "source"), tmp_path / "open-sirst-v2"
    for i in range(6):
        kind = "targets" if i < 4 else "backgrounds"
        (clone / "images" / kind).mkdir(parents=True, exist_ok=True)
        (clone / "annotations" / "masks").mkdir(parents=True, exist_ok=True)
        shutil.copy(source / f"images/{i:06d}.png", clone / "images" / kind)
        shutil.copy(source / f"masks/{i:06d}.png", clone / f"annotations/masks/{i:06d}_pixels0.png")
    (clone / "splits").mkdir()
    for name, names in (("train", "000000\n000004\n"), ("val", "000001\n000005\n"), ("test", "000002\n000003\n")):
        (clone / "splits" / f"{name}_full.txt").write_text(names)
    before = tree(clone)
    known = find("SIRST-v2")
    assert len(taken(known, home, clone).added) == 6 and tree(clone) == before
    assert split_sizes(home, known) == {"train": 2, "val": 2, "test": 2}


def test_what_the_field_calls_val_and_uses_as_test_is_test(tmp_path: Path, home: Path) -> None:
    """DAUB's lists as they are published, put beside the frames by hand."""
    source = tmp_path / "DAUB"
    for folder in ("data5", "data6"):
        for i in range(3):
            write_image(source / folder / f"{i}.bmp", np.full((16, 16), i, np.uint8))
    for part, folder in (("train", "train/data5"), ("val", "test/data6")):
        lines = [f"/home/public/DAUB/images/{folder}/{i}.bmp 3,4,6,8,0\n" for i in range(3)]
        (source / f"coco_{part}_DAUB.txt").write_text("".join(lines))
    known, before = find("DAUB"), tree(source)
    for given in (packed(tmp_path / "daub.zip", source, "DAUB/"), source):
        taken(known, home, given)
        groups = splits.read(home / "data" / "daub")
        where = {each.name: splits.split_of(each, groups) for each in sequence.sequences(home / "data", "daub")}
        assert where == {"data5": "train", "data6": "test"} and tree(source) == before
        shutil.rmtree(home / "data")


# --- what SOURCE means ---------------------------------------------------------------------------------------------


def test_a_path_that_is_there_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources.resolve(Path("DAUB"), None) is find("DAUB")
    (tmp_path / "DAUB").mkdir()
    assert sources.resolve(Path("DAUB"), None) is None
    assert "DAUB: this is the folder here, not the public set DAUB" in capsys.readouterr().out
    assert sources.resolve(Path("DAUB"), tmp_path) is find("DAUB")  # --from goes with sets alone
    for source, given, line in (
        ("NUAA-SIRT", None, "did you mean 'NUAA-SIRST'"),
        ("nowhere", None, "nowhere: no such file or folder: give recordings, an archive, or a name of irstd list sets"),
        ("DAUBB", tmp_path, "no public set of that name (did you mean 'DAUB'?)"),
        ("ITSDT-15K", tmp_path / "gone", "gone: no such file or folder: give the folder or the archive with ITSDT-15K"),
    ):
        with pytest.raises(InputError) as caught:
            sources.resolve(Path(source), given)
        assert line in str(caught.value)


def test_an_archive_is_ingested_as_the_folder_that_it_was_made_of(tmp_path: Path, home: Path) -> None:
    workspace = Workspace(tmp_path, home)
    source = stills(tmp_path / "night")
    plain = ingest(source, "plain", home / "data", home / "s")
    archive = packed(tmp_path / "night.zip", source, "a/night/")
    opened = sources.open_source(workspace, archive, None, None, home / "work")
    again = ingest(opened.path, "again", home / "data", home / "s")
    assert again.added == plain.added and again.messages == plain.messages
    hashes = [[each.source_sha256 for each in sequence.sequences(home / "data", name)] for name in ("plain", "again")]
    assert hashes[0] == hashes[1]
    assert opened.shown(f"{opened.path}: no recordings found") == "night.zip: no recordings found"
    # A folder of frames is a sequence: it is not taken for a wrapping.
    packed(tmp_path / "frames.zip", source / "images", "clip/")
    opened = sources.open_source(workspace, tmp_path / "frames.zip", None, None, home / "work")
    assert {path.parts[0] for path in scan(opened.path).files} == {"clip"}


def test_the_overview(tmp_path: Path, home: Path) -> None:
    rows = {row["set"]: row for row in sources.overview(Workspace(tmp_path, home))}
    assert list(rows) == [known.name for known in SETS]
    assert rows["Halmstad"]["licence"] == "CC0-1.0" and rows["DAUB"]["licence"] == "none stated"
    assert rows["Halmstad"]["how"] == "fetched, 64.3 MiB" and rows["DAUB"]["how"] == "by hand"
    assert not any(row["here"] for row in rows.values())
    (home / "downloads" / "daub").mkdir(parents=True)
    (home / "downloads" / "daub" / "daub.zip").touch()
    (tmp_path / "data" / "daub").mkdir(parents=True)
    assert {row["set"]: row["here"] for row in sources.overview(Workspace(tmp_path, home)) if row["here"]} == {
        "DAUB": "by hand, in data/"
    }


# --- real files ----------------------------------------------------------------------------------------------------


def test_real_sirst(tmp_path: Path, home: Path) -> None:
    """The shared part of NUAA-SIRST: its files are those that are listed, and it is read where it lies."""
    folder, known = shared("sirst"), find("NUAA-SIRST")
    listed = {file.place: file.sha256 for file in known.files}
    there = {name: digest for name, digest in tree(folder).items() if name.startswith(("images/", "masks/"))}
    assert len(there) == 682 and all(listed[name] == digest for name, digest in there.items())
    assert obtain(known, home, home / "work", folder) == folder and not (home / "fetched").exists()


def test_real_halmstad() -> None:
    folder = shared("halmstad")
    listed = {file.place: file.sha256 for file in find("Halmstad").files}
    there = {name: digest for name, digest in tree(folder).items() if name.startswith("Video_IR/") or name == "LICENSE"}
    assert len(there) == 99 and all(listed[name] == digest for name, digest in there.items())
