"""MLflow: its database, the experiment, and what is logged of a run.

Only the driver and rank 0 write. The database is made once, by the driver, before any worker starts: several processes that
meet a fresh one at the same time break it. A server that is away stops no training: `irstd.registry.tracker` carries the reports
of a run under way, and `settle` brings its log up when it is over.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from irstd.environment import QUIET
from irstd.errors import WorkError
from irstd.registry.outbox import Row, first_line
from irstd.workspace import Workspace

EXPERIMENT = "irstd"
MARK = "epoch"
"""A number that every report has, and nothing else logs: where it stands at a step, the report of that step is there."""
SAMPLE = "system/cpu_utilization_percentage"
"""The same of samples of the machine."""
BATCH = 1000
"""The most numbers that MLflow takes at once."""
PATIENCE = 60.0
"""Seconds for which the driver waits for a server that does not answer at a run's end."""

T = TypeVar("T")


def client(workspace: Workspace) -> Any:
    """A client of the workspace's tracking server or database, which is made where there is none yet."""
    uri = workspace.mlflow_uri
    mlflow = _mlflow(uri)
    found = mlflow.MlflowClient(uri, uri)
    if uri.startswith("sqlite:///"):
        workspace.mlflow_database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(workspace.home / "mlflow" / "init.lock"):
            experiment(found, workspace)
    return found


def experiment(found: Any, workspace: Workspace) -> str:
    """The id of the experiment; made at the first call, its files under IRSTD_HOME where the store is embedded."""
    known = found.get_experiment_by_name(EXPERIMENT)
    if known is not None:
        return known.experiment_id
    place = None
    if not workspace.settings["mlflow"]["uri"]:
        place = (workspace.home / "mlflow" / "artifacts").as_uri()
    return found.create_experiment(EXPERIMENT, artifact_location=place)


def run_url(workspace: Workspace, run_id: str) -> str:
    """Where a person sees the run; the run's id where no server runs, or answers."""
    from mlflow.exceptions import MlflowException

    if workspace.mlflow_uri.startswith("http"):
        with suppress(MlflowException):
            number = experiment(client(workspace), workspace)
            return f"{workspace.mlflow_uri}/#/experiments/{number}/runs/{run_id}"
    return f"run {run_id} in {workspace.mlflow_uri}"


def start(
    workspace: Workspace, name: str, tags: dict[str, Any], params: dict[str, Any], parent: str | None = None
) -> str:
    """The id of the run with the tag irstd.run = `name` below `parent`; made where there is none. A resumed run goes on in it.

    Tags are those of now; parameters that an interrupted call left out are added.
    """
    found = client(workspace)
    number = experiment(found, workspace)
    every = {"irstd.run": name, **tags} | ({"mlflow.parentRunId": parent} if parent else {})
    texts = {k: str(v) for k, v in every.items() if v is not None}
    query = f"tags.`irstd.run` = '{name}'" + (f" and tags.`mlflow.parentRunId` = '{parent}'" if parent else "")
    for run in found.search_runs([number], query, order_by=["attributes.start_time DESC"], max_results=20):
        if bool(parent) == bool(run.data.tags.get("mlflow.parentRunId")):
            found.update_run(run.info.run_id, status="RUNNING")
            _set_tags(found, run.info.run_id, {k: v for k, v in texts.items() if run.data.tags.get(k) != v})
            log_params(found, run.info.run_id, {k: v for k, v in params.items() if k not in run.data.params})
            return run.info.run_id
    run = found.create_run(number, run_name=name, tags=texts)
    log_params(found, run.info.run_id, params)
    return run.info.run_id


def _set_tags(found: Any, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    if tags:
        found.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])


def log_params(found: Any, run_id: str, params: dict[str, Any]) -> None:
    from mlflow.entities import Param

    values = [Param(k, str(v)[:6000]) for k, v in params.items()]
    for i in range(0, len(values), 100):
        found.log_batch(run_id, params=values[i : i + 100])


