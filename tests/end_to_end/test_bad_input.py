"""What a user can get wrong: one message, exit code 2, no run for a typo, nothing half-written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from loratrack.store.place import store_folder

FILES = {
    "header.csv": "text,risk,adopt\n",
    "labels.csv": "text,risk,adopt\ncalm,低风险,yes\nloud,极高风险,yes\nmild,中风险,no\nloud,高风险,no\n",
    "ragged.csv": "text,risk,adopt\ncalm,低风险,yes\nloud,take,高风险,yes\n",
}
TWO_TASKS_ONE_COLUMN = {"label_columns": {"risk": "adopt"}}


def data(file: str) -> dict[str, Any]:
    return {"data": {"raw_data_path": file, "test_path": None}}


BEFORE_THE_START: dict[str, tuple[dict[str, Any], str]] = {
    "no such file": (data("tran.csv"), "tran.csv: no such file; did you mean 'train.csv'?"),
    "header only": (data("header.csv"), "header.csv: holds no rows, only a header"),
    "a field too many": (
        data("ragged.csv"),
        "ragged.csv: must have 3 fields like the header, got 4 at line 3",
    ),
    "column": ({"data": {"text_column": "txt"}}, "has no column 'txt'; did you mean 'text'?"),
    "label": (data("labels.csv"), "the label 'risk' must be one of the task's 3, got '极高风险' at line 3"),
    "base": ({"model": {"arch": "./bsae"}}, "no such folder, got '"),
    "base on the hub": ({"model": {"arch": "bert-base-chinese"}}, "bert-base-chinese"),
    "loss weights": (
        {"train": {"loss_weight": [0.5, 0.3, 0.2]}},
        "train.loss_weight: needs one weight for each of 2 tasks: risk, adopt, got 3: [0.5, 0.3, 0.2]",
    ),
    "one column": (
        {"data": TWO_TASKS_ONE_COLUMN},
        "data.label_columns: risk and adopt read one column: adopt",
    ),
    "setting": ({"train": {"epohcs": 3}}, "train.epohcs: no such setting; did you mean train.epochs?"),
}


@pytest.fixture(scope="module", autouse=True)
def _files(sample: Any) -> None:
    for name, content in FILES.items():
        (sample.folder / name).write_text(content, "utf-8")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LORATRACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def statuses() -> list[str]:
    """Of all runs, the newest first."""
    client = MlflowClient()
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.status for run in client.search_runs(ids)]


def nothing_is_half_written(cache: Path) -> bool:
    drafts = [path for path in cache.rglob("*") if ".draft" in path.name]
    return not drafts and not list((store_folder() / "work").iterdir())


def test_a_fault_found_by_a_run_fails_it(
    loratrack_run: Any, written: Callable[..., Path], cache: Path
) -> None:
    before = statuses()
    process = loratrack_run(written("bad", model={"lora": {"target_modules": ["qeury"]}}))
    assert process.exit_code == 2
    assert process.errors.count("loratrack: ") == 1
    assert "'qeury' fits no module; did you mean 'query'?" in process.errors
    assert statuses() == ["FAILED", *before]
    assert nothing_is_half_written(cache)


@pytest.mark.parametrize(("content", "message"), BEFORE_THE_START.values(), ids=BEFORE_THE_START)
def test_a_fault_of_the_config_or_the_data_starts_no_run(
    loratrack_run: Any, written: Callable[..., Path], content: dict[str, Any], message: str
) -> None:
    before = statuses()
    process = loratrack_run(written("bad", **content))
    assert process.exit_code == 2
    assert process.errors.count("loratrack: ") == 1
    assert message in process.errors
    assert statuses() == before


def test_a_loss_that_is_no_number_stops_with_step_and_cause(
    loratrack_run: Any, sample: Any, cache: Path
) -> None:
    process = loratrack_run(sample.config, "train.lr=1e30", "train.max_grad_norm=null", "train.log_steps=1")
    assert process.exit_code == 2
    assert "loratrack: dual: the loss was nan at step " in process.errors
    assert "the likely cause is the learning rate" in process.errors
    assert process.run.info.status == "FAILED"
    reason = process.errors.splitlines()[-1].removeprefix("loratrack: ")
    assert process.run.data.tags["error"] == reason
    notices = mlflow.artifacts.load_text(f"{process.run.info.artifact_uri}/notices.txt")
    assert notices.splitlines()[-1] == reason
    assert not list((store_folder() / "work").iterdir())


def test_a_damaged_cache_entry_is_built_again_and_told(loratrack_run: Any, sample: Any, cache: Path) -> None:
    settings = ("train.epochs=1", "register=false")
    first = loratrack_run(sample.config, *settings)
    (file,) = cache.glob("tokens/*/train.tokens.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    second = loratrack_run(sample.config, *settings)
    assert second.exit_code == 0, second.errors
    assert (
        f"token cache: the entry {file.parent} is damaged (train.tokens.npy does not match" in second.output
    )
    assert "damaged" not in first.output
    assert second.scores == first.scores
    assert file.read_bytes() != content


def test_a_store_that_does_not_answer_is_told(
    loratrack_run: Any, sample: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hidden@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    process = loratrack_run(sample.config)
    assert process.exit_code == 2
    assert (
        "loratrack: http://***@127.0.0.1:9: the tracking store must answer to start a run" in process.errors
    )
    assert "hidden" not in process.errors


FULL_DISKS = """
import os, subprocess, sys
from loratrack.cli import main

config, here = sys.argv[1:]
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{here}/mlruns/mlflow.db"
for place in ("cache/tokens", "mlruns/work"):
    os.environ["LORATRACK_CACHE"] = f"{here}/cache" if place == "cache/tokens" else f"{here}/more"
    os.makedirs(f"{here}/{place}", exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", f"{here}/{place}"], check=True)
    exit_code = main(["run", config])
    print("exit code", exit_code, "left", [files for _, _, files in os.walk(f"{here}/{place}") if files])
    subprocess.run(["umount", f"{here}/{place}"], check=True)
from mlflow import MlflowClient
print([run.info.status for run in MlflowClient().search_runs(["1"])])
print("exit code", main(["resume", "dual"]))
print([run.info.status for run in MlflowClient().search_runs(["1"])])
"""


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    trial = [unshare or "false", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a small disk")
def test_a_full_disk_is_told_and_nothing_half_written_stays(sample: Any, tmp_path: Path) -> None:
    command = ["unshare", "-rm", sys.executable, "-c", FULL_DISKS, str(sample.config), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ.copy())
    assert "Traceback" not in process.stderr, process.stderr
    exits = [line for line in process.stdout.splitlines() if line.startswith(("exit code", "["))]
    assert exits == [
        "exit code 2 left []",
        "exit code 75 left []",
        "['KILLED', 'FAILED']",
        "exit code 0",
        "['FINISHED', 'FAILED']",
    ], process.stdout + process.stderr
    assert (
        f"loratrack: {tmp_path}/cache/tokens: the token cache cannot be written: No space left"
        in process.stderr
    )
    assert f"{tmp_path}/mlruns/work/" in process.stdout
    assert (
        "the disk is full (0 MiB free) while writing the weights; nothing half-written is left"
        in process.stdout
    )
    assert re.search(r"^stopped \(the disk is full\) at epoch 0.0 of 2\ngo on with", process.stdout, re.M)
