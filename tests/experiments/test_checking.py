"""What is wrong with an experiment is told at once, before MLflow, torch or the store is opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loratrack.errors import ConfigError, UserError
from loratrack.experiments.checking import check
from loratrack.experiments.loading import load_run, load_search

BAD_ROWS = "text,label\ncalm,low\n,high\nloud, low\nmild,hgih\n" + "loud,high\n" * 10
PROGRAM = """
import sys
from loratrack.cli import main
code = main(sys.argv[1:])
print(code, [name for name in ("torch", "mlflow", "optuna", "transformers", "pandas") if name in sys.modules])
"""


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    (tmp_path / "bad.csv").write_text(BAD_ROWS)
    file = tmp_path / "bad.yaml"
    file.write_text("exp_id: bad\ndata: {raw_data_path: bad.csv, label_subset: [low, high]}\n")
    return file


def problems(folder: Path) -> str:
    file = folder / "bad.csv"
    return (
        "bad: 3 problems in the data\n"
        f"  {file}: the text is empty at line 3; fill or delete these rows, or set data.empty_text: drop\n"
        f"  {file}: the label 'label' has space around it at line 4, got ' low'\n"
        f"  {file}: the label 'label' must be one of the task's 2, got 'hgih' at line 5; did you mean 'high'?"
        "; correct them, add them to data.label_subset, or set data.unknown_label: drop"
    )


def test_the_data_and_the_base_are_told_at_once(bad: Path) -> None:
    with pytest.raises(UserError) as caught:
        check(load_run(bad, ["model.arch=minilmm"]))
    of_the_data, of_the_base = str(caught.value).split("\nmodel.arch: ")
    assert of_the_data == problems(bad.parent)
    assert "'minilmm'; did you mean 'minilm'?" in of_the_base


def test_a_wrong_setting_does_not_hide_the_data(bad: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run(bad, ["train.epohs=2"])
    assert str(caught.value) == (
        f"{bad}: 1 invalid setting\n"
        "  train.epohs: no such setting; did you mean train.epochs? (in --set train.epohs=2)\n"
        f"{problems(bad.parent)}"
    )
    with pytest.raises(ConfigError) as caught:  # what the data should hold is not known then
        load_run(bad, ["data.text=2"])
    assert "in the data" not in str(caught.value)


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_no_heavy_library_and_no_store_is_opened(bad: Path, tmp_path: Path, command: str) -> None:
    if command == "sweep":
        bad.write_text(
            bad.read_text()
            + "sweep: {name: s, trials: 2, metric: f1, space: {train.lr: {log: [1e-4, 1e-2]}}}"
        )
    store = tmp_path / "mlruns"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, command, str(bad)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert process.stdout == "2 []\n"
    assert process.stderr == f"loratrack: {problems(bad.parent)}\n"
    assert not store.exists()


def test_a_hub_that_is_away_makes_no_run(bad: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("text,label\ncalm,low\nloud,high\nstill,low\nshrill,high\nmild,low\n")
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, "run", str(bad), "--set", "model.arch=nobody/nothing"],
        env=os.environ
        | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "model.arch: http://127.0.0.1:9 cannot be reached for 'nobody/nothing'" in process.stderr
    assert not (tmp_path / "mlruns").exists()
    assert process.stdout == "2 []\n"


def test_of_a_sweep_over_bases_each_base_is_looked_at(sample: Any) -> None:
    space = {"model.arch": {"choice": [str(sample.base), "./nowhere"]}}
    sweep = f"sweep={{name: s, trials: 2, metric: avg_f1, space: {space}}}"
    config = load_search(sample.config, [sweep])
    with pytest.raises(UserError, match=r"^model.arch: no such folder, got '.*nowhere'"):
        check(config)
