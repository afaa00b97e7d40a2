"""What asking costs in a large store: `loratrack compare` and `show` beside MLflow's own search.

    python bench/tracking.py [RUNS] [--http]

Fills a SQLite store with runs of 20 metrics and 10 epochs, each with a registered version, and prints
median milliseconds. `--http` asks a server of that store as well.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path

REPEATS = 7
NUM_METRICS, NUM_EPOCHS = 20, 10
TASKS = ("domain", "intent")
MEASURED = [f"{task}_{measure}" for task in (*TASKS, "avg") for measure in ("accuracy", "f1")]
OTHERS = NUM_METRICS - 2 * len(MEASURED) - 1
"""Of the metrics six are scores, six the best of them, one the best epoch, the rest losses and times."""
EVERY_EPOCH = [*MEASURED, *(f"train/loss_{number}" for number in range(OTHERS))]
FIRST_START = 1_750_000_000_000
RUN_MILLISECONDS = 600_000
WITHOUT_BEST = 20
"""One run of so many was killed: it has epochs and no best."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=10_000)
    parser.add_argument("--http", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracking-bench-") as folder:
        os.environ["XDG_DATA_HOME"] = folder
        uri = use(f"sqlite:///{folder}/mlflow.db")
        began = time.perf_counter()
        fill(Path(folder, "mlflow.db"), arguments.runs)
        size = Path(folder, "mlflow.db").stat().st_size / 2**20
        print(f"{arguments.runs:,} runs, {size:,.0f} MiB, filled in {time.perf_counter() - began:.0f} s")
        measure("SQLite", arguments.runs)
        if arguments.http:
            with serving(uri, Path(folder)) as address:
                use(address)
                measure("mlflow server", arguments.runs)


def use(uri: str) -> str:
    os.environ |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return uri


def measure(name: str, num_runs: int) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    [experiment] = client.search_experiments(filter_string="name = 'loratrack'")

    def by_mlflow(clause: str, order: str, count: int) -> Callable[[], object]:
        return lambda: client.search_runs([experiment.experiment_id], clause, 1, count, [order])

    print(f"\n{name + ', ms':<58}{'median':>9}{'max':>9}{'CPU':>9}")
    report("a Python process that does nothing", in_a_process("-c", "pass"))
    report("compare, filter and sort, the whole process", loratrack(*COMPARE))
    report("show, the whole process", loratrack("show", run_id(num_runs // 2)))
    report("import mlflow, the whole process", in_a_process("-c", "import mlflow"))
    report("compare, filter and sort, first page", ours(*COMPARE))
    report("compare, no filter, newest first", ours("compare"))
    report("compare, a number of a setting, a metric, or", ours("compare", "--filter", LONG))
    report("compare 100 runs", ours("compare", "--limit", "100", "--sort-by", "avg_f1"))
    report("compare 100 runs, --diff --json", ours("compare", "--limit", "100", "--diff", "--json"))
    report("show", ours("show", run_id(num_runs // 2)))
    report("show, newest of an experiment", ours("show", "exp_7"))
    best = "metrics.best_avg_f1 DESC"
    report("MLflow: tag, sorted by metric, 20", by_mlflow("tags.task_type = 'double_cls'", best, 20))
    report("MLflow: newest 20", by_mlflow("", "attributes.start_time DESC", 20))
    report("MLflow: 100 by metric", by_mlflow("", best, 100))
    report("MLflow: one run", lambda: client.get_run(run_id(num_runs // 2)))


COMPARE = ("compare", "--filter", "task_type=multi_cls and avg_f1>0.5", "--sort-by", "avg_f1")
LONG = "(model.lora.rank>=16 and train.lr<1e-3) or intent_f1>0.99"


def report(name: str, call: Callable[[], object]) -> None:
    call()
    wall, cpu = [], []
    for _ in range(REPEATS):
        began, spent = time.perf_counter(), cpu_seconds()
        call()
        wall.append((time.perf_counter() - began) * 1000)
        cpu.append((cpu_seconds() - spent) * 1000)
    row = (statistics.median(wall), max(wall), statistics.median(cpu))
    print(f"{name:<58}" + "".join(f"{value:>9.0f}" for value in row), flush=True)


def cpu_seconds() -> float:
    """Of this process and of those it has waited for; other work on the machine does not count."""
    return sum(os.times()[:4])


def ours(*words: str) -> Callable[[], object]:
    """The command within this process: our own time, without Python's start."""
    from loratrack.cli import parser

    def call() -> None:
        arguments = parser().parse_args(words)
        with redirect_stdout(io.StringIO()):
            assert arguments.command(arguments) == 0, words

    return call


def loratrack(*words: str) -> Callable[[], object]:
    return in_a_process("-m", "loratrack.cli", *words)


def in_a_process(*words: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def run_id(number: int) -> str:
    return f"{random.Random(number).getrandbits(128):032x}"


def fill(file: Path, num_runs: int) -> None:
    """Rows as MLflow writes them, many at once."""
    from loratrack.store import opening
    from loratrack.store.client import ensure_experiment

    opening.initialise(f"sqlite:///{file}")
    experiment = int(ensure_experiment("loratrack"))
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA synchronous=off")
        many = database.executemany
        many(
            "INSERT INTO runs(run_uuid, name, source_type, user_id, status, start_time, end_time,"
            " lifecycle_stage, artifact_uri, experiment_id) VALUES (?,?,'LOCAL','me',?,?,?,'active',?,?)",
            (head(number, file.parent, experiment) for number in range(num_runs)),
        )
        many(
            "INSERT INTO params(run_uuid, key, value) VALUES (?,?,?)",
            ((run_id(n), *pair) for n in range(num_runs) for pair in settings(n).items()),
        )
        many(
            "INSERT INTO tags(run_uuid, key, value) VALUES (?,?,?)",
            ((run_id(n), *pair) for n in range(num_runs) for pair in tags(n).items()),
        )
        many("INSERT INTO metrics VALUES (?,?,?,?,?,0)", (row for n in range(num_runs) for row in history(n)))
        many(
            "INSERT INTO latest_metrics(key, value, timestamp, step, is_nan, run_uuid) VALUES (?,?,?,?,0,?)",
            (row for n in range(num_runs) for row in latest(n)),
        )
        database.execute("INSERT INTO registered_models(name, creation_time) VALUES ('clinc', 0)")
        many(
            "INSERT INTO model_versions(name, version, creation_time, last_updated_time, current_stage,"
            " source, run_id, status) VALUES ('clinc',?,0,0,?,'',?,'READY')",
            ((n + 1, "Production" if n == 7 else "None", run_id(n)) for n in range(num_runs)),
        )
        database.execute(
            "INSERT INTO registered_model_aliases(alias, version, name) VALUES ('champion', 8, 'clinc')"
        )


def head(number: int, folder: Path, experiment: int) -> tuple[object, ...]:
    start = FIRST_START + number * RUN_MILLISECONDS
    artifacts = f"{folder}/artifacts/{run_id(number)}"
    status = "FINISHED" if number % WITHOUT_BEST else "KILLED"
    return (run_id(number), exp_id(number), status, start, start + RUN_MILLISECONDS, artifacts, experiment)


def exp_id(number: int) -> str:
    return f"exp_{number // 10}"


def settings(number: int) -> dict[str, str]:
    from loratrack.config import flat, plain
    from loratrack.config.schema import RunConfig

    if not _SETTINGS:
        config = RunConfig.model_validate({"exp_id": "exp", "data": {"raw_data_path": "train.csv"}})
        _SETTINGS.update({key: str(value) for key, value in flat(plain(config)).items()})
    chosen = random.Random(number)
    changed = {
        "exp_id": exp_id(number),
        "task_type": tags(number)["task_type"],
        "model.lora.rank": str(chosen.choice((4, 8, 16, 32))),
        "train.lr": str(chosen.choice((2e-5, 2e-4, 2e-3))),
        "train.seed": str(number),
    }
    return {**_SETTINGS, **changed}


_SETTINGS: dict[str, str] = {}


def tags(number: int) -> dict[str, str]:
    own = {
        "exp_id": exp_id(number),
        "task_type": ("double_cls", "multi_cls", "single_cls")[number % 3],
        "project": "clinc",
        "device": "cpu",
        "mlflow.runName": exp_id(number),
        "mlflow.user": "me",
        "loratrack_version": "0.1.0",
    }
    return own | dict.fromkeys(("config_sha256", "data_sha256", "base_sha256", "git_commit"), "0" * 64)


def history(number: int) -> Iterator[tuple[str, float, int, str, int]]:
    chance, this = random.Random(number), run_id(number)
    start = FIRST_START + number * RUN_MILLISECONDS
    for epoch in range(1, NUM_EPOCHS + 1):
        for name in EVERY_EPOCH:
            yield name, chance.random() * epoch / NUM_EPOCHS, start + epoch, this, epoch
    if number % WITHOUT_BEST:
        for name in MEASURED:
            yield f"best_{name}", chance.random(), start + NUM_EPOCHS, this, NUM_EPOCHS
        yield "best_epoch", NUM_EPOCHS, start + NUM_EPOCHS, this, NUM_EPOCHS


def latest(number: int) -> Iterator[tuple[str, float, int, int, str]]:
    for name, value, timestamp, this, step in history(number):
        if step == NUM_EPOCHS:
            yield name, value, timestamp, step, this


@contextmanager
def serving(uri: str, folder: Path) -> Iterator[str]:
    import socket
    import urllib.error
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--backend-store-uri", uri],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the server and the worker that it has started
        server.wait()


if __name__ == "__main__":
    main()
