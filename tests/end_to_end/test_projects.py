"""`mlflow run .` as a user types it, in a copy of the project: with no conda, with a conda, twice at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

pytestmark = pytest.mark.slow

ENTRY_POINT = """
import json, os, sys
from pathlib import Path
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 1.0)
    mlflow.log_text("whole", "told.txt")
told = {"arguments": sys.argv[1:], "prefix": sys.prefix, "environment": dict(os.environ)}
Path(f"told-{run.info.run_id}.json").write_text(json.dumps(told))
"""


def with_a_quick_entry_point(project: Any) -> Any:
    """Everything of MLproject stays but the training itself."""
    (project.folder / "entry_point.py").write_text(ENTRY_POINT)
    file = project.folder / "MLproject"
    content = file.read_text()
    assert "loratrack run {config}" in content
    file.write_text(content.replace("loratrack run {config}", "python entry_point.py {config}"))
    return project


def told(project: Any) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(project.folder.glob("told-*.json"))]


def rows(project: Any, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(project.store / "mlflow.db") as database:
        return database.execute(query).fetchall()


@dataclass(frozen=True)
class Two:
    project: Any
    outputs: list[str]


@pytest.fixture(scope="module")
def two(new_project: Callable[[], Any]) -> Two:
    """Two runs started at the same instant, in a folder below a project with no store yet."""
    project = with_a_quick_entry_point(new_project())
    command = ("mlflow", "run", "..", "-P", "config=clinc/dual.yaml")
    first = project.start(*command, below="projects")
    second = project.start(*command, "-P", "set=train.epochs=1; description=a b", below="projects")
    outputs = [process.communicate()[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], "\n".join(outputs)
    return Two(project, outputs)


def test_without_conda_the_stand_in_says_what_it_does(two: Two) -> None:
    line = f"loratrack: no conda here; {sys.prefix} satisfies conda.yaml and is used"
    assert [output.count(line) for output in two.outputs] == [1, 1], two.outputs[0]
    assert {run["prefix"] for run in told(two.project)} == {sys.prefix}


def test_the_entry_point_gets_config_and_settings(two: Two) -> None:
    config = str(two.project.folder / "projects/clinc/dual.yaml")
    expected = [
        [config, "--set", "", "--resume", "never"],
        [config, "--set", "train.epochs=1; description=a b", "--resume", "never"],
    ]
    assert sorted(run["arguments"] for run in told(two.project)) == expected


def test_both_runs_end_well_in_one_store(two: Two) -> None:
    assert rows(two.project, "select status, experiment_id from runs") == [("FINISHED", 1)] * 2
    assert rows(two.project, "select name from experiments where experiment_id = 1") == [("clinc",)]
    assert len(list(two.project.store.glob("artifacts/clinc/*/artifacts/told.txt"))) == 2


def test_nothing_lies_outside_mlruns(two: Two) -> None:
    strays = [path for path in two.project.folder.rglob("*") if path.name in ("mlruns", "mlflow.db")]
    assert strays.count(two.project.store) == 1
    assert all(path.is_relative_to(two.project.store) for path in strays)


def test_mlflow_lists_the_runs_from_any_folder_below(two: Two) -> None:
    listed = two.project.call("mlflow", "runs", "list", "--experiment-id", "1", below="projects/clinc/data")
    assert all(identity in listed for (identity,) in rows(two.project, "select run_uuid from runs"))


def test_mlflow_ui_finds_the_store_from_any_folder_below(two: Two) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = two.project.start("mlflow", "ui", "--port", port, "--workers", "1", below="projects/clinc/data")
    try:
        for line in server.stdout:
            if "Uvicorn running on" in line:  # said when the port is open
                break
        body = json.dumps({"experiment_ids": ["1"]}).encode()
        request = Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=60) as answer:
            shown = [run["info"]["run_id"] for run in json.load(answer)["runs"]]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.communicate()
    assert sorted((identity,) for identity in shown) == rows(
        two.project, "select run_uuid from runs order by 1"
    )


def test_another_folder_names_the_project_by_its_path(new_project: Callable[[], Any], tmp_path: Path) -> None:
    """The project's own store has the run, and nothing is left in the folder where the command was typed."""
    project = with_a_quick_entry_point(new_project())
    config = project.folder / "projects/clinc/dual.yaml"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = ("mlflow", "run", str(project.folder), "-P", f"config={config}")
    output = subprocess.run(
        command, cwd=elsewhere, env=project.environment, capture_output=True, text=True, check=True
    )
    assert "no conda here" in output.stdout + output.stderr
    assert rows(project, "select status, experiment_id from runs") == [("FINISHED", 1)]
    assert list(elsewhere.iterdir()) == []


def test_a_git_repository_is_run_from_any_folder(new_project: Callable[[], Any], tmp_path: Path) -> None:
    """MLflow clones it; the run lies where MLflow puts it, in the current folder."""
    project = with_a_quick_entry_point(new_project())
    identity = ("-c", "user.name=anna", "-c", "user.email=anna@example.org")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "all")):
        subprocess.run(["git", *words], cwd=project.folder, env=project.environment, check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = project.folder / "projects/clinc/dual.yaml"
    command = ("mlflow", "run", f"{project.folder.as_uri()}#", "-P", f"config={config}")
    subprocess.run(command, cwd=elsewhere, env=project.environment, capture_output=True, check=True)
    with sqlite3.connect(elsewhere / "mlflow.db") as database:
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]


def test_a_real_conda_is_used(new_project: Callable[[], Any], tmp_path: Path) -> None:
    project = with_a_quick_entry_point(new_project())
    log = tmp_path / "calls"
    conda, activate = tmp_path / "conda", tmp_path / "activate"
    conda.write_text(f'#!/bin/sh\necho "$@" >> {log}\n[ "$2" != list ] || echo \'{{"envs": []}}\'\n')
    conda.chmod(0o755)
    activate.write_text(f'echo "activate $1" >> {log}\n')
    project.environment["PATH"] = f"{tmp_path}:{project.environment['PATH']}"
    output = project.call("mlflow", "run", ".", "-P", "config=projects/clinc/dual.yaml")
    calls = [call.split()[:2] for call in log.read_text().splitlines()]
    assert calls == [["--help"], ["--help"], ["env", "list"], ["env", "create"], calls[-1]]
    assert calls[-1][0] == "activate"
    assert "no conda here" not in output
    assert "MLFLOW_CONDA_HOME" not in told(project)[0]["environment"]
