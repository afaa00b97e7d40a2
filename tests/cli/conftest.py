"""A project with two trained and registered models, trained once and copied for each test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cohorts import config_of, dataset, new_cohort, seat  # noqa: F401

from loratrack.cli import main
from loratrack.store import relocation
from loratrack.store.place import tracking_uri


@dataclass(frozen=True)
class Trained:
    """`projects/tiny` with its store: version 1 is of `first` with 2 epochs, 2 and 3 of `second` with 1."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "projects" / "tiny" / "dual.yaml"

    @property
    def database(self) -> Path:
        return self.folder / "mlruns" / "mlflow.db"


@pytest.fixture(scope="session")
def trained_once(sample: Any, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    made = Trained(tmp_path_factory.mktemp("trained"))
    shutil.copytree(sample.folder, made.config.parent)
    (made.folder / "MLproject").write_text("name: loratrack\n")
    made.database.parent.mkdir()
    shutil.copy(empty_database, made.database)
    settings = json.loads(made.config.read_text("utf-8"))
    settings["model"]["arch"] = "./base"
    made.config.write_text(json.dumps(settings, ensure_ascii=False), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        enter(made, patch)
        for exp_id, epochs in (("first", 2), ("second", 1), ("second", 1)):
            assert main(["run", str(made.config), "--set", f"exp_id={exp_id}; train.epochs={epochs}"]) == 0
    return made


@pytest.fixture
def trained(trained_once: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """A copy that a test may change, and the current folder."""
    copy = Trained(Path(shutil.copytree(trained_once.folder, tmp_path / "moved here")))
    enter(copy, monkeypatch)
    relocation.follow(tracking_uri())
    return copy


def enter(project: Trained, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.database}")
    patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "60")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        patch.delenv(name, raising=False)
    patch.chdir(project.folder)


Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(trained: Trained, capsys: pytest.CaptureFixture[str]) -> Ask:
    """`loratrack WORDS` in the project: exit code, what was printed, what was complained of."""

    def words(*said: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in said])
        output = capsys.readouterr()
        return code, output.out, output.err

    return words


def view(version: str) -> str:
    """What a command says of the version's page."""
    name, number = version.split("/")
    page = f"http://127.0.0.1:5000/#/models/{name}/versions/{number}?workflowType=machine_learning"
    return f"view         {page}\n             loratrack ui serves it\n"
