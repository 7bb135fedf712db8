"""What of running on a cluster needs no cluster: numbers of workers, drills, kinds of faults, streams, Ray's storage."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import threading
import time
from pathlib import Path

import pytest
import ray
import torch

from irstd import config as configuration
from irstd.bench import cluster
from irstd.cluster import faults
from irstd.cluster.beginning import Beginning
from irstd.cluster.console import _Heard, _Lines
from irstd.cluster.drill import Drill, Drills, hook
from irstd.cluster.plan import Resources, asked, make
from irstd.cluster.storage import INDEX, Storage
from irstd.commands.on_cluster import check_plan
from irstd.errors import InputError, WorkError
from irstd.training import checkpoint as checkpoints
from irstd.training.preparation import prepare

# -- how many workers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "found"), [("2", 2), (3, 3), ("1-4", (1, 4)), (" 2-2 ", 2), (None, None)])
def test_workers_as_they_are_asked_for(text, found):
    assert asked(text) == found


@pytest.mark.parametrize("text", ["0", "-1", "two", "4-1", "1-", "1-2-3", "0-2", "1.5", ""])
def test_other_words_for_workers_are_refused_with_the_forms(text):
    with pytest.raises(InputError, match="write a number from 1 on, or a range such as 1-4"):
        asked(text)


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "sizes"),
    [((1, 1), (1, 2), 1, [1, 2]), ((8, 8), (1, 4), 4, [1, 2, 3, 4]), ((2,), (1, 4), 1, [1, 2, 3, 4])],
)
def test_a_number_that_may_change_leaves_room_for_those_that_come_later(nodes, workers, cpus, sizes):
    plan = make(Resources(sum(nodes), 0, "the cluster", tuple(map(float, nodes))), workers)
    assert (plan.cpus_per_worker, [*plan.sizes]) == (cpus, sizes)
    assert f"{workers[0]} to {workers[1]} worker(s)" in str(plan)


def test_the_least_must_find_places_now():
    with pytest.raises(InputError, match=r"cannot place 3 worker\(s\)"):
        make(Resources(2, 0, "the cluster"), (3, 4))


def test_the_batch_divides_by_every_number_there_may_be(sample_shards):
    job = prepare(configuration.load(overrides={"train.batch": 8, "data.crop": 32, "model.width": 4}), sample_shards)
    resources = Resources(8, 0, "the cluster")
    check_plan(job, make(resources, (1, 2)))
    with pytest.raises(InputError, match="^--workers 1-4: train.batch=8 does not divide by 3 workers"):
        check_plan(job, make(resources, (1, 4)))


# -- drills ------------------------------------------------------------------------------------------------------


def test_drills_as_they_are_written():
    assert Drill.parse(None) == []
    assert Drill.parse("kill-worker@120") == [Drill("worker", 120)]
    text = "kill-worker:1@12,kill-driver@30,kill-all@40"
    assert [str(each) for each in Drill.parse(text)] == text.split(",")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kill-worker",
        "kill-worker@",
        "kill-worker@0",
        "kill-driver:1@3",
        "kill-node@3",
        "kill-all@-1",
        "kill-all@2,",
    ],
)
def test_a_drill_that_is_none_is_refused_with_the_forms(text):
    with pytest.raises(InputError, match="kill-worker@STEP, kill-worker:RANK@STEP, kill-driver@STEP or kill-all@STEP"):
        Drill.parse(text)


def test_a_drill_is_noted_before_it_happens_and_happens_once(tmp_path):
    lines: list[str] = []
    drills = Drills(tmp_path, lines.append)
    drill = Drill("worker", 7, 1)
    assert drills.answer(drill)
    assert json.loads((tmp_path / "drills.json").read_text()) == ["kill-worker:1@7"]
    assert "SIGKILL to worker 1, at step 7" in lines[0]
    assert not drills.answer(drill) and len(lines) == 1


def test_only_the_rank_that_is_meant_asks_and_lives_where_it_was_done(monkeypatch):
    asked_for: list[Drill] = []
    killed: list[int] = []
    monkeypatch.setattr("irstd.cluster.drill.os.kill", lambda pid, signal: killed.append(pid))
    monkeypatch.setattr("irstd.cluster.drill.time.sleep", lambda seconds: None)

    def ask(drill: Drill) -> bool:
        asked_for.append(drill)
        return len(asked_for) == 1

    drills = [Drill("worker", 7, 1)]
    for rank in (0, 1, 1):
        for step in (6, 7, 8):
            hook(drills, rank, ask)(step)
    assert asked_for == drills * 2 and len(killed) == 1


# -- faults and errors -------------------------------------------------------------------------------------------

GLOO = "[third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:40312"


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (RuntimeError(GLOO), True),
        (torch.distributed.DistBackendError("NCCL error: unhandled system error"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (OSError(5, "Input/output error"), True),
        (OSError(28, "No space left on device"), False),
        (FileNotFoundError(2, "No such file"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 2x2)"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("TCPStore: failed to recv"), True),
        (RuntimeError("cannot restore the state of this layer"), False),
        (ValueError("connection closed"), False),
    ],
)
def test_what_may_be_whole_the_next_time(error, passes):
    assert faults.passing(error) == passes


def test_an_error_of_the_program_is_one_line_with_its_worker(capfd):
    with pytest.raises(WorkError, match="^worker 3: TypeError: 'int' object is not iterable$"), faults.told(3):
        list(3)
    assert "Traceback" in capfd.readouterr().err
    with pytest.raises(InputError, match="^as it is$"), faults.told(3):
        raise InputError("as it is")
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        with pytest.raises(WorkError, match="^worker 0 has not enough of .*lower train.batch"), faults.told(0):
            raise error


class Died(ray.exceptions.RayError):
    """As Ray's `WorkerHealthCheckFailedError`."""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
            "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
            "killed by the OOM killer due to high memory usage",
            "its process was killed or crashed",
        ),
        ("The actor is dead because its node has died. Node Id: 00ff", "its node is gone"),
        ("Task was killed due to the node running low on memory.", "Ray ended it, since its node ran out of memory"),
        ("Something else. It is long", "Something else"),
    ],
)
def test_what_became_of_a_worker_in_few_words(said, words):
    assert faults.fate(Died(said)) == words


