"""A training that is told to end: nothing of it is lost, and nobody takes it for running."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loratrack.cli import main
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
    kept = (
        r"the best epoch so far \(\d+\) was saved as run [0-9a-f]{32}" if case in IN_TIME else "nothing was"
    )
    assert re.search(rf"^interrupted \({number.name}\); {kept}", ended[case].output, re.MULTILINE)
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


KILLED = """
import os, sys
from loratrack.experiments import recording
from loratrack.{module} import {name} as real

def killed(*arguments, **named):
    real(*arguments, **named)
    os.kill(os.getpid(), 9)

recording.{where} = killed
from loratrack.cli import main
main(["run", *sys.argv[1:]])
"""
AFTER_THE_MODEL = KILLED.format(module="serving.classifier", name="check_reload", where="check_reload")
BEFORE_THE_MODEL = KILLED.format(
    module="experiments.verdict", name="learned_nothing", where="learned_nothing"
)


def killed(program: str, config: Path) -> str:
    """The run whose process was killed with SIGKILL at that place."""
    process = subprocess.run(
        [sys.executable, "-c", program, str(config)], capture_output=True, text=True, env=os.environ
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    return process.stdout.partition(": run ")[2][:32]


def outbox_findings(capsys: pytest.CaptureFixture[str], *words: str) -> list[tuple[str, str]]:
    capsys.readouterr()
    main(["doctor", "--json", *words])
    found = json.loads(capsys.readouterr().out)
    return [(each["text"], each["remedy"]) for each in found if each["area"] == "outbox"]


def test_a_model_that_was_saved_outlives_a_kill(
    tiny_project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed before it handed the model over: whoever cleans up does so, and the run is FINISHED."""
    from mlflow import MlflowClient

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run_id = killed(AFTER_THE_MODEL, tiny_project / "projects" / "tiny" / "dual.yaml")
    work = tiny_project / "mlruns" / "work" / run_id
    (work / "artifacts" / ".metrics.json.1-a.draft").touch()
    text = f"run {run_id}: its process died before it kept its model; the best weights it had stay 14 days"
    assert (f"{text} in {work}", "loratrack sync") in outbox_findings(capsys)
    assert outbox_findings(capsys, "--fix")[-1][1] == "loratrack sync"
    assert main(["sync"]) == 0
    assert not work.exists()
    assert main(["doctor", "--fix"]) == 0
    capsys.readouterr()
    run = MlflowClient().get_run(run_id)
    assert (run.info.status, run.data.metrics["best_epoch"] > 0) == ("FINISHED", True)
    kept = Path(run.info.artifact_uri)
    assert not list(kept.rglob("*.draft"))
    assert list(Classifier(kept).answer({"text": ["calm take"]})[0]) == ["risk", "adopt"]
    assert main(["register", run_id, "--name", "rescued"]) == 0


def test_weights_that_are_no_model_yet_are_named(
    tiny_project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run_id = killed(BEFORE_THE_MODEL, tiny_project / "projects" / "tiny" / "dual.yaml")
    work = tiny_project / "mlruns" / "work" / run_id
    text = f"its process died before it kept its model; the best weights it had stay 14 days in {work}"
    capsys.readouterr()
    assert main(["sync"]) == 0
    assert f"run {run_id}: {text}\n" in capsys.readouterr().out
    assert (f"run {run_id}: {text}", "") in outbox_findings(capsys, "--fix")
    assert list(work.rglob("heads.safetensors"))
