"""The resource plan: what a run asks for, and whether it can be placed. Made, printed and refused before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

from irstd.environment import cores
from irstd.errors import InputError


@dataclass(frozen=True)
class Resources:
    """What there is: processor cores and GPUs of this machine or of the joined cluster.

    `nodes`: cores of each node; a worker does not spread over two. Empty: one node with all of them.
    """

    cpus: float
    gpus: float
    where: str
    nodes: tuple[float, ...] = ()

    def places(self, cpus: float) -> int:
        """How many workers of `cpus` cores find a node."""
        return sum(int((node + 1e-9) // cpus) for node in self.nodes or (self.cpus,))


@dataclass(frozen=True)
class Plan:
    """Workers of a run (or of each trial), what each gets, and how many trials run side by side."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    trials: int
    resources: Resources
    least: int | None = None
    """Where the number of workers may change while the run goes on: how many it goes on with at the least."""

    @property
    def sizes(self) -> range:
        """All numbers of workers that the run may have."""
        return range(self.least or self.workers, self.workers + 1)

    @property
    def threads(self) -> int:
        """Threads of a worker: exactly its share."""
        return max(1, int(self.cpus_per_worker))

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_worker else "cpu"

    def __str__(self) -> str:
        each = f"{self.cpus_per_worker:g} CPU" + (f" and {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else "")
        beside = f", {self.trials} trials side by side" if self.trials > 1 else ""
        there = f"{self.resources.cpus:g} CPU, {self.resources.gpus:g} GPU on {self.resources.where}"
        count = f"{self.least} to {self.workers}" if self.least else str(self.workers)
        return f"plan: {count} worker(s) with {each} each{beside}; there are {there}"


def asked(text: str | int | None) -> int | tuple[int, int] | None:
    """Workers as they are asked for: "2" is 2, "1-4" is (1, 4): as many of them as there are places at any time.

    `InputError` for anything else.
    """
    if text is None:
        return None
    low, dash, high = str(text).strip().partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()) or not 0 < int(low) <= int(high or low):
        raise InputError(f"workers {text!r}: write a number from 1 on, or a range such as 1-4")
    return (int(low), int(high)) if dash and int(low) < int(high) else int(low)


def machine() -> Resources:
    """Cores and GPUs of this machine, without starting Ray."""
    import torch

    return Resources(cores(), torch.cuda.device_count(), "this machine")


def make(resources: Resources, workers: int | tuple[int, int] | None = None, trials: int | None = None) -> Plan:
    """The plan for `workers` (default: one a GPU, else up to two) in each of `trials` side by side (None: one run).

    A pair (least, most) is a number that may change: the least must find places now. `trials=0` asks for as many trials side
    by side as fit. `InputError` where it cannot be placed.
    """
    if isinstance(workers, tuple):
        least, most = workers
        now = make(resources, least)
        # Each gets what it could have if all were there, so that those that come later find room.
        cpus = max(1.0, float(int(resources.cpus / most)))
        while cpus > 1 and resources.places(cpus) < least:
            cpus -= 1
        return Plan(most, min(cpus, now.cpus_per_worker), now.gpus_per_worker, 1, resources, least)
    sweep = trials is not None
    wanted = workers or (1 if sweep else int(resources.gpus) or min(2, int(resources.cpus)))
    # A trial function of several workers holds half a core itself while its workers train.
    driver = 0.5 if sweep and wanted > 1 else 0.0
    gpus = 1.0 if resources.gpus else 0.0
    smallest = 0.5 if driver else 1.0
    room = int((resources.cpus + 1e-9) // (wanted * smallest + driver))
    if gpus:
        room = min(room, int(resources.gpus // wanted))
    if room < max(1, trials or 1):
        what = "GPU" if gpus and resources.gpus < wanted * max(1, trials or 1) else "core"
        have = resources.gpus if what == "GPU" else resources.cpus
        count = f"{trials} trials of {wanted} worker(s)" if trials else f"{wanted} worker(s)"
        raise InputError(
            f"cannot place {count} with one {what} each: {resources.where} has {have:g} {what}s; ask for fewer with --workers"
        )
    beside = (trials or room) if sweep else 1
    share = (resources.cpus / beside - driver) / wanted
    cpus = float(int(share)) if share >= 1 else smallest
    while cpus > smallest and resources.places(cpus) < wanted * beside:
        cpus = max(smallest, cpus - 1)
    return Plan(wanted, cpus, gpus, beside, resources)
