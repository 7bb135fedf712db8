"""Checkpoints: damage is found and named, the one before serves, and a full disk takes nothing away."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toys import quiet, toy, written

from irstd.errors import WorkError
from irstd.training import checkpoint, loop, pace
from irstd.training.store import Store, newest, under_way

FILES = ["best.safetensors", "model.safetensors", "optimizer.safetensors", "results.csv", "state.json"]


def flip(path: Path, at: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_damage_is_said_in_a_line(tmp_path, name):
    folder = written(tmp_path / "c")
    assert checkpoint.damage(folder) is None
    content = (folder / name).read_bytes()
    flip(folder / name)
    assert checkpoint.damage(folder) == f"{name} has other bytes than were written"
    (folder / name).write_bytes(content[:-1])
    assert checkpoint.damage(folder) == f"{name} is torn: {len(content) - 1} of {len(content)} bytes"
    (folder / name).unlink()
    assert checkpoint.damage(folder) == f"{name} is missing"
    (folder / name).write_bytes(content)
    assert checkpoint.damage(folder) is None


def test_a_folder_without_sums_is_no_checkpoint(tmp_path):
    folder = written(tmp_path / "c")
    assert checkpoint.damage(tmp_path / "none") == "it is not there"
    (folder / "sums.json").write_text("{}")
    assert checkpoint.damage(folder) == "sums.json lacks best.safetensors"
    for rubbish in ("[1]", "{", '{"state.json": 1}', '{"state.json": {"size": 1}}'):
        (folder / "sums.json").write_text(rubbish)
        assert re.fullmatch(r"sums\.json cannot be read \(\w+\)", checkpoint.damage(folder) or "")
    (folder / "sums.json").unlink()
    assert checkpoint.damage(folder) == "sums.json is missing: it was not written to its end"


def test_the_newest_whole_one_is_picked(tmp_path):
    folders = [written(tmp_path / str(step), step) for step in (30, 20, 10)]
    said: list[str] = []
    assert checkpoint.pick(folders, said.append) == folders[0] and not said
    flip(folders[0] / "model.safetensors")
    assert checkpoint.pick(folders, said.append) == folders[1]
    assert said == [
        f"checkpoint {folders[0]} is damaged (model.safetensors has other bytes than were written); goes on from the one "
        "before, step 20"
    ]
    for folder in folders:
        (folder / "sums.json").unlink(missing_ok=True)
    said.clear()
    assert checkpoint.pick(folders, said.append) is None and checkpoint.pick([], said.append) is None
    assert len(said) == 3 and all("starts from the beginning" in line for line in said)


def reported(store: Store, step: int) -> None:
    with checkpoint.scratch(store.scratch) as place:
        store({"step": step}, written(place / "checkpoint", step))


def test_a_store_keeps_the_last_two(tmp_path):
    store = Store(tmp_path / "run")
    assert store.begin() is None and newest(tmp_path / "run") is None
    for step in (5, 10, 100):
        reported(store, step)
    store({"step": 101}, None)
    assert [p.name for p in under_way(tmp_path / "run")] == ["step-00000100", "step-00000010"]
    assert newest(tmp_path / "run") == store.scratch / "step-00000100"
    # What a killed process leaves half-written counts for nothing.
    (store.scratch / ".checkpoint-left").mkdir()
    (store.scratch / "step-00000100" / "state.json").write_text("{")
    said: list[str] = []
    assert Store(tmp_path / "run").begin(said.append) == store.scratch / "step-00000010"
    assert len(said) == 1 and "state.json is torn" in said[0]
    assert sorted(p.name for p in store.scratch.iterdir()) == ["damaged-step-00000100", "step-00000010"]
    reported(store, 15)  # which does not push out the whole one for a damaged one
    assert [p.name for p in under_way(tmp_path / "run")] == ["step-00000015", "step-00000010"]
    last = store.finish()
    assert last == tmp_path / "run" / "checkpoint" and [p.name for p in last.parent.iterdir()] == ["checkpoint"]
    assert newest(tmp_path / "run") == last == store.finish() and checkpoint.read_state(last)["step"] == 15


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_leaves_the_checkpoint_before(sample_shards, small_disk):
    """Training stops with one line; with room again the same run goes on to the bits of one that was left alone."""
    config = toy(train__epochs=2)
    whole = Store(small_disk.parent / "whole")
    whole.begin()
    loop.fit(config, sample_shards, whole, log=quiet, scratch=whole.scratch)
    store = Store(small_disk / "run")
    store.begin()
    filler = small_disk / "filler"

    def report(metrics, folder):
        store(metrics, folder)
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 10_000))

    with pytest.raises(WorkError) as raised:
        loop.fit(config, sample_shards, report, log=quiet, scratch=store.scratch)
    line = str(raised.value)
    assert re.fullmatch(
        rf"{small_disk}/run/checkpoints: the checkpoint cannot be written \(No space left on device: needs 0\.\d MiB, 0\.\d "
        r"MiB free\); those before it stay good: free some space, then the same command goes on from the last",
        line,
    )
    (kept,) = store.scratch.iterdir()
    assert checkpoint.damage(kept) is None and newest(small_disk / "run") == kept
    filler.unlink()
    loop.fit(config, sample_shards, store, store.begin(), log=quiet, scratch=store.scratch)
    left, went_on = (checkpoint.weights(s.finish(), "model") for s in (whole, store))
    assert all(torch.equal(left[k], went_on[k]) for k in left)


@pytest.mark.parametrize("what", range(6))
def test_the_disk_may_refuse_at_any_write(tmp_path, monkeypatch, what):
    """The room was there, and another process took it: nothing half-written is left."""
    left = {"count": what}

    def failing(real):
        def write(*args, **kwargs):
            if left["count"] == 0:
                Path(args[1] if real is save else args[0]).write_bytes(b"half")
                if real is save:
                    raise checkpoint.SafetensorError("Error while serializing: I/O error: No space (os error 28)")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left["count"] -= 1
            return real(*args, **kwargs)

        return write

    save = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", failing(save))
    monkeypatch.setattr(checkpoint, "write_atomic", failing(checkpoint.write_atomic))
    monkeypatch.setattr(checkpoint, "write_json", failing(checkpoint.write_json))
    with pytest.raises(WorkError, match=r"No space left on device: needs .* MiB free\); those before it stay good"):
        written(tmp_path / "c")
    assert not [*tmp_path.iterdir()]


def test_where_there_is_no_room_nothing_is_begun(tmp_path, monkeypatch):
    """A disk that others use too is not filled to the last byte."""
    begun: list[Path] = []
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    monkeypatch.setattr(checkpoint, "save_file", lambda tensors, path: begun.append(path))
    with pytest.raises(WorkError, match=r"needs 0\.0 MiB, 0\.0 MiB free"):
        written(tmp_path / "c")
    assert not begun and not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_quota_is_said_too(tmp_path):
    """A real refusal of the system in the midst of a file."""
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from toys import written
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
written(Path({str(tmp_path / "c")!r}), size=64)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = f"irstd.errors.WorkError: {tmp_path}: the checkpoint cannot be written (File too large: needs 0.1 MiB"
    assert said in done.stderr, done.stderr
    assert not [*tmp_path.iterdir()]


def test_a_checkpoint_is_due_where_it_costs_one_part_in_a_hundred(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def steps(seconds: float) -> bool:
        found.stepping()
        now[0] += seconds
        found.stopped()
        now[0] += 1000  # a validation
        return found.due(7)

    found = pace.Pace()
    assert steps(0.1)  # what one costs is not known yet
    with found.writing():
        now[0] += 0.5
    assert not steps(40) and not steps(22.4) and steps(0.2)
    with found.writing():
        now[0] += 0.1
    assert not steps(37.4) and steps(0.2)  # one that took longer is not forgotten: the mean is .3
    assert (found.written, found.total_cost, found.total_steps) == (2, pytest.approx(0.6), pytest.approx(100.3))
    asked = pace.Pace(every=3)
    assert [n for n in range(1, 10) if asked.due(n)] == [3, 6, 9]


@pytest.mark.parametrize(
    "end", [{}, {"train__hours": 1e-9}, {"train__patience": 1, "train__lr": 1e-12, "train__ema": 0.0}]
)
def test_the_first_and_the_last_report_come_with_a_checkpoint(sample_shards, tmp_path, monkeypatch, end):
    """Where none else is due; the end is the same as with one at every validation."""
    monkeypatch.setattr(pace, "SHARE", 0.0)
    runs = {}
    for every in (None, 1):
        rows, store = [], Store(tmp_path / str(every))
        store.begin()

        def report(row, folder, rows=rows, store=store):
            rows.append((row["step"], folder is not None))
            store(row, folder)

        config = toy(train__checkpoint_every=every, train__val_steps=3, train__epochs=4, **end)
        loop.fit(config, sample_shards, report, log=quiet, scratch=store.scratch)
        runs[every] = rows, checkpoint.weights(store.finish(), "model")
    assert all(written for _, written in runs[1][0])
    rows = runs[None][0]
    assert [step for step, _ in rows] == [step for step, _ in runs[1][0]]
    assert [written for _, written in rows] == [i in (0, len(rows) - 1) for i in range(len(rows))]
    assert all(torch.equal(v, runs[1][1][k]) for k, v in runs[None][1].items())
