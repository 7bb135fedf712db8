"""Ray Tune: runs the trials of a sweep, each a run of `irstd.training`.

Ray Tune places the trials, hears their reports and ends them; what is tried next and what is stopped is the sweep's to say
(`irstd.cluster.sweep`). A trial of one worker trains inside the trial's own process; a trial of several starts Ray Train
workers. How many go side by side is the plan's decision, made before anything starts, so a trial never waits for cores that
trials hold.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayActorError
from ray.train._internal.session import get_session
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.trainable.function_trainable import FunctionTrainable, wrap_function

from irstd.cluster import train as cluster_train
from irstd.cluster.faults import reason
from irstd.cluster.plan import Plan
from irstd.cluster.sweep import Row, Sweep, Trial
from irstd.config import Config
from irstd.files import read_json, write_json
from irstd.foreign import Source
from irstd.training.record import finished
from irstd.training.store import LAST
from irstd.workspace import Workspace

KEPT = ("epoch", "step", "seconds", "lr", "loss", "val_", "best_", "begin_")
"""Beginnings of the names of what is kept of a report."""
ENDING = 120
"""Seconds that a trial may take to end after it was stopped."""
TRIES = 3
"""Of a trial that Ray Tune gives up."""


def run(
    workspace: Workspace,
    name: str,
    sweep: Sweep,
    job: Callable[[Trial], dict[str, Any]],
    shards: str | Path,
    plan: Plan,
    source: Source,
    trackers: Any = None,
) -> None:
    """Run the sweep's trials on the running Ray session until there is nothing left to begin.

    Args:
        name: of the folder in Ray's storage.
        job: for a trial, as JSON: its `config`, and what `trackers` takes besides its run: `tags` and `params`.
        source: the code of a network that is not ours.
        trackers: picklable; `trackers(run, tags, params)` has `begin() -> callable(metrics, checkpoint) or None` and
            `end(error, state)`.

    A trial that fails is in the sweep with its reason; the search goes on.
    """
    # It would show the traceback of each trial that fails; the table has the reason.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # Journal, MLflow and sweep.json hold the reports; Ray's own tables of them would only take time.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # A trial that was stopped still sends what MLflow lacks. Ray waits for that where the next one is to begin in its process,
    # by itself for 2 s, and then gives the next one up without a word.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(ENDING)
    # Ray's own handler of ctrl-c lets `fit` return as if the search were over.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    common = {
        "shards": str(shards if isinstance(shards, str) else shards.resolve()),
        "metric": sweep.metric,
        "plan": plan,
        "workspace": workspace,
        "source": source,
        "trackers": trackers,
    }
    resources = {"CPU": plan.cpus_per_worker, "GPU": plan.gpus_per_worker} if plan.workers == 1 else {"CPU": 0.5}
    seats: dict[str, int] = {}

    trainable = tune.with_resources(_waited_for(tune.with_parameters(trial, common=common)), resources)
    # The next trial begins in the process of one that is over, where everything is imported. Code of a network that is not
    # ours is unpacked for each trial anew. A trial of several workers goes with its process, and with it all that Ray Train
    # keeps in there.
    reuse = not source.files and plan.workers == 1

    def fit() -> None:
        _tuner(trainable, sweep, job, seats, plan, name, workspace.ray_storage, reuse).fit()

    _to_the_end(sweep, fit)


def _waited_for(function: Callable[..., None]) -> type[FunctionTrainable]:
    """What Ray Tune makes of a function, except that a trial that is stopped comes to its own end: Ray's own is cut off, and
    neither says farewell to MLflow nor ends the workers that it has."""
    base = wrap_function(function)

    class Waited(base):
        def cleanup(self) -> None:
            try:
                get_session().finish(timeout=ENDING)
            finally:
                super().cleanup()

    Waited.__name__ = base.__name__
    return Waited


def _to_the_end(sweep: Sweep, fit: Callable[[], Any]) -> None:
    """Call `fit` until the sweep has heard of every trial's end: Ray Tune gives some up without telling searcher or scheduler."""
    for _ in range(TRIES):
        fit()
        left = [each for each in sweep.trials if not each.over and each.state == "running"]
        if not left:
            return
        for each in left:
            sweep.event("again", each)
    for each in left:
        sweep.end(each.number, "failed", f"Ray Tune did not run it, {TRIES} times")


def _tuner(
    trainable: Any,
    sweep: Sweep,
    job: Callable[[Trial], dict[str, Any]],
    seats: dict[str, int],
    plan: Plan,
    name: str,
    storage: str,
    reuse: bool,
) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Asked(sweep, job, seats),
            scheduler=_Stopped(sweep, seats),
            num_samples=-1,
            max_concurrent_trials=plan.trials,
            reuse_actors=reuse,
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            # Trials are not retried here: Ray Train restarts workers, Prefect restarts a dead driver.
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )


