"""The page of detections: of any length so many bars, pictures and tracks; what a browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from irstd.inference.found import Found
from irstd.inference.outputs import About
from irstd.models.contract import Detections
from irstd.reports import detections as pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FACTS = [("model", "models:/<b>ggl</b>-net@champion")]


def page(folder: Path, count: int, video: str = "a.mkv", tracked: bool = True) -> pages.Page:
    """Frames of 16 bits whose one target, in a third of them, is surest in frame 20."""
    made = pages.Page(folder, About(video, "a", 48, 64, 25.0), FACTS, tracked)
    rng = np.random.default_rng(0)
    for index in range(count):
        frame_HW = (7000 + rng.normal(0, 3, (48, 64))).astype(np.uint16)
        there = index % 3 == 2
        rows = np.array([[index % 50, 10, 3, 3]] * there, np.float32).reshape(-1, 4)
        scores_N = np.array([0.99 if index == 20 else 0.1 + 0.5 * (index / count)] * there, np.float32)
        tracks = [index // 60 + 1] * there if tracked else None
        made.write(Found(index, frame_HW, Detections(rows, scores_N), tracks))
    return made


def test_a_strip_of_any_length_adds_up():
    for count in (1, 239, 240, 241, 5000):
        strip = pages.Strip(240)
        for index in range(count):
            strip.add(index, index % 4, index / count)
        assert len(strip.bars) <= 240 and sum(bar.frames for bar in strip.bars) == count
        assert sum(bar.detections for bar in strip.bars) == sum(index % 4 for index in range(count))
        assert all(bar.frames == strip.every for bar in strip.bars[:-1])
        assert max(bar.best for bar in strip.bars) == pytest.approx((count - 1) / count)
        drawn = pages.bars(strip)
        assert drawn[-1]["x"] + drawn[-1]["width"] <= 1000.5


def test_the_page_holds_itself(tmp_path):
    made = page(tmp_path, 500, video='<script>"x".mkv')
    made.close()
    text = (tmp_path / "page.html").read_text()
    assert text.count("<article id=") <= pages.PICTURES and 'id="f20"' in text  # the surest frame is among them
    assert '<script>"x"' not in text and "<b>ggl</b>" not in text
    # Nothing outside is asked for.
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", text) and "http" not in text.replace(
        "http-equiv", ""
    )
    assert "166 detections" not in text and "<b>166</b>" in text and "<b>0:20</b>" in text
    assert text.count("<polyline") == 9 and "frames 2 to 59, seen in 20" in text


def test_pages_do_not_grow_with_the_recording(tmp_path):
    sizes = []
    for count in (300, 900):
        made = page(tmp_path, count)
        assert len(made._scenes._pictures.kept) <= pages.PICTURES and len(made.strip.bars) <= pages.BARS
        assert len(made._ways._ended) <= pages.TRACKS and len(made._ways._running) <= 2
        sizes.append(len(made.text()))
    assert sizes[1] < 1.5 * sizes[0], sizes
    long = pages.Way(1, 0)
    for index in range(10_000):
        long.add(index, (index, 0, 2, 2), 0.5)
    assert len(long.points) <= pages.POINTS and long.points[0] == (1.0, 1.0) and long.points[-1][0] > 9_500


def test_no_detections_and_no_tracks(tmp_path):
    made = pages.Page(tmp_path, About("a.mkv", "a", 48, 64), FACTS, False)
    made.write(
        Found(0, np.zeros((48, 64), np.uint8), Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)))
    )
    text = made.text()
    assert "no detection" in text and 'id="tracks"' not in text
    made = page(tmp_path, 1)
    assert "to be a track" in made.text()


def test_the_list_of_many():
    rows = [
        {"recording": "a&b.mkv", "name": "a-b", "error": None, "page": "a-b/page.html", "tracks": 2, "frames": 3, "detections": 4,
         "best": 0.5, "bars": [[0, 500, 50, 3]]},
        {"recording": "c.mkv", "name": "c", "error": "truncated", "page": None, "tracks": None},
    ]  # fmt: skip
    text = pages.overview(rows, FACTS)
    assert 'href="a-b/page.html">a&amp;b.mkv</a>' in text and "truncated" in text and "<b>4</b>detections" in text


PROBE = """
<script>
addEventListener("load", () => {
  const found = {inner: innerWidth};
  found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.wide = [...document.querySelectorAll("svg, figure, article, table, .ticks span, li")]
    .filter((each) => !each.closest(".wide") && each.getBoundingClientRect().right > innerWidth + 1).length;
  const images = [...document.querySelectorAll("image")].map((each) => {
    const image = new Image();
    image.src = each.getAttribute("href");
    return image.decode().then(() => 1, () => 0);
  });
  document.querySelector("table.sortable button").click();
  Promise.all(images).then((all) => {
    found.pictures = all.length;
    found.decoded = all.filter(Boolean).length;
    parent.postMessage(JSON.stringify(found), "*");
  });
});
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1400])
def test_a_browser_shows_it(tmp_path: Path, width: int) -> None:
    """No message in the console, nothing wider than the window, every picture decodes."""
    path = tmp_path / "page.html"
    path.write_text(page(tmp_path, 300).text().replace("</body>", PROBE + "</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<!DOCTYPE html><title>none</title><script>onmessage = (e) => { document.title = 'probe:' + e.data; };</script>"
        f'<iframe src="{path.name}" style="border:0;width:{width}px;height:900px"></iframe>'
    )
    call = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    call += ["--window-size=1500,1000", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom"]
    done = subprocess.run([*call, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>probe:(.*?)</title>", done.stdout)
    assert title, done.stdout[:500]
    found = json.loads(title[1])
    assert found["inner"] == width and found["overflow"] <= 0 and found["wide"] == 0
    assert found["pictures"] == found["decoded"] > 20
