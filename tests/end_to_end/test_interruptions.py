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

SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130}


@dataclass(frozen=True)
class Ended:
    exit_code: int
    output: str
    status: str
    artifacts: Path


@pytest.fixture(scope="module")
def ended(new_project: Callable[[], Any], sample: Any) -> dict[signal.Signals, Ended]:
    """Two endless runs side by side, each sent its signal after the first epoch."""
    project = new_project()
    command = ("loratrack", "run", str(sample.config), "--set", "train.epochs=100000")
    processes = {number: project.start(*command) for number in SIGNALS}
    ended = {}
    for number, process in processes.items():
        output = []
        for line in process.stdout:
            output.append(line)
            if line.startswith("epoch 1/"):
                process.send_signal(number)
                break
        output.append(process.communicate()[0])
        ended[number] = _ended(project, process.returncode, "".join(output))
    return ended


def _ended(project: Any, exit_code: int, output: str) -> Ended:
    run_id = output.partition(": run ")[2][:32]
    with sqlite3.connect(project.store / "mlflow.db") as database:
        found = database.execute(
            "select status, artifact_uri from runs where run_uuid = ?", (run_id,)
        ).fetchone()
    assert found, output
    return Ended(exit_code, output, found[0], Path(found[1]))


@pytest.mark.parametrize("number", SIGNALS)
def test_the_exit_code_names_the_signal(ended: dict[signal.Signals, Ended], number: signal.Signals) -> None:
    assert ended[number].exit_code == SIGNALS[number], ended[number].output
    assert f"ended by {number.name}; epoch " in ended[number].output
    assert "Traceback" not in ended[number].output


@pytest.mark.parametrize("number", SIGNALS)
def test_the_run_is_marked_killed(ended: dict[signal.Signals, Ended], number: signal.Signals) -> None:
    assert ended[number].status == "KILLED"


@pytest.mark.parametrize("number", SIGNALS)
def test_the_best_adapter_so_far_is_kept(ended: dict[signal.Signals, Ended], number: signal.Signals) -> None:
    names = {path.name for path in ended[number].artifacts.iterdir()}
    assert {"lora_adapter", "heads.safetensors", "bundle.json", "pyfunc", "metrics.json", "plots"} <= names
    answers = Classifier(ended[number].artifacts).answer({"text": ["calm take"]})
    assert list(answers[0]) == ["risk", "adopt"]
