"""The store's place, and its first use by many processes at once."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loratrack.errors import StoreError
from loratrack.places import artifact_folder
from loratrack.store import opening
from loratrack.store.client import connect, ensure_experiment
from loratrack.store.place import database_file, store_folder, tracking_uri
from loratrack.store.process import is_dead, own_tags

START_A_RUN = """
import os, sys
import mlflow
print("ready", flush=True)
sys.stdin.readline()
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 1.0)
    mlflow.log_text("whole", "told.txt")
print(run.info.experiment_id, run.info.artifact_uri)
"""


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    opening.initialise(f"sqlite:///{file}")
    return file


@pytest.fixture
def uri(fresh_uri: str, tmp_path: Path, empty_database: Path) -> str:
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_database, tmp_path / "mlruns" / "mlflow.db")
    return fresh_uri


@pytest.fixture
def fresh_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
    return uri


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def project_below(folder: Path, name: str = "loratrack") -> Path:
    below = folder / "projects" / "clinc"
    below.mkdir(parents=True)
    (folder / "MLproject").write_text(f"name: {name}\nconda_env: conda.yaml\n")
    return below


@pytest.mark.slow
def test_eight_processes_start_runs_on_an_empty_store_at_once(tmp_path: Path, fresh_uri: str) -> None:
    project_below(tmp_path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START_A_RUN],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, ends[0][1]
    assert {told.split()[0] for told, _ in ends} == {"1"}
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        assert database.execute("select count(*) from metrics").fetchone() == (8,)
        assert database.execute("pragma journal_mode").fetchone() == ("wal",)
    assert len(list((tmp_path / "mlruns/artifacts/loratrack").glob("*/artifacts/told.txt"))) == 8


def test_what_a_killed_process_left_of_a_draft_is_no_database(tmp_path: Path, fresh_uri: str) -> None:
    folder = tmp_path / "mlruns"
    folder.mkdir()
    with sqlite3.connect(folder / ".mlflow.db.draft") as half:
        half.execute("create table experiments (experiment_id integer)")
    opening.initialise(fresh_uri)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".mlflow.db.lock",
        ".mlflow.db.place",
        "mlflow.db",
    ]
    assert [experiment.name for experiment in connect().search_experiments()] == ["Default"]


def test_a_database_that_is_there_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as database:
        database.execute("create table mine (value integer)")
    before = file.read_bytes()
    opening.initialise(f"sqlite:///{file}")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "http://host/x", "postgresql://host/x"])
def test_only_files_are_initialised(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert database_file(uri) is None
    opening.initialise(uri)
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_is_made_once_and_keeps_its_place(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = ensure_experiment("registry-events")
    monkeypatch.chdir(project_below(tmp_path))
    assert ensure_experiment("registry-events") == identity
    experiment = connect().get_experiment_by_name("registry-events")
    assert experiment
    assert experiment.artifact_location == f"{tmp_path}/mlruns/artifacts/registry-events"


@pytest.mark.parametrize(
    ("first", "then", "kept"), [("KILLED", "FAILED", "KILLED"), ("FAILED", "KILLED", "KILLED")]
)
def test_a_killed_run_stays_killed(uri: str, first: str, then: str, kept: str) -> None:
    client = connect()
    run_id = client.create_run(ensure_experiment("loratrack")).info.run_id
    client.set_terminated(run_id, first, end_time=1000)
    client.set_terminated(run_id, then, end_time=2000)
    info = client.get_run(run_id).info
    assert (info.status, info.end_time) == (kept, 1000 if first == "KILLED" else 2000)


@pytest.mark.parametrize(
    ("name", "on_disk"),
    [
        *((name, name) for name in ("评论", "my tickets", "50% off", "a%20b", "c#1?")),
        ("../风险", "..%2F风险"),
        ("..", "%2E%2E"),
    ],
)
def test_the_files_of_an_experiment_lie_where_its_runs_say(
    uri: str, tmp_path: Path, name: str, on_disk: str
) -> None:
    client = connect()
    run = client.create_run(ensure_experiment(name))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notices.txt").write_text("hello")
    client.log_artifacts(run.info.run_id, str(tmp_path / "new"))
    folder = artifact_folder(run.info.artifact_uri)
    assert folder == tmp_path / "mlruns" / "artifacts" / on_disk / run.info.run_id / "artifacts"
    assert (folder / "notices.txt").read_text() == "hello"


def test_a_deleted_experiment_says_how_to_have_it_back(uri: str) -> None:
    identity = ensure_experiment("sweeps")
    client: Any = connect()  # as a hand deletes it: nothing of ours does
    client.delete_experiment(identity)
    with pytest.raises(StoreError) as error:
        ensure_experiment("sweeps")
    assert str(error.value) == (
        "experiment 'sweeps': must not be deleted; bring it back with mlflow experiments restore -x 1"
    )


@pytest.mark.usefixtures("nothing_set")
def test_the_project_holds_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project_below(tmp_path))
    assert store_folder() == tmp_path / "mlruns"
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlruns/mlflow.db"


@pytest.mark.usefixtures("nothing_set")
def test_outside_our_project_the_store_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(project_below(tmp_path, name="loratracker"))
    assert store_folder() == tmp_path / "data" / "loratrack" / "mlruns"


def test_the_users_database_wins_over_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///team/all.db")
    monkeypatch.chdir(project_below(tmp_path))
    assert tracking_uri() == "sqlite:///team/all.db"
    assert store_folder() == tmp_path / "projects" / "clinc" / "team"


def test_beside_a_server_the_project_keeps_the_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    monkeypatch.chdir(project_below(tmp_path))
    assert store_folder() == tmp_path / "mlruns"


@pytest.mark.slow
def test_a_disk_without_room_for_the_database_is_told(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys; from loratrack.store.opening import initialise;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
        "from loratrack.errors import StoreError\n"
        "try: initialise(sys.argv[1])\n"
        "except StoreError as error: print(error)"
    )
    file = tmp_path / "mlruns" / "mlflow.db"
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, f"sqlite:///{file}"], capture_output=True, text=True
    )
    assert process.stdout.startswith(f"{file}: the tracking store must be made here, got 'di"), process.stderr
    assert process.stdout.endswith("free some space, or set MLFLOW_TRACKING_URI to another place\n")
    assert [path.name for path in file.parent.iterdir()] == [".mlflow.db.lock"]


def test_a_run_of_mlflow_run_says_whose_it_is_from_the_start(client: Any) -> None:
    """Killed in the seconds between, it must not stay RUNNING for ever."""
    store = opening.open_tracking_store(tracking_uri(), is_mlflow_run=True)
    run = store.create_run("0", "anna", 0, [], "crawling-midge-522")
    tags = client.get_run(run.info.run_id).data.tags
    assert {name: tags[name] for name in own_tags()} == own_tags()
    assert is_dead(run.info.run_id, tags) is False
