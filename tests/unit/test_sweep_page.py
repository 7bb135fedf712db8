"""The page of a sweep, of one whose trials were really trained: what it says is so, nothing in a name becomes markup."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from test_report_pages import CHROMIUM, Page

from irstd.cluster import importance, searchers, spaces
from irstd.cluster.journal import Journal
from irstd.cluster.points import key
from irstd.cluster.spaces import Knob
from irstd.cluster.stopping import Stopping
from irstd.cluster.sweep import Sweep
from irstd.commands import confirmation, sweep_page, sweeps
from irstd.errors import InputError, IrstdError
from irstd.reports import charts
from irstd.reports.sweep import cost
from irstd.training.loop import fit
from irstd.workspace import SETTINGS, Workspace

EPOCHS = 3
NAME = "<script>alert(1)"
SPACE = spaces.Space.model_validate(
    {
        "name": NAME,
        "model": "benchmarks.small_network:Small",
        "fixed": {
            "data.crop": 32,
            "train.batch": 4,
            "train.epochs": EPOCHS,
        },
        "space": {
            "train.lr": {"choice": [1e-5, 2e-2, 1e30]},
            "train.optimizer": {"choice": ["adamw", "sgd"]},
            "train.momentum": {"uniform": [0.5, 0.95], "when": {"train.optimizer": "sgd"}},
            "train.warmup": {"int": [0, 8]},
        },
        "scheduler": {"kind": "asha", "grace": 1, "reduction": 2},
        "budget": {"trials": 10},
        "seed": 3,
    }
)
HEAD = {
    "sweep": f"{NAME}-0123456789ab",
    "space": SPACE.model_dump(mode="json"),
    "overrides": {},
    "objective": {
        "metric": "val_iou",
        "mode": "max",
        "split": "val",
        "protocol": "strict",
        "grid": None,
        "threshold": 0.5,
        "fa": None,
        "digests": {"sample": "ab" * 32},
    },
    "knobs": [
        {"path": path, **knob.model_dump(mode="json"), "default": default}
        for (path, knob), default in zip(sorted(SPACE.space.items()), (5e-4, 0.9, "adamw", 0), strict=True)
    ],
    "plan": None,
    "estimate": None,
    "mlflow": {"run": "r", "url": 'run r in sqlite:////a"b<c'},
}


@pytest.fixture(scope="module")
def folder(sample_shards, tmp_path_factory) -> Path:
    """A search of ten trials of a few layers, by the bare loop: journal, record and page as a search leaves them."""
    folder = tmp_path_factory.mktemp("home") / "sweeps" / "odd-0123456789ab"
    record = sweeps.Record(folder, HEAD, sweep_page.Page(folder))
    record.epochs = EPOCHS
    sweep = Sweep(
        searchers.make(SPACE),
        Stopping(SPACE.scheduler, EPOCHS),
        Journal(folder / "journal.jsonl"),
        key,
        "val_iou",
        trials=10,
        watch=record,
    )
    record.sweep = sweep

    class Stop(Exception):
        pass

    while trial := sweep.ask():

        def report(metrics, _, number=trial.number):
            row = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
            if sweep.report(number, row):
                raise Stop

        try:
            fit(spaces.config_of(SPACE, Path(), trial.overrides), sample_shards, report, log=lambda line: None)
            sweep.end(trial.number, "finished")
        except Stop:
            pass
        except IrstdError as error:
            sweep.end(trial.number, "failed", f"{error} <b>&</script>")
    chosen = confirmation.candidates(sweep.ranked(), 2)
    rows = [
        {"name": c.name, "trial": c.trial, "overrides": c.overrides, "runs": ["a", "b"], "values": [v, v + 0.02 * i]}
        | {"mean": v + 0.01 * i, "deviation": 0.01, "gain": None}
        for i, (c, v) in enumerate(zip(chosen, (0.3, 0.32, 0.2), strict=False))
    ]
    for row in rows[:-1]:
        row["gain"] = confirmation.gain([a - b for a, b in zip(row["values"], rows[-1]["values"], strict=True)])
    winner = max(rows, key=lambda row: row["mean"])
    record.write(
        "finished",
        confirmation={"seeds": [4, 5], "candidates": rows, "winner": winner["name"]},
        winner={"name": winner["name"], "run": "a", "value": winner["values"][0], "confirmed": True},
    )
    return folder


def kept(folder: Path) -> dict:
    return json.loads((folder / "sweep.json").read_text())


def test_the_page_says_what_the_journal_holds(folder):
    text, record = (folder / "sweep.html").read_text(), kept(folder)
    states = {t["state"] for t in record["trials"]}
    assert {"finished", "pruned", "failed"} <= states, "the recorded sweep shows all that a page shows"
    found = Page(text)
    assert all(each.startswith("data:") for each in found.loaded), "the page loads something"
    assert len(found.ids) == len(set(found.ids))
    assert all(link[1:] in found.ids for link in found.links if link.startswith("#"))
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text and "<b>&amp;" not in text
    table = text[text.index('id="table"') :]
    assert table.count("<tr>") == 1 + len(record["trials"])
    for t in record["trials"]:
        if t["error"]:
            assert "gives NaN or infinity for finite frames" in table and "&lt;b&gt;&amp;" in table
        if t["state"] == "pruned":
            assert f"stopped by asha at epoch {t['epoch']} of 3" in table
    curves = text[text.index('aria-label="learning curves') : text.index('aria-label="values of')]
    pruned = [t for t in record["trials"] if t["state"] == "pruned"]
    assert curves.count('class="cross"') == len(pruned) and curves.count('class="best"') == 1
    winner = record["winner"]["name"]
    assert f"<b>{winner}</b>, run a" in text and "over the default, 95 % interval" in text and "seed 5" in text


def test_what_was_saved_is_what_the_stopped_trials_would_have_taken(folder):
    record = kept(folder)
    found = cost(record)
    rest = sum(t["train_seconds"] * (t["epochs"] / t["epoch"] - 1) for t in record["trials"] if t["state"] == "pruned")
    assert rest > 0 and found["saved"] == pytest.approx(rest / 3600)
    taken = record | {"trials": [t | {"taken": True} for t in record["trials"]]}
    assert cost(taken)["saved"] == cost(taken)["trial_hours"] == 0


def test_the_page_is_made_anew_from_what_is_on_the_disk(folder, tmp_path, capsys):
    settings = {k: dict(v) for k, v in SETTINGS.items()}
    workspace = Workspace(tmp_path, folder.parent.parent, settings)
    text = (folder / "sweep.html").read_text()
    (folder / "sweep.html").unlink()
    before = (folder / "journal.jsonl").read_bytes()
    sweep_page.run(workspace, "odd")
    assert (folder / "sweep.html").read_text() == text
    assert (folder / "journal.jsonl").read_bytes() == before, "looking at a sweep wrote into its journal"
    # The driver was killed after an event, before it wrote the record.
    record = kept(folder)
    late = record | {"state": "running", "trials": record["trials"][:4]}
    (folder / "sweep.json").write_text(json.dumps(late))
    sweep_page.run(workspace, None, tmp_path / "page.html")
    found = (tmp_path / "page.html").read_text()
    assert found[found.index("<body>") :].count('<td class="run">') == 10 and "interrupted, as of" in found
    sweep_page.listed(workspace)
    assert "interrupted" in capsys.readouterr().out
    (folder / "sweep.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="sweep 'od-': there is none; irstd list sweeps"):
        sweep_page.run(workspace, "od-")


def test_a_sweep_without_a_value_has_a_page(folder):
    record = kept(folder)
    failed = {"state": "failed", "value": None, "curve": [], "metrics": {}, "epoch": 0, "error": "out of memory"}
    empty = record | {"best": None, "winner": None, "confirmation": None, "counts": {"failed": 10}}
    text = sweep_page.page(empty | {"trials": [t | failed for t in record["trials"]]})
    assert "No trial has a value yet" in text and text.count("out of memory") == 10 and "Too few trials" in text
    text = sweep_page.page(empty | {"trials": [], "counts": {}, "state": "running"})
    assert "No trial has a value yet" in text


def test_values_are_compared_where_most_trials_came_to():
    def trial(epochs):
        return {"overrides": {}, "curve": [[e, e, None, 0.1 * e, 0.1 * e] for e in range(1, epochs + 1)]}

    assert sweep_page._compared([trial(4)] * 6 + [trial(2)] * 4)["epoch"] == 2
    assert sweep_page._compared([trial(4)] * 9 + [trial(2)])["epoch"] == 4
    assert sweep_page._compared([trial(4)] * 7) is None


def test_importance_finds_the_path_that_decides_and_not_the_one_that_does_nothing():
    knobs = {
        "a": Knob(kind="uniform", values=[0, 1]),
        "b": Knob(kind="choice", values=["x", "y"]),
        "c": Knob(kind="int", values=[0, 9], when={"b": ["y"]}),
    }
    points = [{"a": (i * 0.618) % 1, "b": "xy"[i % 2]} | ({"c": i * 7 % 10} if i % 2 else {}) for i in range(40)]
    values = [-abs(p["a"] - 0.3) for p in points]
    found = {each.path: each for each in importance.importance(knobs, points, values)}
    assert found["a"].sure and found["a"].share > 0.6 and found["a"].low <= found["a"].share <= found["a"].high
    assert not found["b"].sure and not found["c"].sure and found["c"].trials == 20 and found["a"].trials == 40
    assert importance.importance(knobs, points[:7], values[:7]) == []
    assert importance.importance(knobs, points, [0.5] * 40) == []


def test_places_on_an_axis():
    axis = charts.Axis({"path": "p", "kind": "loguniform", "values": [1e-4, 1e-2]})
    assert axis.at(1e-3) == pytest.approx(0.5) and axis.at(0) is None and axis.at(1.0) is None and axis.at(True) is None
    axis = charts.Axis({"path": "p", "kind": "choice", "values": [1, 1.0, True, [0.5]]})
    assert [axis.at(v) for v in (1, 1.0, True, [0.5], 2)] == [0.125, 0.375, 0.625, 0.875, None]


PROBE = """<script>
addEventListener("load", () => {
  const found = {inner: innerWidth};
  found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.wide = [...document.querySelectorAll("svg, figure, table, p")]
    .filter((each) => !each.closest(".wide") && each.getBoundingClientRect().right > innerWidth + 1).length;
  found.small = [...document.querySelectorAll(".charts svg text")]
    .filter((each) => each.getBoundingClientRect().height < 8).length;
  const table = document.getElementById("table");
  table.tHead.querySelectorAll("button")[0].click();
  found.sorted = [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
  const field = document.querySelector("input[data-filters]");
  field.value = "failed";
  field.dispatchEvent(new Event("input"));
  found.shown = [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1400])
def test_a_browser_shows_it(folder, tmp_path, width):
    """No message in the console, nothing wider than the window, letters that can be read, a click sorts, the filter filters."""
    path = tmp_path / "page.html"
    path.write_text((folder / "sweep.html").read_text().replace("</body>", PROBE + "</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<!DOCTYPE html><title>none</title><script>onmessage = (e) => { document.title = 'probe:' + e.data; };</script>"
        f'<iframe src="{path.name}" style="border:0;width:{width}px;height:900px"></iframe>'
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1500,1000", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", frame.as_uri()]
    done = subprocess.run([CHROMIUM, *options], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>probe:(.*?)</title>", done.stdout)
    assert title, done.stdout[:500]
    found = json.loads(title[1])
    failed = sum(t["state"] == "failed" for t in kept(folder)["trials"])
    assert found["inner"] == width and found["overflow"] <= 0 and found["wide"] == 0 and found["small"] == 0
    assert found["sorted"] == [str(n) for n in range(1, 11)] and found["shown"] == failed
