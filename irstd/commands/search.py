"""A search from its first trial, or where it stopped, to the confirmed winner in the registry."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from irstd.cluster import searchers
from irstd.cluster.journal import Journal
from irstd.cluster.sweep import Row, Sweep, Trial
from irstd.commands import confirmation, estimate, on_cluster, run_log, sweeps
from irstd.commands import train as training
from irstd.commands.leaderboard import Board, both
from irstd.commands.search_plan import Planned
from irstd.commands.show import say
from irstd.commands.sweep_page import NAME, Page
from irstd.commands.sweeps import Record
from irstd.errors import InputError, WorkError
from irstd.files import canonical_json, sha256_text
from irstd.training.preparation import check_batch, prepare
from irstd.turns import turn


class Search(Planned):
    """Runs a search; see `run`."""

    # -- the search -------------------------------------------------------------------------------------------------

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Search, or go on, or take what is there; then confirm."""
        if resume and not (self.folder / "journal.jsonl").is_file():
            others = sorted(
                p.parent.name for p in (self.workspace.home / "sweeps").glob(f"{self.space.name}-*/journal.jsonl")
            )
            why = (
                f"{others[-1]} was of another space, configuration, data or code"
                if others
                else "it was not searched before"
            )
            raise InputError(f"--resume: there is no search {self.name} to go on with: {why}; leave --resume out")
        self.folder.mkdir(parents=True, exist_ok=True)
        waits = partial(say, f"sweep {self.name}: another process is at it; waiting for its end")
        with turn(self.folder / ".lock", waits), ExitStack() as open_:
            self.open, self.ready, self.whole = open_, False, self._tracker()
            return self._run()

    def _run(self) -> dict[str, Any]:
        from irstd.cluster.stopping import Stopping
        from irstd.registry import tracking

        space, config, old = self.space, self.default.config, sweeps.read(self.folder)
        epochs = config.train.epochs
        record = Record(self.folder, self.head(), Page(self.folder))
        record.epochs = epochs
        board = Board(self.metric, epochs=epochs)
        sweep = self._sweep(
            searchers.make(space), Stopping(space.scheduler, epochs), "journal.jsonl", self.count(), record, board
        )
        if sweep.trials and self._whole(sweep):
            say(f"sweep {self.name}: searched before, nothing has changed; its result is taken")
            self.url = (record.head["mlflow"] or {}).get("url")
        else:
            self._go(sweep, record, board)
        best = sweep.best()
        if best is None:
            failed = next((t.error for t in sweep.trials if t.error), None)
            record.write("failed")
            why = f"no trial reported {self.metric}" + (": the hours were spent" if sweep.spent else "")
            error = WorkError(f"all {len(sweep.trials)} trials failed; the first: {failed}" if failed else why)
            tracking.fail(self.workspace, self.whole.run_id, error)
            raise error
        if sweep.skipped:
            why = max(sweep.reasons, key=lambda reason: sweep.reasons[reason])
            say(f"{sweep.skipped} points were left out; most often: {why}")
        if self.confirm and not sweep.cut:
            confirmed = self._confirm(sweep, record)
        else:
            confirmed = confirmation.still(record.more["confirmation"], self._candidates(sweep))
            if self.confirm and confirmed is None:
                say("the hours were spent, so nothing was confirmed; with more --hours the search goes on")
        winner, chosen = self._winner(best, confirmed)
        state = "stopped" if sweep.cut else "finished"
        record.write(state, confirmation=confirmed, winner=winner)
        if self.ready or old.get("state") != state:
            with record.done():
                rest = "logs and registers the winner"
                tracking.patiently(self.workspace, lambda: self._log(best, confirmed), say, rest)
        self.record = record
        return {
            "name": self.name,
            "metric": self.metric,
            "rows": [self._row(t, t is best) for t in sweep.trials],
            "url": self.url,
            "page": str(self.folder / NAME),
            "best": {"number": best.number, "overrides": best.overrides, "run": best.run, "metrics": best.rows[-1]},
            "confirmation": confirmed,
            "winner": winner,
            "config": self.trials.config(chosen),
            "about": training.about(self.default),
            "state": state,
        }

    def _sweep(
        self, searcher: Any, stopping: Any, journal: str, limit: int | None, *watches: Any, hours: bool = True
    ) -> Sweep:
        found = Sweep(
            searcher,
            stopping,
            Journal(self.folder / journal),
            self.trials.name_of,
            self.metric,
            known=self._known,
            trials=limit,
            hours=self.space.budget.hours if hours else None,
            watch=both(*watches),
        )
        for watch in watches:
            watch.sweep = found
        return found

    def _go(self, sweep: Sweep, record: Record, board: Board) -> None:
        """Run what is left of a sweep's trials on Ray, and bring MLflow up to it."""
        from irstd.cluster import tune as cluster
        from irstd.foreign import Source
        from irstd.registry import tracking
        from irstd.registry.tracker import TrialTracker

        if not sweep.trials or not sweep.over:
            self._ready()
            board.parallel = self.plan.trials
            record.head |= {"plan": self.plan_record(), "mlflow": {"run": self.whole.run_id, "url": self.url}}
            trackers = partial(TrialTracker, self.workspace, parent=self.whole.run_id)
            source = Source.of(self.default.config.model.network)
            shards = self.default.shards
            try:
                with board:
                    cluster.run(self.workspace, self.name, sweep, self.trials.job, shards, self.plan, source, trackers)
            except BaseException as error:
                record.write("interrupted")
                tracking.fail(self.workspace, self.whole.run_id, error)
                raise
            if spent := estimate.overhead(sweep.trials):
                say(spent)
        rest = "logs and registers the winner"
        tracking.patiently(self.workspace, lambda: self.trials.complete(sweep, self.whole.open()), say, rest)

    def _ready(self) -> None:
        """Start, or join, Ray and begin the sweep's run in MLflow, once."""
        from irstd.cluster import plan as planning
        from irstd.cluster.session import session
        from irstd.registry import tracking

        if self.ready:
            return
        resources = self.open.enter_context(session(self.workspace))
        if self.plan is None:
            self.plan = planning.make(resources, self.workers, self.parallel)
            check_batch(self.default, self.plan.workers)
            say(str(self.plan))
        on_cluster.begin(self.workspace, self.whole)
        if self.whole.run_id:
            self.url = tracking.run_url(self.workspace, self.whole.run_id)
        self.ready = True

    def _tracker(self) -> Any:
        """Of the sweep's own run."""
        from irstd.registry.tracker import RunTracker

        space = self.space
        params = {"space": space.name, "search": space.search, "trials": self.count(), "objective": self.metric}
        params |= {path: str(knob) for path, knob in space.space.items()}
        return RunTracker(self.workspace, self.name, {"irstd.kind": "tune"}, params)

    def _log(self, best: Trial, confirmed: dict[str, Any] | None) -> None:
        """End the sweep's run in MLflow, its record attached."""
        from irstd.registry import tracking

        run_id = self.whole.open()
        files = ("sweep.json", "curves.csv", NAME)
        tracking.log_files(self.workspace, run_id, [self.folder / name for name in files])
        tracking.set_tags(self.workspace, run_id, {"irstd.page": NAME})
        tracking.finish(self.workspace, run_id, metrics={f"best_{self.metric}": best.value} | _numbers(confirmed))
        self.url = tracking.run_url(self.workspace, run_id)

    def _known(self, run: str) -> list[Row] | None:
        """The rows of a run that is finished, from its folder; else from MLflow."""
        return self.trials.rows(run, self.metric, self.ready)

    def _whole(self, sweep: Sweep) -> bool:
        """Whether nothing is left to do: every trial over, and those that finished complete in their folders."""
        return sweep.over and all(self.trials.complete_folder(t) for t in sweep.trials if t.state == "finished")

    # -- confirmation and winner ------------------------------------------------------------------------------------

    def _candidates(self, sweep: Sweep) -> list[confirmation.Candidate]:
        return confirmation.candidates(sweep.ranked(), self.space.confirmation.best, self.default.name)

    def _confirm(self, sweep: Sweep, record: Record) -> dict[str, Any] | None:
        from irstd.cluster.spaces import Scheduler
        from irstd.cluster.stopping import Stopping

        chosen = self._candidates(sweep)
        if len(chosen) < 2:
            say("nothing to confirm: no trial but the default configuration ran to its end")
            return None
        fresh = confirmation.seeds(self.default.config.train.seed, self.space.confirmation.seeds)
        runs = confirmation.points(chosen, fresh)
        epochs = self.default.config.train.epochs
        board = Board(self.metric, epochs=epochs, title="confirmation")
        # Other candidates, when a search went on with a larger budget, are another confirmation.
        journal = f"confirmation-{sha256_text(canonical_json(runs))[:8]}.jsonl"
        again = self._sweep(
            searchers.Listed(runs), Stopping(Scheduler(), epochs), journal, len(runs), board, hours=False
        )
        if not self._whole(again):
            say(f"confirmation: {len(chosen) - 1} trials and the default again, with {len(fresh)} fresh seeds each")
            self._go(again, record, board)
        return confirmation.results(chosen, fresh, again)

    def _winner(self, best: Trial, confirmed: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is registered, and its overrides: of the winner the seed in the middle; the best trial where none is confirmed."""
        rows = {row["name"]: row for row in confirmed["candidates"]} if confirmed else {}
        if confirmed is None or confirmed["winner"] is None:
            return {
                "name": f"trial {best.number}",
                "run": best.run,
                "value": best.value,
                "confirmed": False,
            }, best.overrides
        row = rows[confirmed["winner"]]
        place = confirmation.middle(row)
        found = {"name": row["name"], "run": row["runs"][place], "value": row["values"][place], "confirmed": True}
        found |= {"mean": row["mean"], "deviation": row["deviation"], "gain": row["gain"]}
        return found, {**row["overrides"], "train.seed": confirmed["seeds"][place]}

    def register(self, found: dict[str, Any]) -> str:
        """Register the winner as challenger, what the confirmation found with it; the version."""
        job = prepare(found["config"], self.default.shards)
        record = training.execute(self.workspace, job)
        winner = {k: v for k, v in found["winner"].items() if k != "run"}
        record = record | {"sweep": {"name": self.name, "metric": self.metric, **winner}}
        package = training.write_package(self.workspace, job, record)
        run_log.pictures(self.workspace, job, record, package)
        version = training.publish(self.workspace, job, record, package)
        self.record.write(found["state"], model=f"models:/{found['config'].registered_name}/{version}")
        return version

    def _row(self, trial: Trial, best: bool) -> dict[str, Any]:
        last = trial.rows[-1] if trial.rows else {}
        fa = last.get("best_val_fa", last.get("val_fa"))
        # Values that were tried differ beyond the three digits that results have.
        tried = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in trial.overrides.items()}
        row = {"trial": trial.number, **tried, self.metric: trial.value}
        if self.default.config.model.task == "segmentation":
            row |= {"Pd": last.get("best_val_pd", last.get("val_pd")), "Fa e-6": None if fa is None else fa * 1e6}
        stopped = f"{trial.state} at epoch {last.get('epoch', 0):g}" if trial.state in ("pruned", "stopped") else ""
        return row | {"note": trial.error or ("best" if best else stopped)}


def _numbers(confirmed: dict[str, Any] | None) -> dict[str, Any]:
    """What the confirmation found, as metrics of the sweep's run."""
    if not confirmed or not confirmed["winner"]:
        return {}
    row = next(r for r in confirmed["candidates"] if r["name"] == confirmed["winner"])
    found = {"confirmed_mean": row["mean"]}
    if row["gain"]:
        found |= {"confirmed_gain": row["gain"]["mean"], "confirmed_gain_low": row["gain"]["low"]}
        found |= {"confirmed_gain_high": row["gain"]["high"], "confirmed_seeds": row["gain"]["n"]}
    return {k: v for k, v in found.items() if v is not None}
