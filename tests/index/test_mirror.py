"""The copy of a server's tables: what it notices, when, and what happens to the file."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tests.stores import Filler, use

from loratrack.errors import StoreError
from loratrack.index import mirror, search
from loratrack.index.opened import open_tables
from loratrack.store.place import store_folder


@pytest.fixture
def filler(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Filler]:
    """Writes runs into an experiment of its own, which is deleted afterwards."""
    use(server, monkeypatch, tmp_path)
    client = MlflowClient(server)
    experiment = client.create_experiment(tmp_path.name)
    yield Filler(client, experiment)
    client.delete_experiment(experiment)


def found(text: str = "exp_id~mirror", is_rebuild: bool = False) -> dict[str, str]:
    """Status by exp_id."""
    with open_tables(is_rebuild) as tables:
        runs = search.search(tables, filter_text=text, limit=10).runs
    return {run.summary.exp_id: run.summary.status for run in runs}


def file() -> Path:
    [only] = (store_folder() / "index").glob("*.db")
    return only


@pytest.mark.slow
def test_new_ended_and_deleted_runs_are_noticed_at_once(filler: Filler) -> None:
    old = filler.run("mirror_old", "single_cls", days_ago=9, rank=4, f1=[0.5])
    running = filler.run("mirror_running", "single_cls", days_ago=9, rank=4, status="RUNNING")
    assert found() == {"mirror_old": "FINISHED", "mirror_running": "RUNNING"}
    filler.client.set_terminated(running, "KILLED", int(time.time() * 1000) - 8 * 24 * 3600 * 1000)
    filler.run("mirror_new", "single_cls", days_ago=0, rank=4)
    assert found() == {"mirror_old": "FINISHED", "mirror_running": "KILLED", "mirror_new": "FINISHED"}
    filler.client.delete_run(old)
    assert found() == {"mirror_running": "KILLED", "mirror_new": "FINISHED"}


def test_a_run_that_goes_on_after_its_end_is_noticed(filler: Filler) -> None:
    run_id = filler.run("mirror_resumed", "single_cls", days_ago=9, rank=4, f1=[0.5], best=False)
    assert found("exp_id~mirror and f1>0.6") == {}
    filler.client.update_run(run_id, "RUNNING")
    filler.client.log_metric(run_id, "f1", 0.7, step=2)
    assert found("exp_id~mirror and f1>0.6") == {"mirror_resumed": "RUNNING"}


def test_what_is_shown_is_never_stale(filler: Filler) -> None:
    run_id = filler.run("mirror_shown", "single_cls", days_ago=9, rank=4, project="before")
    assert found("exp_id~mirror and project=before") == {"mirror_shown": "FINISHED"}
    filler.client.set_tag(run_id, "project", "after")
    assert found("exp_id~mirror and project=before") == {}


def test_what_an_expression_misses_is_found_when_all_is_read_anew(
    filler: Filler, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    run_id = filler.run("mirror_tagged", "single_cls", days_ago=9, rank=4, project="before")
    assert found() == {"mirror_tagged": "FINISHED"}
    filler.client.set_tag(run_id, "project", "after")
    assert found("exp_id~mirror and project=after") == {}
    assert len(caplog.records) == 1
    assert found("exp_id~mirror and project=after", is_rebuild=True) == {"mirror_tagged": "FINISHED"}
    assert len(caplog.records) == 2
    filler.client.set_tag(run_id, "project", "later")
    monkeypatch.setattr(mirror, "WHOLE_READING_SECONDS", 0)
    assert found("exp_id~mirror and project=later") == {"mirror_tagged": "FINISHED"}


def test_aliases_stages_and_deleted_versions_are_noticed(filler: Filler) -> None:
    run_id = filler.run("mirror_version", "single_cls", days_ago=9, rank=4)
    client = filler.client
    assert found("exp_id~mirror and version!=null") == {}
    client.create_registered_model("mirrored")
    client.create_model_version("mirrored", f"{client.get_run(run_id).info.artifact_uri}/pyfunc", run_id)
    client.set_registered_model_alias("mirrored", "champion", "1")
    assert found("model=mirrored and alias=champion") == {"mirror_version": "FINISHED"}
    client.delete_registered_model_alias("mirrored", "champion")
    assert found("model=mirrored and alias=champion") == {}
    client.delete_model_version("mirrored", "1")
    assert found("model=mirrored") == {}
    client.delete_registered_model("mirrored")


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0 and nothing behind it"])
def test_a_broken_file_is_made_anew(filler: Filler, content: bytes) -> None:
    filler.run("mirror_broken", "single_cls", days_ago=9, rank=4)
    assert found() == {"mirror_broken": "FINISHED"}
    file().write_bytes(content)
    assert found() == {"mirror_broken": "FINISHED"}


def test_a_file_of_another_format_is_made_anew(filler: Filler, monkeypatch: pytest.MonkeyPatch) -> None:
    filler.run("mirror_format", "single_cls", days_ago=9, rank=4)
    found()
    with closing(sqlite3.connect(file())) as database, database:
        database.execute("DELETE FROM runs")
    assert found() == {}
    monkeypatch.setattr(mirror, "FORMAT", mirror.FORMAT + 1)
    assert found() == {"mirror_format": "FINISHED"}


def test_a_reading_that_was_broken_off_leaves_no_file(filler: Filler) -> None:
    filler.run("mirror_half", "single_cls", days_ago=9, rank=4)
    folder = store_folder() / "index"
    folder.mkdir(parents=True)
    (folder / "x.draft").write_bytes(b"of a process that was killed")
    program = (
        "import os; from loratrack.index import mirror, opened;"
        " mirror.Mirror.save_all = lambda self, runs: os.kill(os.getpid(), 9);"
        " opened.open_tables().__enter__()"
    )
    process = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert process.returncode == -9, process.stderr
    assert list(folder.glob("*.db")) == []
    assert found() == {"mirror_half": "FINISHED"}


@pytest.mark.slow
def test_several_commands_may_ask_at_once(filler: Filler) -> None:
    filler.run("mirror_many", "single_cls", days_ago=9, rank=4)
    command = [sys.executable, "-m", "loratrack.cli", "compare", "--filter", "exp_id~mirror", "--json"]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    for process in asking:
        output, _ = process.communicate()
        assert process.returncode == 0, output


def test_a_server_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use("http://me:secret@127.0.0.1:9", monkeypatch, tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreError) as fault, open_tables():
        pass
    assert str(fault.value).startswith("http://***@127.0.0.1:9: the tracking store must answer, got: ")
    assert "secret" not in str(fault.value)
    assert os.listdir(tmp_path / "loratrack" / "mlruns" / "index")
