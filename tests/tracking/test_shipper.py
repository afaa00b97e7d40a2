"""What the store cannot take holds up nothing else, and ends as refused with the reason."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from loratrack.store.place import store_folder, store_name
from loratrack.tracking.outbox import Outbox
from loratrack.tracking.shipper import MAX_ATTEMPTS, sync
from loratrack.tracking.writer import RunWriter

BUCKET = "s3://no-such-bucket/runs"
"""Without boto3 MLflow raises ModuleNotFoundError, and botocore's own errors where it is installed."""


@pytest.fixture
def in_bucket(client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunWriter:
    """A run whose files cannot be stored, with metrics after them."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", client.create_experiment("bucket", BUCKET))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "adapter.bin").write_bytes(b"weights")
    run = RunWriter.start(name="exp_v1", params={}, tags={})
    run.log_artifacts(tmp_path / "files")
    run.log_metrics({"f1": 0.5}, step=1)
    return run


def test_files_that_cannot_be_stored_hold_up_neither_metrics_nor_status(
    client: MlflowClient, in_bucket: RunWriter
) -> None:
    other = RunWriter.start(name="exp_v2", params={}, tags={})
    assert not in_bucket.finish("FINISHED", wait_seconds=0.5)
    run = client.get_run(in_bucket.run_id)
    assert (run.info.status, run.data.metrics["f1"]) == ("FINISHED", 0.5)
    other.log_metrics({"f1": 0.6}, step=1)
    assert other.flush()
    assert other.finish("FINISHED")
    report = sync(store_folder(), store_name(), client)
    assert (report.waiting, report.refused, report.fault) == (1, (), None)
    [(run_id, reason)] = report.put_off
    assert run_id == in_bucket.run_id
    assert reason.split(":")[0] in ("ModuleNotFoundError", "NoCredentialsError", "EndpointConnectionError")


def test_what_is_never_taken_is_refused_in_the_end(client: MlflowClient, in_bucket: RunWriter) -> None:
    assert not in_bucket.finish("FINISHED", wait_seconds=0.5)
    with closing(sqlite3.connect(store_folder() / "outbox.db")) as database, database:
        database.execute("UPDATE rows SET attempts = ?, not_before_ms = 0", (MAX_ATTEMPTS - 1,))
    next_one = RunWriter.start(name="exp_v2", params={}, tags={})  # sends what others have left
    deadline = time.monotonic() + 30
    while not (refused := refusals()):
        assert time.monotonic() < deadline, "still waiting for the refusal"
        time.sleep(0.05)
    assert [run_id for run_id, _ in refused] == [in_bucket.run_id]
    assert next_one.finish("FINISHED")
    assert sync(store_folder(), store_name(), client).put_off != ()  # on request it is tried once more
    assert refusals() == []


def refusals() -> list[tuple[str, str]]:
    with closing(Outbox(store_folder(), store_name())) as outbox:
        return outbox.reasons("refused")


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_texts_that_no_database_takes_are_cleaned_at_the_door(
    store: str, client: MlflowClient, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store == "postgresql":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("postgresql"))
        client = MlflowClient()
    run = RunWriter.start(name="exp_v1", params={"a": "x\0y"}, tags={"exp_id": "one\0two"})
    run.set_tags({"note": "a\0b\ud800c文"})
    run.log_metrics({"f1": 0.5}, step=1)
    assert run.finish("FINISHED")
    stored = client.get_run(run.run_id)
    assert stored.data.tags["note"] == "a\ufffdb\ufffdc文"
    assert stored.data.tags["exp_id"] == "one\ufffdtwo"
    assert stored.data.params["a"] == "x\ufffdy"
    assert (stored.info.status, stored.data.metrics["f1"]) == ("FINISHED", 0.5)
