"""`mlflow run .` with a real training, a fault told through it, and the project moved afterwards."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

pytestmark = pytest.mark.slow

FOLLOW = """
import json, mlflow, pandas
from loratrack.cli import main
main(["doctor", "--fix"])
mlflow.MlflowClient().set_registered_model_alias("tiny", "champion", "1")
model = mlflow.pyfunc.load_model("models:/tiny@champion")
print(json.dumps(model.predict(pandas.DataFrame({"text": ["calm take"]})).to_dict("records")))
main(["predict", "--model", "models:/tiny@champion", "--text", "calm take"])
"""


@dataclass(frozen=True)
class Two:
    project: Any
    good: str
    bad: str


@pytest.fixture(scope="module")
def two(new_project: Callable[[], Any], sample: Any, written: Callable[..., Any]) -> Two:
    """A run that trains and one whose file has a fault, at the same time; then the project is moved."""
    project = new_project()
    bad = written("bad", data={"text_column": "texts"})
    command = ("mlflow", "run", ".", "-P", "set=train.epochs=1; description=a b")
    processes = [project.start(*command, "-P", f"config={file}") for file in (sample.config, bad)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 1], "\n".join(outputs)
    moved = project.folder.rename(project.folder.with_name("moved"))
    return Two(type(project)(moved, project.environment), *outputs)


def rows(two: Two, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(two.project.store / "mlflow.db") as database:
        return database.execute(query).fetchall()


def test_mlflows_own_run_is_the_run(two: Two) -> None:
    found = dict(rows(two, "select status, name from runs"))
    assert found["FINISHED"] == "dual epochs=1"
    assert rows(two, "select distinct experiment_id from runs") == [(1,)]


def test_the_settings_reach_the_training(two: Two) -> None:
    found = dict(
        rows(two, "select key, value from params where key in ('train.epochs', 'description', 'set')")
    )
    assert found == {"train.epochs": "1", "description": "a b", "set": "'train.epochs=1; description=a b'"}
    assert "best epoch   1 of 1 (by avg_f1)" in two.good


def test_a_fault_of_the_data_is_told_once_without_a_traceback_of_ours(two: Two) -> None:
    told = "has no column 'texts'; did you mean 'text'?"
    assert two.bad.count(told) == 2  # in the training file and in the test file
    assert "loratrack: bad: 2 problems in the data" in two.bad
    assert "Traceback" not in two.bad
    [(reason,)] = rows(
        two,
        "select t.value from tags t join runs r on r.run_uuid = t.run_uuid"
        " where t.key = 'error' and r.status = 'FAILED'",
    )
    assert reason.startswith("bad: 2 problems in the data\n")


def test_a_moved_project_serves_its_models(two: Two) -> None:
    """Both ways to the model, in a folder below: MLflow's own, and our command."""
    shown = two.project.call("python", "-c", FOLLOW, below="projects")
    assert f"and lead to {two.project.store} now" in shown
    *_, answers, text, told = shown.splitlines()
    (answer,) = json.loads(answers)
    assert text == "calm take"
    expected = [f"{task}: {answer[task]} ({answer[f'{task}_probability']:.3f})" for task in ("risk", "adopt")]
    assert told == f"  {'  '.join(expected)}"
