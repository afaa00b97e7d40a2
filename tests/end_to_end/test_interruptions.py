"""A training that is told to end: nothing of it is lost, and nobody takes it for running."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loratrack.serving.classifier import Classifier

pytestmark = pytest.mark.slow

CASES = {
    "SIGTERM at the start": (signal.SIGTERM, "dual: run ", 143),  # first: its line is the first to come
    "SIGTERM": (signal.SIGTERM, "epoch 1/", 143),
    "SIGINT": (signal.SIGINT, "epoch 1/", 130),
}
"""The signal, the start of the line after which it is sent, and the exit code."""
IN_TIME = ("SIGTERM", "SIGINT")


@dataclass(frozen=True)
class Ended:
    exit_code: int
    output: str
    status: str
    artifacts: Path


@pytest.fixture(scope="module")
def ended(new_project: Callable[[], Any], sample: Any) -> dict[str, Ended]:
    """Endless runs side by side, each sent its signal."""
    project = new_project()
    command = ("loratrack", "run", str(sample.config), "--set", "train.epochs=100000")
    processes = {case: project.start(*command) for case in CASES}
    return {case: _ended(project, process, *CASES[case][:2]) for case, process in processes.items()}


def _ended(project: Any, process: Any, number: signal.Signals, mark: str) -> Ended:
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(mark):
            process.send_signal(number)
            break
    output = "".join([*seen, process.communicate()[0]])
    run_id = output.partition(": run ")[2][:32]
    with sqlite3.connect(project.store / "mlflow.db") as database:
        found = database.execute("select status, artifact_uri from runs where run_uuid = ?", (run_id,))
        status, artifacts = found.fetchone()
    return Ended(process.returncode, output, status, Path(artifacts))


@pytest.mark.parametrize("case", CASES)
def test_the_exit_code_names_the_signal_and_the_run_is_killed(ended: dict[str, Ended], case: str) -> None:
    number, _, exit_code = CASES[case]
    assert ended[case].exit_code == exit_code, ended[case].output
    assert f"interrupted ({number.name}); the best epoch so far (1) was saved as run " in ended[case].output
    assert "Traceback" not in ended[case].output
    assert ended[case].status == "KILLED"


@pytest.mark.parametrize("case", IN_TIME)
def test_the_best_adapter_so_far_is_kept(ended: dict[str, Ended], case: str) -> None:
    names = {path.name for path in ended[case].artifacts.iterdir()}
    assert {"lora_adapter", "heads.safetensors", "bundle.json", "pyfunc", "metrics.json", "plots"} <= names
    answers = Classifier(ended[case].artifacts).answer({"text": ["calm take"]})
    assert list(answers[0]) == ["risk", "adopt"]


def test_a_run_ended_before_its_first_epoch_keeps_no_model(ended: dict[str, Ended]) -> None:
    early = ended["SIGTERM at the start"]
    assert "interrupted (SIGTERM); nothing was learned yet" in early.output
    names = {path.name for path in early.artifacts.iterdir()}
    assert "config_copy.yaml" in names
    assert "pyfunc" not in names