def watch(lines: list[str]) -> faults.Watch:
    return faults.Watch(lines.append, 8, 0)


def test_an_error_ends_the_run_and_losses_are_counted_since_the_last_checkpoint(monkeypatch):
    monkeypatch.setattr(faults, "NOTICED", 0.0)
    lines: list[str] = []
    found = watch(lines)
    with pytest.raises(InputError, match="^a shard is damaged$"):
        found.after_exception(None, {1: RuntimeError(GLOO), 0: InputError("a shard is damaged")})
    assert lines == []
    for _ in range(2):
        found.after_exception(None, {0: RuntimeError("gone")})
    assert lines[1] == "worker 0 was lost (gone); goes on from step 8, try 3 of 3"
    found.after_report(None, [{"step": 12}], None)  # no checkpoint: no progress that a new try would begin with
    with pytest.raises(WorkError, match="3rd time without a new checkpoint; the same command goes on from step 8"):
        found.after_exception(None, {0: RuntimeError("gone")})
    found.after_report(None, [{"step": 16}], object())
    found.after_exception(None, {0: RuntimeError("gone")})
    assert lines[-1] == "worker 0 was lost (gone); goes on from step 16, try 2 of 3"


def test_a_cluster_that_became_too_small_is_said_when_it_is_known(monkeypatch):
    resources = iter([2, 2, 1])
    monkeypatch.setattr(faults.ray, "cluster_resources", lambda: {"CPU": next(resources)})
    monkeypatch.setattr(faults.time, "sleep", lambda seconds: None)
    lines: list[str] = []
    found = faults.Watch(lines.append, 8, 2.0)
    found.lost = 1
    found._short()
    assert lines == ["the cluster has 1 CPU left, the workers want 2: waits up to 10 minutes for more"]


def test_the_cause_of_a_failure_is_found_whatever_it_is_wrapped_in():
    class ControllerError(Exception):
        controller_failure = InputError("the reason")

    assert isinstance(faults.cause(ControllerError()), InputError)
    assert faults.reason(ControllerError("Training failed")) == "the reason"
    assert faults.cause(ValueError("else")) is None
    # It goes from a worker to the driver.
    assert str(pickle.loads(pickle.dumps(WorkError("one line")))) == "one line"


# -- what workers print ------------------------------------------------------------------------------------------


def test_workers_that_ask_at_once_each_get_their_answer():
    class Slow(dict):
        def __len__(self):
            found = super().__len__()
            time.sleep(0.05)
            return found

    lines, found = _Lines(), {}
    lines.answered = Slow()

    def ask(rank: int) -> None:
        found[rank] = lines.ask(rank)

    threads = [threading.Thread(target=ask, args=(rank,), daemon=True) for rank in range(3)]
    for thread in threads:
        thread.start()
    requests = []
    while len(requests) < 3:
        requests += lines.take()[1]
    assert sorted(number for number, _ in requests) == [0, 1, 2]
    for number, rank in requests:
        lines.answer(number, f"to {rank}")
    for thread in threads:
        thread.join()
    assert found == {rank: f"to {rank}" for rank in range(3)}


