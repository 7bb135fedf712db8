"""A search before it begins: what is refused, and what is shown of space, plan and expected hours."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from irstd import config as configuration
from irstd.cluster import points, spaces
from irstd.commands import estimate, sweeps
from irstd.commands.leaderboard import duration
from irstd.commands.show import say, table
from irstd.commands.trials import Trials
from irstd.data.manifest import pseudo_masks
from irstd.errors import InputError
from irstd.files import canonical_json, sha256_text
from irstd.metrics.curve import too_few_pixels
from irstd.training.preparation import check_batch
from irstd.workspace import Workspace


class Planned:
    """A search that was checked and can start: everything that can be refused is, when it is made."""

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        overrides: dict[str, Any],
        workers: int | None = None,
        parallel: int | None = None,
        shards: str | None = None,
        confirm: bool = True,
        limits: dict[str, Any] | None = None,
        recipe: Path | None = None,
    ) -> None:
        from irstd.cluster import plan as planning

        self.workspace, self.overrides = workspace, overrides
        space = spaces.read(name, workspace.root)
        if limits:
            space = space.model_copy(update={"budget": space.budget.model_copy(update=limits)})
        if recipe is not None:
            space = space.model_copy(update={"recipe": str(recipe.resolve())})
        space = spaces.given(space, overrides)
        self.space, self.confirm = space, confirm and space.confirmation.best > 0
        for path in overrides:
            if path in space.space:
                raise InputError(f"{path} is searched over by the space {space.name}; leave it out, or copy the space")
        self.trials = Trials(workspace, space, overrides, workspace.shards_at(shards))
        self.default = self.trials.prepare({})
        config = self.default.config
        # Part of what the search is, so part of its name.
        train = config.train
        rule = space.scheduler.over(train.epochs, 1 if train.val_steps else train.val_every)
        self.space = self.space.model_copy(update={"scheduler": rule})
        self.metric = f"val_{config.objective}"
        self._check_metric()
        self.possible = points.examine(space, lambda point: self.trials.config({**point}))
        self._check_epochs()
        content = [self.space.content(), overrides, self.default.identity.hash, self.metric]
        self.name = f"{space.name}-{sha256_text(canonical_json(content))[:12]}"
        self.folder = workspace.home / "sweeps" / self.name
        self.workers, self.parallel = workers or space.workers, parallel or 0
        self.plan: Any = None
        if not workspace.ray_address:
            self.plan = planning.make(planning.machine(), self.workers, self.parallel)
            check_batch(self.default, self.plan.workers)
        self.url: str | None = None
        self.expected = estimate.Estimate(None, "not asked for")

    # -- what is refused, and what is shown, before -----------------------------------------------------------------

    def _check_metric(self) -> None:
        space, manifests = self.space, self.default.manifests
        untouched = self.default.config.data.train_on == "train"
        if not untouched or not sum(m.count("val", "labelled") for m in manifests):
            raise InputError(
                f"space {space.name}: no trial can report {self.metric}: the chosen sets have no labelled val split"
            )
        guessed = pseudo_masks(manifests, "val")
        if guessed and self.metric in ("val_iou", "val_niou"):
            raise InputError(
                f"space {space.name}: no trial can report {self.metric}: the val masks of the chosen sets are pseudo-masks "
                f"({guessed}); set objective.metric to pd"
            )
        fa = self.default.config.evaluate.wanted_fa
        if fa is not None and self.metric == "val_pd_at_fa":
            shapes = [s["members"]["frames.npy"][3] for m in manifests for h in m.shards("val") for s in h["samples"]]
            if why := too_few_pixels(sum(math.prod(shape) for shape in shapes), fa):
                raise InputError(f"space {space.name}: no trial can report Pd at this Fa on val: {why}")

    def _check_epochs(self) -> None:
        """A rule that decides between validations would decide too late."""
        rule, train = self.space.scheduler, self.default.config.train
        if rule.kind != "none" and train.val_steps is None and rule.grace < train.val_every:
            raise InputError(
                f"space {self.space.name}: scheduler.grace is {rule.grace} epochs and trials validate every {train.val_every} "
                f"(train.val_every); set grace to {train.val_every} or more"
            )
        if rule.kind == "asha" and rule.grace >= train.epochs:
            raise InputError(
                f"space {self.space.name}: scheduler.grace={rule.grace} leaves nothing to stop of {train.epochs} epochs "
                "(train.epochs); lower it, or scheduler: none"
            )

    def describe(self) -> None:
        """The space, the plan and the expected hours."""
        space, epochs = self.space, self.default.config.train.epochs
        count = self.count()
        size = "values without end" if space.size == float("inf") else f"a grid of {space.size:g} points"
        if self.possible < 1:
            size += f", of which the configuration accepts about {100 * self.possible:.0f} %"
        limit = f"{count} trials" if count else "all of them"
        hours = f", {space.budget.hours:g} h at most" if space.budget.hours else ""
        stop = {
            "none": "",
            "asha": f", ASHA from epoch {space.scheduler.grace} on",
            "median": ", below the median stopped",
        }
        say(
            f"space {space.name}: {size}; {limit} ({space.search}) of {epochs} epochs{stop[space.scheduler.kind]}{hours}; "
            f"objective {self.metric}, {space.objective.mode}"
        )
        defaults = configuration.flatten(self.default.config.model_dump(mode="json"), "configuration")
        rows = [
            {"path": p, "tried": str(k), "default": spaces.shown(defaults.get(p))}
            for p, k in sorted(space.space.items())
        ]
        say(table(rows))
        if self.plan is not None:
            say(str(self.plan))
        self.expected = estimate.of(self.workspace, self.default, self.plan)
        each = self.expected.trial(epochs)
        if each is None or not count:
            say(f"expected trial-hours: not known ({self.expected.how})")
        else:
            extra = (space.confirmation.best + 1) * space.confirmation.seeds if self.confirm else 0
            text = f"expected: {duration(each)} a trial, {count * each / 3600:.3g} trial-hours"
            text += " at most" if space.scheduler.kind != "none" else ""
            text += f" and {extra * each / 3600:.3g} for the confirmation" if extra else ""
            if self.plan is not None and self.plan.trials > 1:
                text += f", {(count + extra) * each / 3600 / self.plan.trials:.3g} h of the clock"
            say(f"{text} ({self.expected.how})")

    def count(self) -> int | None:
        if self.space.trials or self.space.size == float("inf"):
            return self.space.trials
        return sum(1 for _ in points.grid(self.space)) if self.space.size <= 100_000 else None

    # -- the record -------------------------------------------------------------------------------------------------

    def head(self) -> dict[str, Any]:
        config = self.default.config
        defaults = configuration.flatten(config.model_dump(mode="json"), "configuration")
        measured = config.evaluate
        old = sweeps.read(self.folder)
        return {
            "sweep": self.name,
            "space": self.space.model_dump(mode="json"),
            "overrides": self.overrides,
            "objective": {
                "metric": self.metric,
                "mode": self.space.objective.mode,
                "split": "val",
                "protocol": measured.protocol,
                "grid": measured.grid,
                "threshold": measured.threshold,
                "fa": measured.wanted_fa if self.metric == "val_pd_at_fa" else None,
                "digests": {m.set: m.digest for m in self.default.manifests},
            },
            "knobs": [
                {"path": path, **knob.model_dump(mode="json"), "default": defaults.get(path)}
                for path, knob in sorted(self.space.space.items())
            ],
            "plan": self.plan_record() or old.get("plan"),
            "estimate": {"epoch_seconds": self.expected.epoch, "how": self.expected.how}
            if hasattr(self, "expected")
            else None,
            "mlflow": old.get("mlflow"),
        }

    def plan_record(self) -> dict[str, Any] | None:
        plan = self.plan
        if plan is None:
            return None
        values = {
            "workers": plan.workers,
            "cpus_per_worker": plan.cpus_per_worker,
            "gpus_per_worker": plan.gpus_per_worker,
        }
        return values | {"trials": plan.trials, "text": str(plan)}
