"""What telling a metric costs a training step: server up, server away, and MLflow's own call beside it.

    python bench/outbox.py [STEPS]

Prints milliseconds for each call of `Run.metrics` with ten values, and the same steps without it.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

VALUES = {f"task_{number}_f1": number / 10 for number in range(10)}
STEP_SECONDS = 0.01


def main(steps: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="outbox-bench-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        "XDG_DATA_HOME": str(folder),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    os.chdir(folder)
    server = start_server(folder, port)
    try:
        measure(steps, server)
    finally:
        kill(server)


def measure(steps: int, server: subprocess.Popen[bytes]) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from loratrack.tracking.writer import RunWriter

    client = MlflowClient()
    run = RunWriter.start(name="bench", params={}, tags={})

    def by_mlflow(step: int) -> None:
        metrics = [Metric(f"direct/{name}", value, 0, step) for name, value in VALUES.items()]
        client.log_batch(run.run_id, metrics)

    print(f"{'milliseconds a step':<34}{'median':>9}{'p99':>9}{'max':>9}{'whole step':>12}")
    report("nothing told", steps, lambda step: None)
    report("outbox, server up", steps, lambda step: run.log_metrics(VALUES, step))
    report("MLflow's log_batch, server up", steps, by_mlflow)
    run.flush()
    kill(server)
    report("outbox, server away", steps, lambda step: run.log_metrics(VALUES, steps + step))
    run.finish("KILLED", wait_seconds=0)


def report(name: str, steps: int, tell: Callable[[int], None]) -> None:
    calls, whole = [], []
    for step in range(steps):
        began = time.perf_counter()
        work(STEP_SECONDS)
        before = time.perf_counter()
        tell(step)
        ended = time.perf_counter()
        calls.append((ended - before) * 1000)
        whole.append((ended - began) * 1000)
    ordered = sorted(calls)
    p99 = ordered[int(0.99 * (len(ordered) - 1))]
    row = (statistics.median(calls), p99, ordered[-1])
    print(f"{name:<34}" + "".join(f"{value:>9.3f}" for value in row) + f"{statistics.mean(whole):>12.3f}")


def work(seconds: float) -> None:
    """A step that holds the processor and, like a kernel of torch, leaves Python's lock free at times."""
    end = time.perf_counter() + seconds
    block = bytes(200_000)
    while time.perf_counter() < end:
        block.count(b"x")


def kill(server: subprocess.Popen[bytes]) -> None:
    """The server and the worker that it has started."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
