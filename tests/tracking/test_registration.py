import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from loratrack.errors import StoreError
from loratrack.store.place import store_folder, store_name
from loratrack.tracking.outbox import Outbox
from loratrack.tracking.registration import register, registered
from loratrack.tracking.shipper import sync
from loratrack.tracking.writer import RunWriter


@pytest.fixture
def run_id(client: MlflowClient, tmp_path: Path) -> str:
    return run_with_model(tmp_path)


def run_with_model(tmp_path: Path) -> str:
    """A finished run that keeps a model."""
    (tmp_path / "files" / "pyfunc").mkdir(parents=True, exist_ok=True)
    (tmp_path / "files" / "pyfunc" / "MLmodel").write_text("flavors: {}\n")
    run = RunWriter.start(name="exp_v1", params={}, tags={})
    run.log_artifacts(tmp_path / "files")
    assert run.finish("FINISHED")
    return run.run_id


def test_versions_count_from_one_and_know_their_run(
    client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    assert register(client, run_id, "clinc", {"exp_id": "exp_v1", "best_f1": "0.95"}) == 1
    assert register(client, run_with_model(tmp_path), "clinc", {}) == 2
    version = client.get_model_version("clinc", "1")
    assert (version.run_id, version.tags) == (run_id, {"exp_id": "exp_v1", "best_f1": "0.95"})
    artifact_uri = client.get_run(run_id).info.artifact_uri
    assert client.get_model_version_download_uri("clinc", "1") == f"{artifact_uri}/pyfunc"


def test_a_run_becomes_one_version_however_often_it_is_registered(client: MlflowClient, run_id: str) -> None:
    assert [register(client, run_id, "clinc", {}) for _ in range(3)] == [1, 1, 1]
    assert register(client, run_id, "other", {}) == 1


REGISTER_ALL = """
import sys
from loratrack.store.client import connect
from loratrack.tracking.outbox import Outbox
from loratrack.tracking.registration import register
for run_id in sys.argv[1:]:
    register(connect(), run_id, "clinc", {})
"""


@pytest.mark.slow
def test_processes_may_register_at_once(client: MlflowClient, tmp_path: Path) -> None:
    run_ids = [run_with_model(tmp_path) for _ in range(20)]
    processes = [
        subprocess.Popen([sys.executable, "-c", REGISTER_ALL, *part]) for part in (run_ids[:10], run_ids[10:])
    ]
    assert [process.wait() for process in processes] == [0, 0]
    versions = client.search_model_versions("name = 'clinc'")
    assert sorted(int(version.version) for version in versions) == list(range(1, 21))


def test_a_run_without_a_model_is_refused(client: MlflowClient) -> None:
    run = RunWriter.start(name="exp_v1", params={}, tags={})
    assert run.finish("FINISHED")
    with pytest.raises(StoreError, match=r"must keep the model at 'pyfunc', got \[\]; if it still"):
        register(client, run.run_id, "clinc", {})


def test_a_version_that_is_asked_for_waits_for_its_files(client: MlflowClient, tmp_path: Path) -> None:
    """A file lies where the folder of the run's files must be made."""
    (tmp_path / "files" / "pyfunc").mkdir(parents=True)
    (tmp_path / "files" / "pyfunc" / "MLmodel").write_text("flavors: {}\n")
    run = RunWriter.start(name="exp_v1", params={}, tags={})
    home = Path(client.get_run(run.run_id).info.artifact_uri)
    home.parent.mkdir(parents=True)
    home.write_text("in the way")
    run.log_artifacts(tmp_path / "files")
    run.ask_version("clinc", {"exp_id": "exp_v1"})
    assert not run.finish("FINISHED", wait_seconds=1)
    assert client.search_model_versions("name = 'clinc'") == []
    with closing(Outbox(store_folder(), store_name())) as outbox:
        reasons = [reason for _, reason in outbox.reasons("waiting")]
    with closing(sqlite3.connect(store_folder() / "outbox.db")) as database:
        attempts = database.execute("SELECT attempts FROM rows WHERE kind = 'version'").fetchall()
    assert attempts == [(0,)]  # to wait is no failure
    assert "the model's own files are waiting" in reasons
    home.unlink()
    sync(store_folder(), store_name(), client)
    assert registered(run.run_id, "clinc") == 1
