"""The plug-in sets what nobody set, in our project alone, and costs MLflow nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loratrack.mlflow_plugin import (
    CONDA_STAND_IN,
    conda_settings,
    defaults,
    is_mlflow_run,
    project_of_this_process,
)
from loratrack.store.place import tracking_uri

PROJECT = Path("/home/anna/lora")
OURS = "sqlite:////home/anna/lora/mlruns/mlflow.db"

TELL = """
import json, os, sys
import mlflow
told = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
rooms = sorted({name.split(".")[1] for name in sys.modules if name.startswith("loratrack.")})
print(json.dumps({"settings": told, "rooms": rooms, "torch": "torch" in sys.modules}))
"""


def told_in(folder: Path, program: str = TELL) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    process = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(process.stdout))


def test_all_of_it_is_set_where_nothing_is() -> None:
    assert defaults(PROJECT, {}) == {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": OURS,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": "/home/anna/lora/mlruns/artifacts",
        "MLFLOW_BACKEND_STORE_URI": OURS,
    }


def test_a_child_process_finds_nothing_left_to_set() -> None:
    assert defaults(PROJECT, defaults(PROJECT, {})) == {}


def test_the_users_settings_stay() -> None:
    environment = {"MLFLOW_TRACKING_URI": OURS, "MLFLOW_DISABLE_TELEMETRY": "false"}
    assert defaults(PROJECT, environment).keys() == {
        "MLFLOW_DEFAULT_ARTIFACT_ROOT",
        "MLFLOW_BACKEND_STORE_URI",
    }


def test_mlflow_ui_opens_the_users_database() -> None:
    uri = "postgresql://db/mlflow"
    environment = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    assert defaults(PROJECT, environment) == {"MLFLOW_BACKEND_STORE_URI": uri}


def test_with_a_tracking_server_no_local_store_is_named() -> None:
    environment = {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"}
    assert defaults(PROJECT, environment) == {"MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.mark.parametrize(
    ("words", "is_it"),
    [
        (["/usr/bin/mlflow", "run", "."], True),
        (["/site-packages/mlflow/__main__.py", "run", "."], True),
        (["/usr/bin/mlflow", "ui"], False),
        (["/usr/bin/loratrack", "run", "a.yaml"], False),
        (["/site-packages/loratrack/__main__.py", "run", "a.yaml"], False),
    ],
)
def test_mlflow_run_is_known_by_its_words(
    words: list[str], is_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", words)
    assert is_mlflow_run() == is_it


def test_a_long_setting_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "MLproject").write_text("name: loratrack\n")
    monkeypatch.setattr(sys, "argv", ["mlflow", "run", "-P", f"set=description={'x' * 300}", str(tmp_path)])
    assert project_of_this_process() == tmp_path


def test_the_stand_in_is_for_machines_without_conda() -> None:
    assert conda_settings({"PATH": "/nowhere"}) == {
        "MLFLOW_CONDA_HOME": str(CONDA_STAND_IN),
        "LORATRACK_PYTHON": sys.executable,
    }


def test_a_conda_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "conda").touch(mode=0o755)
    assert conda_settings({"PATH": str(tmp_path)}) == {}
    assert conda_settings({"PATH": "/nowhere", "CONDA_EXE": "/opt/conda/bin/conda"}) == {}
    assert conda_settings({"PATH": "/nowhere", "MLFLOW_CONDA_HOME": "/opt/conda"}) == {}


def test_a_stand_in_of_the_parent_process_is_replaced_by_our_own() -> None:
    environment = {"PATH": "/nowhere", "MLFLOW_CONDA_HOME": "/other/site-packages/loratrack/conda_stand_in"}
    assert conda_settings(environment)["LORATRACK_PYTHON"] == sys.executable


def test_every_mlflow_process_below_the_project_sees_one_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MLproject").write_text("name: loratrack\n")
    below = tmp_path / "projects" / "风险"
    below.mkdir(parents=True)
    variables = told_in(below)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(below)
    assert variables["settings"]["MLFLOW_TRACKING_URI"] == tracking_uri()
    assert variables["rooms"] == ["mlflow_plugin", "places"]
    assert not variables["torch"]


@pytest.mark.parametrize("content", ["name: somebody-elses\n", "name: loratracker\n", ""])
def test_in_other_projects_nothing_is_set(tmp_path: Path, content: str) -> None:
    (tmp_path / "MLproject").write_text(content)
    assert told_in(tmp_path)["settings"] == {}


def test_a_current_folder_that_is_gone_does_not_break_mlflow(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = "import os; os.rmdir(os.getcwd()); import loratrack.places as p; print(p.our_project() is None)"
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=gone, capture_output=True, text=True, check=True
    )
    assert process.stdout == "True\n"
