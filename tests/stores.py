"""Tracking stores for tests: an empty database, a real PostgreSQL, a real server, each with the same runs.

Imported by `tests/conftest.py`, before MLflow may be.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

DAY_SECONDS = 24 * 3600
DEBIAN = Path("/usr/lib/postgresql")
FILLED = "filled"
START_SECONDS = 60
POSTGRESQL_SETTINGS = ("fsync=off", "synchronous_commit=off", "listen_addresses=")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file as MLflow makes it, to be copied: making one takes seconds."""
    from loratrack.store import opening

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    opening.initialise(f"sqlite:///{file}")
    return file


@pytest.fixture
def client(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an empty store in `tmp_path/mlruns`, which is the default store."""
    from loratrack.store.client import connect

    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "60")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return connect()


@pytest.fixture(scope="module")
def tiny_project(
    sample: Any, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """`projects/tiny` with a store of its own, the current folder of a module's tests."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(sample.folder, project / "projects" / "tiny")
    (project / "MLproject").write_text("name: loratrack\n")
    (project / "mlruns").mkdir()
    shutil.copy(empty_database, project / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlruns/mlflow.db")
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "60")
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        patch.chdir(project)
        yield project


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URI of a PostgreSQL database that MLflow has initialised; it listens on a socket file only."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'psycopg[binary]'")
    programs = _postgresql_programs()
    folder = Path(tempfile.mkdtemp(prefix="loratrack-pg-"))  # short: a socket's path has 107 bytes at most
    user = _as_postgres(folder)
    settings = [word for setting in POSTGRESQL_SETTINGS for word in ("-c", setting)]
    subprocess.run(
        [
            *user,
            programs / "initdb",
            "-D",
            folder / "data",
            "-U",
            "loratrack",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "-N",
        ],
        check=True,
        capture_output=True,
    )
    command: list[str | Path] = [*user, programs / "postgres", "-D", folder / "data"]
    command += ["-k", folder, *settings]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    uri = f"postgresql://loratrack@/postgres?host={folder}"
    try:
        _wait_for_postgresql(uri, process, folder / "log")
        _initialise(uri)
        yield uri
    finally:
        stop: list[str | Path] = [
            *user,
            programs / "pg_ctl",
            "stop",
            "-m",
            "immediate",
            "-D",
            folder / "data",
        ]
        subprocess.run(stop, check=True, capture_output=True)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an `mlflow server` with one worker, which keeps the artifacts too."""
    with _serving(empty_database, tmp_path_factory.mktemp("server")) as address:
        yield address


@contextmanager
def _serving(empty_database: Path, folder: Path) -> Iterator[str]:
    shutil.copy(empty_database, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for_server(address, process, folder / "log")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the server and the worker that it has started
        process.wait()


@pytest.fixture(scope="session")
def filled_sqlite(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("filled") / "mlruns"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    return fill(f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="session")
def filled_postgresql(postgresql: str) -> str:
    """A database of its own: what other tests write into theirs must not be found here."""
    return fill(postgresql.replace("/postgres?", f"/{FILLED}?"))


@pytest.fixture(scope="session")
def filled_server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own: what other tests write into theirs must not be found here."""
    with _serving(empty_database, tmp_path_factory.mktemp("filled_server")) as address:
        yield fill(address)


