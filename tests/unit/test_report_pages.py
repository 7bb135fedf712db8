"""The page of the doctor: whole in itself, every link leads somewhere, nothing in a name becomes markup."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_doctor_findings import Scene
from test_doctor_stops import HARMS

from irstd.commands import doctor
from irstd.config import ShardConfig
from irstd.data.doctor.examination import SetReport, examine
from irstd.data.doctor.pictures import Drawn, Picture
from irstd.data.ingest import ingest
from irstd.data.stretch import Following, range_of, stretch
from irstd.errors import InputError
from irstd.reports.data import _around, data_page
from irstd.reports.page import TEMPLATES, Histogram, render
from irstd.workspace import Workspace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Ids, links, and whatever a page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if found.get("id"):
            self.ids.append(found["id"])
        if tag == "a":
            self.links.append(found["href"])
        else:
            self.loaded += [found[name] for name in ("src", "href", "srcset", "data") if found.get(name)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for number, (name, kind) in enumerate(zip("abcd", [*HARMS][:4], strict=True)):
        each = Scene(name, seed=number)
        HARMS[kind](each)
        each.write(folder / "source")
    lines = [(folder / "source" / "d.csv").read_text().rstrip()]
    (folder / "source" / "d.csv").write_text("\n".join([lines[0], ""]))
    ingest(folder / "source", "mine", folder / "data", folder / "staging")
    cv2.imwrite(str(folder / "source" / "still.png"), np.zeros((20, 30), np.uint8))
    (folder / "points").mkdir()
    cv2.imwrite(str(folder / "points" / "p.png"), Scene().frames_THW[0])
    (folder / "points" / "p.csv").write_text("frame,x,y\n0,22,32\n")
    ingest(folder / "points", "points", folder / "data", folder / "staging")
    return folder / "data"


@pytest.fixture(scope="module")
def reports(data: Path) -> list[SetReport]:
    return examine(data, ["mine", "points"], ShardConfig(waive=["mine:whole-frame"]))


def test_every_link_leads_to_its_picture(reports: list[SetReport]) -> None:
    page = Page(data_page(reports))
    assert len(page.ids) == len({*page.ids})
    assert {link.removeprefix("#") for link in page.links} <= {*page.ids}
    # Those of findings lead to the frame's own picture, not only to its sequence.
    for number, report in enumerate(reports):
        for finding in report.findings:
            if finding.frame is not None:
                index = [s.sequence.name for s in report.surveys].index(finding.sequence)
                assert f"#s{number}-{index}-{finding.frame}" in page.links, finding


def test_boxes_at_the_border_are_drawn_where_they_can_be_seen() -> None:
    boxes = [[0, 0, 64, 48], [10, 10, 2, 3], [62, 0, 2, 2], [-1, 46, 3, 3]]
    picture = Picture(0, "png", b"", 64, 48, Drawn([*map(list, boxes)]))
    assert _around(picture) == [[1, 1, 62, 46], [8, 8, 6, 7], [60, 1, 3, 3], [-3, 44, 7, 7]]


def test_the_page_is_whole_in_itself(reports: list[SetReport]) -> None:
    text = data_page(reports, "0123abcd")
    page = Page(text)
    assert page.loaded and all(value.startswith("data:") for value in page.loaded)
    assert not re.search(r"(?:https?:)?//(?!\s)[a-z0-9.]+\.[a-z]", re.sub(r"data:image[^\"]+", "", text))
    assert "url(" not in text and "@import" not in text and "fetch(" not in text
    assert "0123abcd" in text and "whole-frame" in text and "bad, waived" in text
    assert text == data_page(reports, "0123abcd")


def test_the_table_says_what_each_sequence_holds(reports: list[SetReport]) -> None:
    rows = re.findall(r"<tr>(<td>.*?)</tr>", data_page(reports), re.DOTALL)
    assert len(rows) == 5
    cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", rows[0], re.DOTALL)]
    wanted = ["mine", "a", "40", "80×64", "16"]
    assert cells[:5] == wanted and cells[6] == "37" and cells[8:12] == ["40", "4", "0", "0"]
    assert "duplicate-boxes" in cells[13] and cells[14:] == ["own", "–"]


def test_names_are_no_markup(reports: list[SetReport]) -> None:
    """Sequences are slugs; groups, licences and notes are whatever someone wrote."""
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    report = reports[0]
    survey = report.surveys[0]
    bad = replace(survey.sequence, group=evil, licence=evil, name=evil)
    changed = type(survey)(**vars(survey) | {"sequence": bad})
    findings = [replace(f, sequence=evil, message=evil) for f in report.findings if f.sequence == "a"]
    page = Page(data_page([replace(report, surveys=[changed], findings=findings, splits={evil: evil}, name=evil)]))
    assert page.tags.count("script") == 1 and page.tags.count("img") == 0


def test_an_undefined_value_is_an_error() -> None:
    with pytest.raises(Exception, match="undefined"):
        render("data.html")
    assert {"base.html", "style.css", "tables.js"} <= {path.name for path in TEMPLATES.iterdir()}


def test_a_histogram_counts_everything_once() -> None:
    values = np.array([0.1, 1, 1.5, 2, 7, 1e9, np.inf, np.nan])
    found = Histogram.of("x", values, [1, 2, 4, 8], {0: "1", 3: "8"})
    assert found.counts == [3, 1, 3]
    assert found.svg().count("<rect") == 3 and "<title>3</title>" in found.svg()


@pytest.fixture
def workspace(data: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data.dvc").write_text("")
    (tmp_path / "params.yaml").write_text("shard:\n  waive: [mine:whole-frame]\n")
    return Workspace(tmp_path, tmp_path / ".irstd")


def test_the_command_writes_the_page_and_fails_for_what_is_bad(
    workspace: Workspace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert doctor.run(workspace, "data") == 1
    text = capfd.readouterr().out
    assert ".irstd/reports/data.html" in text and "mine/a frame 7: 1 frame with a box twice (duplicate-boxes)" in text
    assert "mine/b frame 7" not in text  # waived
    page = (workspace.home / "reports" / "data.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and ">a</a>" in page
    assert doctor.run(workspace, "data", ["points"], tmp_path / "deep" / "page.html") == 0
    assert ">p</a>" in (tmp_path / "deep" / "page.html").read_text()
    last = capfd.readouterr().out
    assert json.loads(re.findall(r"irstd-result: (.*)", last)[-1])["bad"] == 0


def test_doctor_alone_decodes_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irstd.data.video.open_recording", None)
    assert not (workspace.home / "reports").exists()
    lines = [line for check in (doctor._hashes, doctor._version) for line in check(workspace)]
    assert ("ok", "data", "mine: 4 sequences read, hashes compared") in lines


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"what": "data", "sets": ["mien"]}, "no set 'mien' (did you mean 'mine'?)"),
        ({"what": "machine", "sets": ["mine"]}, "for irstd doctor data"),
        ({"what": "all", "out": Path("x.html")}, "for irstd doctor data"),
    ],
)
def test_bad_usage_is_one_line(workspace: Workspace, arguments: dict, says: str) -> None:
    with pytest.raises(InputError) as refused:
        doctor.run(workspace, **arguments)
    assert says in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(InputError, match="is a folder"):
        doctor.run(workspace, "data", out=workspace.root)


# Loads every picture, and when all is there says what it sees.
PROBE = """<script>
const images = [...document.querySelectorAll("svg image")].map((each) => {
  const image = new Image();
  image.src = each.getAttribute("href");
  return image;
});
addEventListener("load", () => {
  const found = {inner: innerWidth, pictures: images.length};
  found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.decoded = images.filter((each) => each.complete && each.naturalWidth > 0).length;
  found.wide = [...document.querySelectorAll("svg.histogram, figure, article, table, summary")]
    .filter((each) => !each.closest(".wide") && each.getBoundingClientRect().right > innerWidth + 1).length;
  const table = document.getElementById("table");
  const head = table.tHead.querySelectorAll("button")[1];
  head.click();
  head.click();
  found.sorted = [...table.tBodies[0].rows].map((row) => row.cells[1].textContent.trim());
  const field = document.querySelector("input[data-filters]");
  field.value = "frozen-conflict";
  field.dispatchEvent(new Event("input"));
  found.shown = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[1].textContent.trim());
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1400])
def test_a_browser_shows_it(reports: list[SetReport], tmp_path: Path, width: int) -> None:
    """No message in the console, nothing wider than the window, every picture decodes, a click sorts, the filter filters."""
    path = tmp_path / "page.html"
    path.write_text(data_page(reports).replace("</body>", PROBE + "</body>"))
    # A window is no narrower than 500 px there; a frame in it may be.
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<!DOCTYPE html><title>none</title><script>onmessage = (e) => { document.title = 'probe:' + e.data; };</script>"
        f'<iframe src="{path.name}" style="border:0;width:{width}px;height:900px"></iframe>'
    )
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1500,1000",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>probe:(.*?)</title>", done.stdout)
    assert title, done.stdout[:500]
    found = json.loads(title[1])
    assert found["inner"] == width and found["overflow"] <= 0 and found["wide"] == 0
    assert found["pictures"] == found["decoded"] > 0
    assert found["sorted"] == ["p", "d", "c", "b", "a"] and found["shown"] == ["d"]


