"""What the tests of a cluster share with those of the road, and with one another."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.cluster.calls import Ended, trained
from tests.integration.conftest import source

__all__ = ["source"]


@pytest.fixture(scope="session")
def alone(sample_shards, tmp_path_factory) -> Callable[[int], tuple[Path, Ended]]:
    """Runs that were left alone, by their number of workers: the folder and what was said."""

    @cache
    def run(workers: int) -> tuple[Path, Ended]:
        home = tmp_path_factory.mktemp("alone")
        return home, trained(home, sample_shards, "--workers", str(workers))

    return run