@pytest.fixture
def store_of_runs(filled_sqlite: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A SQLite store with the runs of `fill` is the tracking store; it must not be changed."""
    return use(filled_sqlite, monkeypatch, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("server", marks=pytest.mark.slow)])
def any_store_of_runs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Each kind of store in turn."""
    return use(request.getfixturevalue(f"filled_{request.param}"), monkeypatch, tmp_path)


def use(uri: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """`uri` is the tracking store, outside any project."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    monkeypatch.chdir(folder)
    return uri


def fill(uri: str) -> str:
    """Runs of all kinds, oldest first; today is the newest, each other one two days before the next."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.create_experiment("loratrack")
    events = client.create_experiment("registry-events")
    filler = Filler(client, experiment)

    first = filler.run("exp_v1", "single_cls", days_ago=14, rank=4, lr="0.002", f1=[0.5, 0.8, 0.7])
    failed = filler.run(
        "exp_v2", "double_cls", days_ago=12, rank=16, avg_f1=[0.6, 0.7], status="FAILED", best=False
    )
    client.set_tag(failed, "error", "exp_v2: the loss was nan\n  at step 3")
    filler.run("exp_中文", "multi_cls", days_ago=10, rank=8, lr="2e-05", avg_f1=[0.91, 0.85], seconds=7300)
    champion = filler.run("exp_v4", "double_cls", days_ago=8, rank=16, avg_f1=[0.4, 0.93], project="risk")
    filler.run("exp_v4", "double_cls", days_ago=6, rank=32, avg_f1=[0.3, 0.65])
    filler.run("exp_v5", "double_cls", days_ago=0, rank=32, avg_f1=[0.1, 0.2], status="RUNNING", best=False)
    gone = filler.run("exp_gone", "single_cls", days_ago=4, rank=4, f1=[0.99])
    client.delete_run(gone)
    client.set_tag(client.create_run(experiment, run_name="bold-fox").info.run_id, "device", "cpu")
    client.set_tag(client.create_run(events, run_name="promote").info.run_id, "exp_id", "exp_v4")
    parent = filler.run("sweep", "double_cls", days_ago=5, rank=1)
    client.set_tag(first, "mlflow.parentRunId", parent)
    client.create_registered_model("risk")
    for run_id in (first, champion):
        client.create_model_version("risk", f"{client.get_run(run_id).info.artifact_uri}/pyfunc", run_id)
    client.set_registered_model_alias("risk", "champion", "2")
    return uri


class Filler:
    """Writes runs as `loratrack run` does."""

    def __init__(self, client: Any, experiment: str) -> None:
        self.client, self.experiment = client, experiment

    def run(
        self,
        exp_id: str,
        task_type: str,
        *,
        days_ago: float,
        rank: int,
        lr: str = "0.0002",
        project: str = "clinc",
        status: str = "FINISHED",
        best: bool = True,
        seconds: int = 60,
        **metrics: list[float],
    ) -> str:
        """Each metric is given by its value in each epoch."""
        from mlflow.entities import Metric, Param, RunTag

        start = int((time.time() - days_ago * DAY_SECONDS) * 1000)
        tags = {"exp_id": exp_id, "task_type": task_type, "project": project, "device": "cpu"}
        params = {
            "exp_id": exp_id,
            "task_type": task_type,
            "description": "风险等级 [bold]与[/bold] $x$",
            "model.arch": "minilm",
            "model.lora.rank": str(rank),
            "train.lr": lr,
            "train.threads": "None",
            "data.raw_data_path": "/data/train.csv",
        }
        points = [
            Metric(name, value, start + epoch, epoch)
            for name, values in metrics.items()
            for epoch, value in enumerate(values, start=1)
        ]
        for name, values in metrics.items() if best else ():
            epoch = values.index(max(values)) + 1
            at_end = {f"best_{name}": max(values), "best_epoch": epoch, f"test_{name}": 0.5}
            points += [Metric(key, value, start + 100, len(values)) for key, value in at_end.items()]
        points += [Metric("train/loss", 1 / epoch, start + epoch, epoch) for epoch in (2, 1)]
        run_id = str(self.client.create_run(self.experiment, start, run_name=exp_id).info.run_id)
        self.client.log_batch(
            run_id,
            points,
            [Param(key, value) for key, value in params.items()],
            [RunTag(key, value) for key, value in tags.items()],
        )
        if status != "RUNNING":
            self.client.set_terminated(run_id, status, start + seconds * 1000)
        return run_id


def _postgresql_programs() -> Path:
    """Where `initdb` and `postgres` lie: on the PATH, or where Debian puts them."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else sorted(DEBIAN.glob("*/bin"), reverse=True)
    if not folders:
        pytest.skip("PostgreSQL is not installed: on Debian, apt install postgresql")
    return folders[0]


def _as_postgres(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root, so the folder is given to the user that its package has made."""
    if os.getuid() != 0:
        return []
    try:
        shutil.chown(folder, "postgres")
    except LookupError:
        pytest.skip("PostgreSQL does not run as root, and there is no user called postgres")
    return ["runuser", "-u", "postgres", "--"]


def _wait_for_postgresql(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    for _ in _until(process, log):
        try:
            psycopg.connect(uri).close()
            return
        except psycopg.OperationalError:
            continue


def _wait_for_server(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in _until(process, log):
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            continue


def _until(process: subprocess.Popen[bytes], log: Path) -> Iterator[None]:
    """Another try, until the process ends or takes too long."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        yield
        time.sleep(0.1)
    raise AssertionError(log.read_text(errors="replace"))


def _initialise(uri: str) -> None:
    """MLflow's own migrations, once, before anything runs in parallel; and a copy of what they made."""
    import psycopg

    subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", uri], check=True, capture_output=True)
    with psycopg.connect(uri.replace("/postgres?", "/template1?"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {FILLED} TEMPLATE postgres")


def be_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed from now on is printed as on a terminal of this width, without colours."""
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "dumb", "COLUMNS": str(width), "LINES": "50"}.items():
        monkeypatch.setenv(name, value)