class _Asked(Searcher):
    """Ray Tune's searcher: hands on what the sweep says is next. seats: the sweep's numbers by Ray's ids."""

    def __init__(self, sweep: Sweep, job: Callable[[Trial], dict[str, Any]], seats: dict[str, int]) -> None:
        super().__init__()
        self.sweep, self.job, self.seats = sweep, job, seats

    def suggest(self, trial_id: str) -> Any:
        found = self.sweep.ask()
        if found is None:
            return Searcher.FINISHED
        self.seats[trial_id] = found.number
        # As text: a mapping would be searched for things to sample.
        return {"job": json.dumps({"run": found.run, "asked": time.time()} | self.job(found))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self.seats:
            self.sweep.end(
                self.seats[trial_id], "failed" if error else "finished", "its process died" if error else None
            )

    def save(self, checkpoint_path: str) -> None:
        """The sweep's journal is what a search goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """As `save`."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Asked:
        return self

    def __reduce__(self) -> Any:
        return Searcher, ()


class _Stopped(FIFOScheduler):
    """Ray Tune's scheduler: hands reports to the sweep, and its word back."""

    def __init__(self, sweep: Sweep, seats: dict[str, int]) -> None:
        super().__init__()
        self.sweep, self.seats = sweep, seats

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = self.sweep.report(self.seats[trial.trial_id], row(result)) if "step" in result else False
        return self.STOP if stop else self.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        failure = _failure(trial)
        why = reason(failure) if failure else "its process died"
        self.sweep.end(self.seats[trial.trial_id], "failed", why)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Stopped:
        return self

    def __reduce__(self) -> Any:
        return FIFOScheduler, ()


def _failure(trial: Any) -> BaseException | None:
    """What ended a trial. Ray's own question looks into its storage, where the driver's file comes only later."""
    path = trial.pickled_error_file
    if path and Path(path).is_file():
        found = cloudpickle.loads(Path(path).read_bytes())
        return getattr(found, "cause", None) or found  # the trial's own error, where it was one
    return trial.get_pickled_error() or trial.get_error()


def row(metrics: dict[str, Any]) -> Row:
    """What is kept of a report; what is no number in JSON is None."""
    found = {k: v for k, v in metrics.items() if k.startswith(KEPT) and (v is None or isinstance(v, int | float))}
    return {k: v if v is None or math.isfinite(v) else None for k, v in found.items()}


def history(checkpoint: Path, metric: str) -> list[Row]:
    """The rows of a run from a checkpoint, with the best so far; [] where there is none."""
    try:
        rows = read_json(checkpoint / "state.json")["history"]
    except (OSError, ValueError, KeyError):
        return []
    best: float | None = None
    found = []
    for each in rows:
        value = each.get(metric)
        best = value if best is None else best if value is None else max(best, value)
        found.append(row(each) | {f"best_{metric}": best})
    return found


def trial(params: dict[str, Any], common: dict[str, Any]) -> None:
    """One trial: what Ray Tune runs in its own process."""
    job = json.loads(params["job"]) | {"entered": time.time()}
    folder = common["workspace"].runs / job["run"]
    if finished(folder, record_needed=False):
        _report(history(folder / LAST, common["metric"]))
        return
    tracker = common["trackers"](job["run"], job["tags"], job["params"]) if common["trackers"] else None
    track = tracker.begin() if tracker else None
    error, state = None, "failed"
    try:
        with common["source"].unpacked():
            metrics = (_one if common["plan"].workers == 1 else _many)(job, common, folder, track)
        write_json(
            folder / "run.json", {"run": job["run"], "config": job["config"], "metrics": metrics, "finished": True}
        )
        state = "finished"
    except SystemExit:
        # Ray ends a trial that is stopped where it reports.
        state = "pruned"
        raise
    except BaseException as failure:
        error = reason(failure)
        raise
    finally:
        if tracker:
            tracker.end(error, state)


def _one(job: dict[str, Any], common: dict[str, Any], folder: Path, track: Any) -> dict[str, Any]:
    """Train in this process."""
    import torch

    from irstd.training.loop import fit
    from irstd.training.store import Store

    plan, store = common["plan"], Store(folder)
    torch.set_num_threads(plan.threads)
    # Where the time before the training goes; with the first report.
    first = {"begin_process": job["entered"] - job["asked"], "begin_imports": time.time() - job["entered"]}

    def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
        if track is not None:
            track(metrics, checkpoint)
        store(metrics, checkpoint)
        tune.report(row(metrics | first))
        first.clear()

    resumed = store.begin(_quiet)
    if resumed is not None:
        # What an earlier session or another search trained counts like what is trained now.
        _report(history(resumed, common["metric"]))
    fit(
        Config.model_validate(job["config"]),
        common["shards"],
        report,
        resume=resumed,
        device="cuda" if torch.cuda.is_available() and plan.gpus_per_worker else "cpu",
        log=_quiet,
        scratch=store.scratch,
        beside=folder,
    )
    store.finish()
    return _reported(folder)


def _many(job: dict[str, Any], common: dict[str, Any], folder: Path, track: Any) -> dict[str, Any]:
    """Train over the workers of a Ray Train run of its own."""
    session = get_session()
    reports = _Reports()

    def stopped() -> bool:
        if not session.stop_event.is_set():
            return False
        reports.close()
        return True

    cluster_train.fit(
        common["workspace"],
        Config.model_validate(job["config"]),
        common["shards"],
        job["run"],
        common["plan"],
        folder / LAST,
        track,
        show=_quiet,
        callbacks=[reports],
        stop=stopped,
    )
    return _reported(folder)


class _Reports(TuneReportCallback):
    """Ray Train's reports to Ray Tune, through a queue of one place. Of a trial that is stopped nobody takes them out any more,
    and the controller of its workers would wait there for ever."""

    def close(self) -> None:
        self._training_actor_item_queue.shutdown(force=True)

    def after_report(self, *arguments: Any, **named: Any) -> None:
        with contextlib.suppress(RayActorError):  # it is closed
            super().after_report(*arguments, **named)


def _report(rows: list[Row]) -> None:
    for each in rows:
        tune.report(each)


def _reported(folder: Path) -> dict[str, Any]:
    """A trained run's last report."""
    state = read_json(folder / LAST / "state.json")
    return state["history"][-1] | {f"best_{k}": v for k, v in state["best"].items() if k.startswith("val_")}


def _quiet(line: str) -> None:
    """A trial's epochs are in MLflow and in the journal; the terminal shows the sweep."""
