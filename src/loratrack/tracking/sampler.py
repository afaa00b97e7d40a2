"""System metrics of a run: MLflow's own measurements and names, told through the outbox.

MLflow's SystemMetricsMonitor asks the server after every sample: it gives up at the first failure, and
its `finish` waits for the server, for minutes when that is away.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import psutil
from mlflow.environment_variables import (
    MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from loratrack.errors import StoreError

PREFIX = "system/"
INTERVAL_SECONDS = 10.0


class Sampler(threading.Thread):
    """Measures every MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL seconds until it is stopped."""

    def __init__(self, tell: Callable[[Mapping[str, float], int], None], first_step: int) -> None:
        super().__init__(name="system-metrics", daemon=True)
        self._tell, self._step = tell, first_step
        self._monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor(), *_gpu_monitors()]
        self._interval_seconds = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL_SECONDS
        self._samples = MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING.get() or 1
        self._stopped = threading.Event()
        psutil.cpu_percent()  # the first answer of a process is always 0

    def run(self) -> None:
        while not self._stopped.is_set():
            for _ in range(self._samples):
                for monitor in self._monitors:
                    monitor.collect_metrics()
                self._stopped.wait(self._interval_seconds)
            try:
                self._tell(self._averages(), self._step)
            except StoreError:  # no place to tell it; the training meets the same and says so
                return
            self._step += 1

    def stop(self) -> None:
        """Returns once the last sample is told."""
        self._stopped.set()
        if self.is_alive():
            self.join()

    def _averages(self) -> dict[str, float]:
        averages: dict[str, float] = {}
        for monitor in self._monitors:
            averages |= {PREFIX + name: value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return averages


def is_wanted() -> bool:
    """Unless MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING says no."""
    return os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() not in ("false", "0")


def _gpu_monitors() -> list[Any]:
    try:
        return [GPUMonitor()]
    except (ImportError, RuntimeError):  # no pynvml, or no driver: most machines
        return []
