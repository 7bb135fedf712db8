"""The trials of a sweep as runs: their configurations, identities and folders, and their runs in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from irstd import config as configuration
from irstd.cluster import spaces
from irstd.cluster.spaces import Space
from irstd.cluster.sweep import Row, Sweep, Trial
from irstd.commands import going_on, on_cluster
from irstd.config import Config
from irstd.files import read_json, write_json
from irstd.training.preparation import Job, prepare
from irstd.training.record import finished
from irstd.training.store import LAST
from irstd.workspace import Workspace


class Trials:
    """Points of a space as jobs. overrides: of every trial."""

    def __init__(self, workspace: Workspace, space: Space, overrides: dict[str, Any], shards: str | Path) -> None:
        self.workspace, self.space, self.overrides, self.shards = workspace, space, overrides, shards
        self._jobs: dict[str, Job] = {}
        self._chain: dict[str, Any] | None = None

    def config(self, point: dict[str, Any]) -> Config:
        """`InputError` where the values of the point contradict each other."""
        return spaces.config_of(self.space, self.workspace.root, {**self.overrides, **point})

    def prepare(self, point: dict[str, Any]) -> Job:
        job = prepare(self.config(point), self.shards)
        self._jobs[job.name] = job
        return job

    def name_of(self, point: dict[str, Any]) -> str:
        """The identity of the point's run."""
        return self.prepare(point).name

    def of(self, trial: Trial) -> Job:
        return self._jobs.get(trial.run) or self.prepare(trial.overrides)

    def chain(self, job: Job) -> dict[str, Any]:
        """The lineage of a trial; what all have in common is looked up once."""
        from irstd.registry import lineage

        if self._chain is None:
            self._chain = lineage.of_run(self.workspace, job.identity, job.manifests, job.config.train.seed)
        own = {"run": job.name, "identity": job.identity.hash, "seed": job.config.train.seed}
        start = {"init": job.identity.content["init"]} if "init" in job.identity.content else {}
        start |= {"init_from": job.origin} if job.origin else {}
        return {k: v for k, v in self._chain.items() if k != "init"} | own | start

    def job(self, trial: Trial) -> dict[str, Any]:
        """What the trial's process is told."""
        from irstd.registry import lineage

        job = self.of(trial)
        on_cluster.keep_code(self.workspace, job)
        tags = lineage.tags(self.chain(job)) | {"irstd.kind": "trial", "irstd.trial": str(trial.number)}
        values = job.config.model_dump(mode="json")
        params = configuration.flatten(values, "configuration") | trial.overrides
        return {"config": values, "tags": tags, "params": params}

    def rows(self, run: str, metric: str, ask: bool) -> list[Row] | None:
        """The reports of a run that is finished: from its folder, else from MLflow where it may be asked. None: to be run."""
        from irstd.cluster.tune import history
        from irstd.registry import tracking

        folder = self.workspace.runs / run
        if finished(folder, record_needed=False):
            going_on.whole(self.workspace, run, self.config({}))
            return history(folder / LAST, metric) or None
        return tracking.reports(self.workspace, run, metric) if ask else None

    def complete_folder(self, trial: Trial) -> bool:
        """Whether the trial's folder holds a whole run, known to MLflow; or the trial is known from MLflow alone."""
        folder = self.workspace.runs / trial.run
        record = finished(folder)
        return bool(record and record.get("mlflow_run")) or (trial.taken and not (folder / "run.json").is_file())

    def complete(self, sweep: Sweep, parent: str) -> None:
        """Give the run folders of finished trials what a trained run has, so that `irstd train` of the same takes them; and
        every trial its state in MLflow, whatever its process came to say."""
        for trial in sweep.trials:
            if trial.state == "finished":
                self._complete(trial, parent)
            elif trial.over:
                self._close(trial, parent)

    def _complete(self, trial: Trial, parent: str) -> None:
        from irstd.commands import run_log
        from irstd.registry import tracking
        from irstd.registry.tracker import TrialTracker

        folder = self.workspace.runs / trial.run
        record = finished(folder, record_needed=False)
        if record is None or ("lineage" in record and record.get("mlflow_run")):
            return
        state = read_json(folder / LAST / "state.json")
        job, told = self.of(trial), self.job(trial)
        # The trial may have finished below another sweep, which was killed, or while MLflow was away.
        known = tracking.run_of(self.workspace, trial.run, parent)
        tracker = TrialTracker(self.workspace, trial.run, told["tags"], told["params"], parent)
        tracker.run_id = known.info.run_id if known else None
        chain = record.get("lineage") or self.chain(job) | {"workers": state.get("places", [])}
        run_log.write(self.workspace, job, chain)
        run_id = run_log.settle(self.workspace, job, tracker, state)
        write_json(folder / "run.json", record | {"metrics": state["best"], "lineage": chain, "mlflow_run": run_id})

    def _close(self, trial: Trial, parent: str) -> None:
        from irstd.registry import tracking

        known = tracking.run_of(self.workspace, trial.run, parent)
        if known and known.data.tags.get("mlflow.parentRunId") == parent and known.info.status != "FINISHED":
            tracking.finish(self.workspace, known.info.run_id, trial.error, state=trial.state)
