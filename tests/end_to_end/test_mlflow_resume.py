"""`mlflow run . -e resume`: the run that MLflow has made says which one went on in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from loratrack.cli import main
from loratrack.experiments.loading import load_run
from loratrack.experiments.run import run
from loratrack.experiments.watcher import Nobody

pytestmark = pytest.mark.slow


class Broken(Nobody):
    """A process that ends in the middle of its training."""

    def epoch(self, member: Any) -> None:
        raise MemoryError


def made_by_mlflow(monkeypatch: pytest.MonkeyPatch) -> str:
    run_id = str(MlflowClient().create_run("0", run_name="languid-grouse-937").info.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    return run_id


@pytest.fixture
def stopped(tiny_project: Path) -> str:
    """The id of a run that can go on."""
    with pytest.raises(MemoryError):
        run(load_run(tiny_project / "projects" / "tiny" / "dual.yaml", []), Broken())
    (found,) = MlflowClient().search_runs(["1"], "attributes.status = 'FAILED'")
    return str(found.info.run_id)


def test_the_run_that_mlflow_has_made_names_the_one_that_went_on(
    stopped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_by_mlflow(monkeypatch)
    assert main(["resume", stopped]) == 0
    there = MlflowClient().get_run(made)
    assert (there.info.run_name, there.data.tags["resumes"]) == ("resume dual", stopped)
    assert there.data.tags["mlflow.note.content"].startswith(f"Went on with run {stopped}")
    assert not there.data.metrics
    went_on = MlflowClient().get_run(stopped)
    assert (went_on.info.status, "error" in went_on.data.tags) == ("FINISHED", False)


def test_it_says_too_why_nothing_went_on(
    stopped: str, tiny_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tiny_project / "projects" / "tiny" / "train.csv"
    before = file.read_bytes()
    file.write_bytes(before.replace(b"calm", b"clam", 1))
    made = made_by_mlflow(monkeypatch)
    assert main(["resume", stopped]) == 1
    reason = f"run {stopped}: would not go on to the bit; different since then: data: then "
    assert reason in capsys.readouterr().err
    assert reason in MlflowClient().get_run(made).data.tags["error"]
    file.write_bytes(before)
    monkeypatch.delenv("MLFLOW_RUN_ID")
    assert main(["resume", stopped]) == 0
