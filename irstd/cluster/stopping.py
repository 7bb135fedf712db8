"""Early stopping by Ray Tune's own rules, fed report by report.

The rules are Ray's (`ray.tune.schedulers`). What they are fed with is a trial's number, epoch and best value so far, whether
a trial reports now, a journal is read again, or curves of trained networks are replayed.
"""

from __future__ import annotations

from typing import Any

from irstd.cluster.spaces import Scheduler


def rungs(rule: Scheduler, epochs: float) -> list[float]:
    """Epochs at which ASHA decides."""
    found, rung = [], float(rule.over(epochs).grace or 1)
    while rule.kind == "asha" and rung < epochs:
        found.append(rung)
        rung *= rule.reduction
    return found


class Stopping:
    """One rule over the trials of a sweep. epochs: of a trial that nothing stops."""

    def __init__(self, rule: Scheduler, epochs: float) -> None:
        self.rule, self.epochs = rule.over(epochs), epochs
        rule, grace = self.rule, self.rule.grace or 1
        self._trials: dict[int, _Trial] = {}
        self._scheduler: Any = None
        if rule.kind == "asha" and grace < epochs:
            from ray.tune.schedulers import ASHAScheduler

            self._scheduler = ASHAScheduler(
                time_attr="epoch",
                metric="value",
                mode="max",
                grace_period=grace,
                max_t=epochs,
                reduction_factor=rule.reduction,
                stop_last_trials=False,
            )
        elif rule.kind == "median":
            from ray.tune.schedulers import MedianStoppingRule

            self._scheduler = MedianStoppingRule(
                time_attr="epoch", metric="value", mode="max", grace_period=grace, min_samples_required=3
            )

    @property
    def rungs(self) -> list[float]:
        return rungs(self.rule, self.epochs)

    def report(self, number: int, epoch: float, value: float) -> bool:
        """Whether the trial is to stop. A trial's last report is kept for the others and stops nothing."""
        if self._scheduler is None:
            return False
        if number not in self._trials:
            self._trials[number] = _Trial(str(number))
            self._scheduler.on_trial_add(_NoOthers, self._trials[number])
        decision = self._scheduler.on_trial_result(_NoOthers, self._trials[number], {"epoch": epoch, "value": value})
        return decision == self._scheduler.STOP and epoch < self.epochs


class _Trial:
    """What the rules know a trial by."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id

    def __str__(self) -> str:
        return self.trial_id


class _NoOthers:
    """The median rule asks whether others wait, to let them have a turn; nothing is put off here."""

    @staticmethod
    def get_live_trials() -> list[Any]:
        return []
