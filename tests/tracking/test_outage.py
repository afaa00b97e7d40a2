"""A real server is killed under a real trainer process, and the trainer too."""

import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient

from loratrack.store.client import connect
from loratrack.store.place import store_folder
from loratrack.tracking.outbox import Outbox
from loratrack.tracking.shipper import sync

TRAINER = Path(__file__).with_name("fake_trainer.py")
PATIENCE_SECONDS = 60
KILLS = 5


class Server:
    """`mlflow server --workers 1` on one port and one SQLite file, however often it is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = f"sqlite:///{folder}/mlflow.db"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stored(self) -> int:
        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db", timeout=30)) as database:
            return int(database.execute("SELECT count(*) FROM metrics").fetchone()[0])


@pytest.fixture
def server(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name, value in {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    server = Server(tmp_path)
    shutil.copy(empty_database, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.kill()


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, f"still waiting for {what.__name__}"
        time.sleep(0.05)


def start_trainer(folder: Path, run_id: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "MLFLOW_RUN_ID": run_id}
    return subprocess.Popen([sys.executable, str(TRAINER), str(folder)], env=environment)


def new_run(server: Server) -> str:
    client = MlflowClient(server.database)
    experiment_id = client.create_experiment("outage", artifact_location="mlflow-artifacts:/1")
    return str(client.create_run(experiment_id).info.run_id)


def steps_told(server: Server, run_id: str, key: str) -> Mapping[int, float]:
    history = MlflowClient(server.database).get_metric_history(run_id, key)
    told = {metric.step: metric.value for metric in history}
    assert len(told) == len(history), "a step is stored twice"
    return told


@pytest.mark.slow
def test_no_metric_is_lost_or_doubled_when_server_and_trainer_are_killed(
    server: Server, tmp_path: Path
) -> None:
    run_id = new_run(server)
    trainer = start_trainer(tmp_path, run_id)
    for kill in range(KILLS):
        server.start()
        before = server.stored()

        def takes_metrics(before: int = before) -> bool:
            return server.stored() > before

        wait_for(takes_metrics)
        time.sleep(random.random() * 0.2)
        server.kill()
        assert trainer.poll() is None, "the trainer must outlive the server"
        if kill == KILLS // 2:
            trainer.kill()
            trainer.wait()
            trainer = start_trainer(tmp_path, run_id)
    server.start()
    wait_for(server.answers)
    (tmp_path / "enough").touch()
    assert trainer.wait(PATIENCE_SECONDS) == 0

    last_step = int((tmp_path / "last_step").read_text())
    expected = {step: 1 / (step + 1) for step in range(last_step)}
    assert last_step > 200
    assert steps_told(server, run_id, "loss") == expected
    assert steps_told(server, run_id, "accuracy") == {step: 1 - value for step, value in expected.items()}
    run = MlflowClient(server.uri).get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "exp_outage")
    assert run.data.params == {"train.lr": "2e-05"}
    artifacts = MlflowClient(server.uri).list_artifacts(run_id)
    assert [artifact.path for artifact in artifacts] == ["loss.txt"]


@pytest.mark.slow
def test_what_an_unreachable_server_missed_goes_out_with_sync(server: Server, tmp_path: Path) -> None:
    run_id = new_run(server)
    (tmp_path / "checkpoint").write_text("0")
    trainer = start_trainer(tmp_path, run_id)
    outbox_file = store_folder() / "outbox.db"
    wait_for(outbox_file.exists)
    outbox = Outbox(store_folder(), server.uri)

    def has_told_steps() -> bool:
        return outbox.count("waiting") > 50

    wait_for(has_told_steps)
    trainer.kill()
    trainer.wait()
    client = connect()
    down = sync(store_folder(), server.uri, client)
    assert down.fault is not None
    assert down.sent == 0

    server.start()
    wait_for(server.answers)
    up = sync(store_folder(), server.uri, client)
    assert (up.fault, up.waiting, up.busy, up.refused) == (None, 0, (), ())
    assert up.sent == down.waiting
    told = steps_told(server, run_id, "loss")
    assert told == {step: 1 / (step + 1) for step in range(len(told))}
    assert len(told) > 40
