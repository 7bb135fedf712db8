"""MLflow: its database, the experiment, runs, and the trackers that workers carry.

Only the driver and rank 0 write. The database is made once, by the driver, before any worker starts: several processes that
meet a fresh one at the same time break it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from irstd.errors import WorkError
from irstd.workspace import Workspace

EXPERIMENT = "irstd"


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
    """Where a person sees the run; the run's id where no server runs."""
    if not workspace.mlflow_uri.startswith("http"):
        return f"run {run_id} in {workspace.mlflow_uri}"
    number = experiment(client(workspace), workspace)
    return f"{workspace.mlflow_uri}/#/experiments/{number}/runs/{run_id}"


def start(
    workspace: Workspace, name: str, tags: dict[str, Any], params: dict[str, Any], parent: str | None = None
) -> str:
    """The id of the run with the tag irstd.run = `name` below `parent`; made where there is none. A resumed run goes on in it."""
    found = client(workspace)
    number = experiment(found, workspace)
    query = f"tags.`irstd.run` = '{name}'" + (f" and tags.`mlflow.parentRunId` = '{parent}'" if parent else "")
    for run in found.search_runs([number], query, order_by=["attributes.start_time DESC"], max_results=20):
        if bool(parent) == bool(run.data.tags.get("mlflow.parentRunId")):
            found.update_run(run.info.run_id, status="RUNNING")
            return run.info.run_id
    every = {"irstd.run": name, **tags} | ({"mlflow.parentRunId": parent} if parent else {})
    run = found.create_run(number, run_name=name, tags={k: str(v) for k, v in every.items() if v is not None})
    log_params(found, run.info.run_id, params)
    return run.info.run_id


def log_params(found: Any, run_id: str, params: dict[str, Any]) -> None:
    from mlflow.entities import Param

    values = [Param(k, str(v)[:6000]) for k, v in params.items()]
    for i in range(0, len(values), 100):
        found.log_batch(run_id, params=values[i : i + 100])


def finish(workspace: Workspace, run_id: str, error: str | None = None, metrics: dict[str, Any] | None = None) -> None:
    found = client(workspace)
    if metrics:
        _log(found, run_id, metrics, int(metrics.get("step", 0)))
    if error:
        found.set_tag(run_id, "irstd.error", error[:5000])
    elif "irstd.error" in found.get_run(run_id).data.tags:
        # It failed once, and went on to the end.
        found.delete_tag(run_id, "irstd.error")
    found.set_terminated(run_id, "FAILED" if error else "FINISHED")


class RunTracker:
    """Logs reports to one run. Picklable: workers get the address and the id. The loop goes on if the server is away."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.run_id = uri, run_id

    def __call__(self, metrics: dict[str, Any], checkpoint: Path | None) -> None:
        try:
            _log(_mlflow(self.uri).MlflowClient(self.uri, self.uri), self.run_id, metrics, int(metrics.get("step", 0)))
        except Exception as error:
            print(f"irstd: a report did not reach MLflow ({type(error).__name__}); training goes on", flush=True)


class TrialTracker:
    """Begins and ends a trial's child run from the trial's process. The trial goes on if the server is away."""

    def __init__(
        self, workspace: Workspace, parent: str, name: str, tags: dict[str, Any], params: dict[str, Any]
    ) -> None:
        self.workspace, self.parent, self.name, self.tags, self.params = workspace, parent, name, tags, params
        self.run_id: str | None = None

    def begin(self) -> RunTracker | None:
        """What reports go to; None where the run cannot be begun."""
        os.environ.update(self.workspace.environment())
        try:
            self.run_id = start(self.workspace, self.name, self.tags, self.params, self.parent)
        except Exception as away:
            print(
                f"irstd: the trial's run was not begun in MLflow ({type(away).__name__}); training goes on", flush=True
            )
            return None
        return RunTracker(self.workspace.mlflow_uri, self.run_id)

    def end(self, error: str | None) -> None:
        if self.run_id:
            try:
                finish(self.workspace, self.run_id, error)
            except Exception as away:
                print(f"irstd: the trial's end did not reach MLflow ({type(away).__name__})", flush=True)


def _log(found: Any, run_id: str, metrics: dict[str, Any], step: int) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    values = [Metric(k, float(v), now, step) for k, v in metrics.items() if isinstance(v, int | float)]
    found.log_batch(run_id, metrics=values)


def _mlflow(uri: str) -> Any:
    """The module, quiet, pointed at `uri`."""
    # Alembic tells every migration of a fresh database, and MLflow every model it writes.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow


@contextmanager
def answering(workspace: Workspace) -> Any:
    """Turns MLflow's errors into one line that names the address."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        message = (str(error).splitlines() or ["no answer"])[0]
        raise WorkError(f"MLflow at {workspace.mlflow_uri}: {message}") from error


def log_files(workspace: Workspace, run_id: str, paths: Iterable[Path], folder: str | None = None) -> None:
    """Attach files to a run, in a folder of its artifacts or at their top."""
    found = client(workspace)
    for path in paths:
        if path.is_file():
            found.log_artifact(run_id, str(path), folder)


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


def run_of(workspace: Workspace, name: str, parent: str) -> Any | None:
    """The run with the identity `name`: a child of `parent`, else any of the experiment. Finished ones and newer ones first."""
    found = client(workspace)
    query = f"tags.`irstd.run` = '{name}'"
    runs = found.search_runs(
        [experiment(found, workspace)], query, order_by=["attributes.start_time DESC"], max_results=100
    )
    runs.sort(key=lambda r: (r.data.tags.get("mlflow.parentRunId") != parent, r.info.status != "FINISHED"))
    return runs[0] if runs else None


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
    _log(found, run_id, values, 0)