def test_a_stream_tells_whole_lines_and_passes_all_on():
    before, told = io.StringIO(), []
    heard = _Heard(before, told.append)
    for text in ("one\ntw", "o\n\n", "10 %\r 20 %\r", "100 %\nthe rest"):
        print(text, end="", file=heard)
    assert told == ["one", "two", "100 %"]
    heard.end()
    assert told[3:] == ["the rest"]
    assert before.getvalue() == "one\ntwo\n\n10 %\r 20 %\r100 %\nthe rest"


# -- Ray's storage -----------------------------------------------------------------------------------------------


@pytest.fixture
def storage(tmp_path):
    """Checkpoints of steps 4, 8 and 12 as they lie in Ray's storage, and Ray's index of the last two."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in (4, 8, 12):
        # Its clock stood still, or was set back: names do not say what is newer.
        folder = tmp_path / "run" / f"checkpoint_2026-01-01_{20 - step:02d}"
        checkpoints.write(
            folder, model.state_dict(), optimizer, None, model.state_dict(), {"step": step, "history": []}
        )
    found = Storage(str(tmp_path), "run")
    found._write_index(f"{found.folder}/{INDEX}", ["checkpoint_2026-01-01_12", "checkpoint_2026-01-01_08"])
    return found


def names(storage: Storage) -> list[str]:
    """What Ray's own reader makes of the index."""
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState

    state = _CheckpointManagerState.model_validate(json.loads(Path(storage.folder, INDEX).read_text()))
    found = [result.checkpoint_dir_name[-2:] for result in state.checkpoint_results]
    assert state.latest_checkpoint_result.checkpoint_dir_name[-2:] == found[-1]
    assert len(state.checkpoint_report_indices) == len(found)
    return found


def test_the_newest_two_are_kept_by_their_steps(storage):
    lines: list[str] = []
    assert storage.mend(lines.append) == 12 and lines == []
    assert names(storage) == ["12", "08"]
    assert [storage.step(each) for each in storage.checkpoints()] == [12, 8]


@pytest.mark.parametrize("how", ["flipped", "torn", "unfinished", "state"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_said(storage, tmp_path, how):
    folder = tmp_path / "run" / "checkpoint_2026-01-01_08"
    if how == "flipped":
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-3] ^= 4
        (folder / "model.safetensors").write_bytes(content)
    elif how == "torn":
        (folder / "best.safetensors").write_bytes((folder / "best.safetensors").read_bytes()[:20])
    elif how == "unfinished":
        (folder / checkpoints.SUMS).unlink()
    else:
        (folder / "state.json").write_text("{")
    lines: list[str] = []
    assert storage.mend(lines.append) == 8
    assert len(lines) == 1 and "is damaged" in lines[0] and "step 8" in lines[0]
    assert names(storage) == ["16", "12"]
    assert not folder.exists()


@pytest.mark.parametrize("content", ["", '{"checkpoint_results": [', None])
def test_an_index_that_a_kill_tore_is_made_again(storage, tmp_path, content):
    index = tmp_path / "run" / INDEX
    index.write_text(content) if content is not None else index.unlink()
    assert storage.mend(print) == 12
    assert names(storage) == ["12", "08"]


def test_where_none_is_whole_the_run_begins_anew_and_nothing_is_removed(storage, tmp_path):
    for folder in (tmp_path / "run").glob("checkpoint_2*"):
        (folder / "model.safetensors").write_bytes(b"")
    lines: list[str] = []
    assert storage.mend(lines.append) is None
    assert len(lines) == 3 and all("starts from the beginning" in line for line in lines)
    assert len([*(tmp_path / "run").glob("checkpoint_2*")]) == 3 and not (tmp_path / "run" / INDEX).exists()
    shutil.rmtree(tmp_path / "run")
    assert storage.mend(print) is None


# -- what it costs -----------------------------------------------------------------------------------------------


def test_the_first_step_tells_its_parts_and_the_benchmark_reads_them():
    found = Beginning(100.0, [("checks", 104.0), ("workers", 103.5), ("network and first step", 110.0)])
    assert str(found) == "first step after 10.0 s: checks 4.0, workers 0.0, network and first step 6.5"
    assert cluster.FIRST.search(f"plan: ...\n{found}\nepoch 1").group(1) == "10.0"


def test_steps_are_timed_past_the_first_ones_and_the_slowest_worker_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "WARM", 2)
    for name, pace in (("1", 1.0), ("2", 3.0)):
        times = [(9.0 * k if k < 2 else 18 + pace * k, 0.5 * pace * k) for k in range(5)]
        (tmp_path / f"{name}.json").write_text(json.dumps(times))
    assert cluster.Stamps(tmp_path, 5).read() == (3.0, 1.5)
    with pytest.raises(WorkError, match="no worker noted its steps"):
        cluster.Stamps(tmp_path, 5).read()
