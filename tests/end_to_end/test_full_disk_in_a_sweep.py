"""The disk is full in the middle of a sweep: it stops, and the same command goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.test_bad_input import can_mount

FULL_DISK = """
import os, subprocess, sys
from loratrack.cli import main

config, here = sys.argv[1:]
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{here}/mlruns/mlflow.db"
work = f"{here}/mlruns/work"
os.makedirs(work)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", work], check=True)
print("exit code", main(["sweep", config]))
subprocess.run(["umount", work], check=True)
print("exit code", main(["sweep", config]))
from mlflow import MlflowClient
print(sorted((run.info.run_name, run.info.status) for run in MlflowClient().search_runs(["1"])))
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a small disk")
def test_a_full_disk_stops_a_sweep_and_fails_no_trial(sample: Any, tmp_path: Path) -> None:
    config = sample.folder / "full.yaml"
    space = {"train.lr": {"log": [1e-3, 5e-2]}}
    sweep = {"name": "full", "trials": 2, "pruner": "none", "parallel": 1, "space": space}
    config.write_text(json.dumps({"base_config": "dual.yaml", "register": False, "sweep": sweep}))
    command = ["unshare", "-rm", sys.executable, "-c", FULL_DISK, str(config), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ.copy())
    output = process.stdout + process.stderr
    assert "stopped (the disk is full); 0 trials done; the same command goes on" in output, output
    assert process.stdout.count("exit code 75") == 1, output
    assert process.stdout.splitlines()[-2:] == [
        "exit code 0",
        "[('full', 'FINISHED'), ('full-0', 'FINISHED'), ('full-1', 'FINISHED')]",
    ], output
