"""The load of the machine beside a run's numbers: MLflow's own measurements, which its page shows as system metrics.

MLflow's own logging of them ends for good when the server is away once, and writes to the database beside whoever else does.
Here they go the way of all reports.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from irstd.registry.outbox import Row

INTERVAL = 10.0
"""Seconds between samples, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise."""


class Sampler:
    """Puts a row of the machine's load every few seconds, from a thread of its own."""

    def __init__(self, put: Callable[[Row], None], interval: float | None = None) -> None:
        self._put = put
        self._interval = interval or float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or INTERVAL)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="machine")
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        monitors: list[Any] = []
        while not self._done.wait(self._interval):
            # Not before: MLflow's import takes seconds, which the first step of a training would wait for.
            monitors = monitors or _monitors()
            values: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                values |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            self._put(Row(int(time.time() * 1000), None, values))


def _monitors() -> list[Any]:
    """Processor and memory, disk, network, and the GPUs where pynvml (nvidia-ml-py) finds some."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    # It raises where there is no pynvml, and where that finds no driver.
    with contextlib.suppress(Exception):
        found.append(GPUMonitor())
    return found
