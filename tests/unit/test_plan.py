"""The resource plan: what fits, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from irstd.cluster.plan import Resources, make
from irstd.errors import InputError

LAPTOP = Resources(2, 0, "this machine")


@pytest.mark.parametrize(
    ("resources", "workers", "expected"),
    [
        (LAPTOP, None, (2, 1.0, 0.0)),
        (LAPTOP, 1, (1, 2.0, 0.0)),
        (Resources(1, 0, "x"), None, (1, 1.0, 0.0)),
        (Resources(16, 0, "x"), None, (2, 8.0, 0.0)),
        (Resources(16, 4, "x"), None, (4, 4.0, 1.0)),
        (Resources(16, 4, "x"), 2, (2, 8.0, 1.0)),
    ],
)
def test_a_run(resources, workers, expected):
    plan = make(resources, workers)
    assert (plan.workers, plan.cpus_per_worker, plan.gpus_per_worker) == expected
    assert plan.workers * plan.cpus_per_worker <= resources.cpus


@pytest.mark.parametrize(
    ("resources", "workers", "trials", "beside"),
    [
        (LAPTOP, None, 0, 2),
        (LAPTOP, 1, 1, 1),
        (LAPTOP, 2, 0, 1),
        (Resources(16, 4, "x"), 2, 0, 2),
        (Resources(8, 0, "x"), 3, 0, 4),
    ],
)
def test_a_search_never_asks_for_more_than_there_is(resources, workers, trials, beside):
    plan = make(resources, workers, trials)
    assert plan.trials == beside
    driver = 0.5 if plan.workers > 1 else 0
    assert plan.trials * (plan.workers * plan.cpus_per_worker + driver) <= resources.cpus + 1e-9


@pytest.mark.parametrize(("workers", "trials"), [(3, None), (64, None), (2, 2), (1, 3)])
def test_what_cannot_be_placed_is_refused_with_both_numbers(workers, trials):
    with pytest.raises(InputError) as caught:
        make(LAPTOP, workers, trials)
    line = str(caught.value)
    assert str(workers) in line and "has 2" in line and "--workers" in line


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus"), [((4, 4), 1, 4), ((4, 4), 2, 4), ((4, 4), 3, 2), ((3, 5), 2, 3), ((2, 2, 2), 6, 1)]
)
def test_no_worker_is_larger_than_a_node(nodes, workers, cpus):
    resources = Resources(sum(nodes), 0, "the cluster", tuple(map(float, nodes)))
    plan = make(resources, workers)
    assert plan.cpus_per_worker == cpus
    assert resources.places(plan.cpus_per_worker) >= workers


def test_more_workers_than_gpus_is_refused():
    with pytest.raises(InputError, match="GPU"):
        make(Resources(64, 2, "the cluster"), 3)