def test_contrast_for_people() -> None:
    rng = np.random.default_rng(0)
    sky_HW = rng.normal(3000, 20, (60, 80))
    sky_HW[0, 0], sky_HW[30, 40] = 16000, 0  # a hot pixel and a dead one
    frame_HW = sky_HW.astype(np.uint16)
    grey_HW = stretch(frame_HW, range_of(frame_HW))
    assert grey_HW.dtype == np.uint8 and 35 < grey_HW.std() < 60 and grey_HW[0, 0] == 255 and grey_HW[30, 40] == 0
    # Noise of a few counts is not blown up to the full range, and a flat frame is grey.
    quiet_HW = rng.integers(100, 103, (60, 80)).astype(np.uint8)
    assert np.ptp(stretch(quiet_HW, range_of(quiet_HW)).astype(int)) < 64
    flat_HW = np.full((60, 80), 7, np.uint16)
    assert set(np.unique(stretch(flat_HW, range_of(flat_HW)))) <= {127, 128}
    # A faint target before a dark sky beside bright ground: locally it stands out by more.
    frame_HW[40:] += 4000
    frame_HW[10:13, 20:23] += 120
    plain, local = (stretch(frame_HW, range_of(frame_HW), local=each).astype(int) for each in (False, True))
    assert local[10:13, 20:23].mean() - local[5:18, 28:40].mean() > 2 * (
        plain[10:13, 20:23].mean() - plain[5:18, 28:40].mean()
    )


def test_the_range_of_a_film_follows_without_a_jump() -> None:
    rng = np.random.default_rng(0)
    follow = Following()
    steps, seen = [], []
    for t in range(150):
        level = 3000 if t < 50 else 5000  # the camera pans from sky to ground
        frame_HW = rng.normal(level, 30, (40, 50)).astype(np.uint16)
        if t == 120:
            frame_HW[:] = 100  # a closed shutter
        found = follow(frame_HW)
        steps.append(found["p005"])
        seen.append(stretch(frame_HW, found).mean())
    jumps = np.abs(np.diff(steps))
    assert jumps.max() < 0.1 * 2000 and jumps[119] < 5
    assert 100 < seen[49] < 155 and 100 < seen[149] < 155