def finish(
    workspace: Workspace,
    run_id: str,
    error: str | None = None,
    metrics: dict[str, Any] | None = None,
    state: str | None = None,
) -> None:
    """End a run, with `metrics` at their "step" where they do not stand there already.

    state: what became of a trial, kept as the tag irstd.state; one that was stopped early counts as KILLED.
    """
    found = client(workspace)
    data, row = found.get_run(run_id).data, row_of(metrics or {})
    values = {k: v for k, v in row.values.items() if data.metrics.get(k) != v}
    if values:
        log_rows(found, run_id, [Row(row.time, row.step, values)])
    if state:
        found.set_tag(run_id, "irstd.state", state)
    if error:
        found.set_tag(run_id, "irstd.error", error[:5000])
    elif "irstd.error" in data.tags:
        # It failed once, and went on to the end.
        found.delete_tag(run_id, "irstd.error")
    early = state in ("pruned", "stopped")
    found.set_terminated(run_id, "FAILED" if error else "KILLED" if early else "FINISHED")


def fail(workspace: Workspace, run_id: str | None, error: BaseException) -> None:
    """Note why a run ended, where MLflow answers; the reason itself is what matters."""
    if run_id:
        with suppress(Exception):
            finish(workspace, run_id, str(error) or type(error).__name__)


def row_of(metrics: Mapping[str, Any]) -> Row:
    """A report as it is logged: its numbers, at its "step" and its "time" (seconds since 1970; now where it does not say)."""
    when = metrics.get("time") or time.time()
    values = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float) and k != "time"}
    return Row(int(when * 1000), int(metrics.get("step", 0)), values)


def log_rows(found: Any, run_id: str, rows: Iterable[Row]) -> None:
    """Log rows in as few calls as MLflow allows. A row that is logged twice, time and all, stands there once."""
    from mlflow.entities import Metric

    batch: list[Any] = []
    for row in rows:
        values = [Metric(k, v, row.time, row.step or 0) for k, v in row.values.items()]
        if batch and len(batch) + len(values) > BATCH:
            found.log_batch(run_id, metrics=batch)
            batch = []
        batch += values
    if batch:
        found.log_batch(run_id, metrics=batch)


def steps_of(found: Any, run_id: str, key: str = MARK) -> set[int]:
    """The steps at which a run has a number."""
    return {metric.step for metric in found.get_metric_history(run_id, key)}


def settle(
    workspace: Workspace,
    run_id: str,
    history: Iterable[Mapping[str, Any]],
    metrics: dict[str, Any],
    files: Mapping[str, Iterable[Path]] | None = None,
) -> None:
    """Bring a finished run's log up to what is on the disk, and end it. Called again it adds what lacks.

    history: the reports. metrics: of the whole run. files: by their folder among the run's artifacts, "" at their top.
    """
    found = client(workspace)
    known = steps_of(found, run_id)
    log_rows(found, run_id, (row_of(row) for row in history if int(row["step"]) not in known))
    for folder, paths in (files or {}).items():
        log_files(workspace, run_id, paths, folder or None)
    finish(workspace, run_id, metrics=metrics)


def away(error: BaseException) -> bool:
    """Whether MLflow did not answer, or had no time: it may answer later."""
    import requests
    from mlflow.exceptions import MlflowException

    if isinstance(error, requests.RequestException):
        return True
    if not isinstance(error, MlflowException):
        return False
    behind = error.__cause__ or error.__context__
    busy = error.error_code in ("TEMPORARILY_UNAVAILABLE", "RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED")
    return busy or isinstance(behind, requests.RequestException)


def patiently(workspace: Workspace, act: Callable[[], T], say: Callable[[str], None], rest: str) -> T:
    """What `act` returns; while MLflow does not answer it is tried again, for a minute.

    Then, and at once where it refuses, `WorkError`. `rest` is what the same command will do: "logs and registers the run".
    """
    started = time.monotonic()
    said = False
    while True:
        try:
            with answering(workspace, rest):
                return act()
        except WorkError as error:
            if error.__cause__ is None or not away(error.__cause__) or time.monotonic() - started > PATIENCE:
                raise
            if not said:
                say(f"MLflow at {workspace.mlflow_uri} does not answer; waiting for it, {PATIENCE:.0f} s at most")
                said = True
            time.sleep(min(2.0, PATIENCE))


def _mlflow(uri: str) -> Any:
    """The module, quiet, pointed at `uri`."""
    # Alembic tells every migration of a fresh database, and MLflow every model it writes.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    for name, value in QUIET.items():
        if name.startswith("MLFLOW_"):
            os.environ.setdefault(name, value)
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow


@contextmanager
def answering(workspace: Workspace, rest: str | None = None) -> Iterator[None]:
    """Turns MLflow's errors into one line that names the address. `rest`: what the same command will then do."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        where = f"MLflow at {workspace.mlflow_uri}"
        if away(error):
            hint = (
                f"when it does, the same command {rest}"
                if rest
                else "start it again, or see mlflow.uri in settings.toml"
            )
            raise WorkError(f"{where} does not answer{_why(error)}; {hint}") from error
        raise WorkError(f"{where}: {first_line(error)}") from error


def _why(error: BaseException) -> str:
    """What the system said of a connection, in brackets; nothing where it said nothing."""
    text = str(error)
    found = re.search(r"\[Errno -?\d+\] ([^)'\"]+)", text) or re.search(r"too many (\d+ error) responses", text)
    if found:
        return f" ({found[1].strip()})"
    return " (no answer in time)" if "time" in text and "out" in text else ""


def log_files(workspace: Workspace, run_id: str, paths: Iterable[Path], folder: str | None = None) -> None:
    """Attach files to a run, in a folder of its artifacts or at their top."""
    found = client(workspace)
    for path in paths:
        if path.is_file():
            found.log_artifact(run_id, str(path), folder)


def set_tags(workspace: Workspace, run_id: str, tags: Mapping[str, str]) -> None:
    _set_tags(client(workspace), run_id, tags)


def log_text(workspace: Workspace, run_id: str, text: str, name: str) -> None:
    client(workspace).log_text(run_id, text, name)


def texts(workspace: Workspace, run_id: str, prefix: str) -> dict[str, str]:
    """Files at the top of a run's artifacts whose names begin with `prefix`, by name; {} where the run is not here."""
    from mlflow.artifacts import load_text

    if not known(workspace, run_id):
        return {}
    found = client(workspace)
    names = [f.path for f in found.list_artifacts(run_id) if not f.is_dir and f.path.startswith(prefix)]
    uri = found.get_run(run_id).info.artifact_uri
    return {name: load_text(f"{uri}/{name}") for name in sorted(names)}


def fetched(workspace: Workspace, run_id: str | None, target: Path) -> list[Path]:
    """The files of a run that say what it gave (history, versions, evaluations), copied below `target`; [] where the run is not
    here. Its models stay where they are."""
    if not run_id or not known(workspace, run_id):
        return []
    found = client(workspace)
    for entry in found.list_artifacts(run_id):
        if entry.path.startswith("evaluation-") or entry.path in ("results.csv", "packages.txt"):
            found.download_artifacts(run_id, entry.path, str(target))
    return sorted(p for p in target.rglob("*") if p.is_file())


def run_of(workspace: Workspace, name: str, parent: str) -> Any | None:
    """The run with the identity `name`: a child of `parent`, else any of the experiment. Finished ones and newer ones first."""
    found = client(workspace)
    query = f"tags.`irstd.run` = '{name}'"
    runs = found.search_runs(
        [experiment(found, workspace)], query, order_by=["attributes.start_time DESC"], max_results=100
    )
    runs.sort(key=lambda r: (r.data.tags.get("mlflow.parentRunId") != parent, r.info.status != "FINISHED"))
    return runs[0] if runs else None


def reports(workspace: Workspace, name: str, metric: str) -> list[dict[str, Any]] | None:
    """What the finished run with the identity `name` reported of `metric`: [{"epoch", "step", metric, "best_" + metric}].

    None where MLflow knows no such run, does not answer, or has no such numbers.
    """
    try:
        run = run_of(workspace, name, "")
        if run is None or run.info.status != "FINISHED":
            return None
        found = client(workspace)
        columns = {}
        for key in ("epoch", metric, f"best_{metric}"):
            # A run that went on after a kill may have reported a step twice.
            columns[key] = {m.step: m.value for m in found.get_metric_history(run.info.run_id, key)}
    except Exception:
        return None
    steps = sorted(set(columns["epoch"]) & set(columns[metric]))
    rows = [{"step": step} | {key: column.get(step) for key, column in columns.items()} for step in steps]
    return rows if rows and all(row[f"best_{metric}"] is not None for row in rows) else None


def known(workspace: Workspace, run_id: str) -> bool:
    """Whether the run is in this store, and not deleted there."""
    from mlflow.exceptions import MlflowException

    try:
        return client(workspace).get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return False


def log_values(found: Any, run_id: str, values: dict[str, float]) -> None:
    """Metrics without a step."""
    log_rows(found, run_id, [row_of(values)])
