"""Secrets of a config are hidden before anything is written, and what is written still works."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import loratrack as lt
from loratrack.config import RunConfig
from loratrack.errors import ConfigError
from loratrack.experiments.hiding import storable

CANARY = "c4n4ry-Sq5x"
DESCRIPTION = (
    f"basic LoRA-r16 run, basic baseline_v2; 密码：{CANARY}-1, api key {CANARY}2c4n4ry, pw={CANARY}-3"
)


@pytest.fixture
def config_file(tiny_project: Path) -> Path:
    """Everyday words that look like secrets, and secrets that look like everyday words."""
    settings = json.loads((tiny_project / "projects/tiny/dual.yaml").read_text("utf-8"))
    settings |= {"exp_id": "sk-learn-baseline-comparison", "description": DESCRIPTION}
    labels = settings["data"]["label_subset"]
    settings["data"] |= {
        "label_subset": {"secret": labels["risk"], "token": labels["adopt"]},
        "label_columns": {"secret": "risk", "token": "adopt"},
        "data_process_version": f"v2 token={CANARY}-4",
    }
    settings["train"] |= {"save_strategy": "best_secret_f1", "epochs": 1}
    file = tiny_project / "projects/tiny/words.yaml"
    file.write_text(json.dumps(settings, ensure_ascii=False), "utf-8")
    return file


def files_with(text: str, *folders: Path) -> list[Path]:
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 20
    return [file for file in files if text.encode() in file.read_bytes()]


@pytest.mark.slow
def test_what_is_hidden_still_loads_serves_is_promoted_and_reproduced(
    config_file: Path, tiny_project: Path, sample: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LORATRACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEAM_TOKEN", f"{CANARY}variable")
    data = tmp_path / f"data {CANARY}variable"
    data.mkdir()
    (data / "train.csv").write_bytes((sample.folder / "train.csv").read_bytes())
    result = lt.train(lt.load(config_file, f"data.raw_data_path={data}/train.csv"))
    assert result.folder is not None
    assert result.version is not None

    frozen = lt.load(result.folder / "config_copy.yaml")
    assert frozen.exp_id == "sk-learn-baseline-comparison"
    assert frozen.description == "basic LoRA-r16 run, basic baseline_v2; 密码：***, api key ***, pw=***"
    assert frozen.data.data_process_version == "v2 token=***"
    assert frozen.data.label_columns == {"secret": "risk", "token": "adopt"}
    assert frozen.data.raw_data_path == f"{tmp_path}/data ***/train.csv"
    params = MlflowClient().get_run(result.run_id).data.params
    assert params["data.label_columns.secret"] == "risk"
    assert files_with(CANARY, tiny_project / "mlruns", tmp_path / "cache") == []

    assert set(lt.Classifier(result.folder).classify("a loud note")) == {"secret", "token"}
    lt.promote(result.version)
    assert MlflowClient().get_model_version_by_alias("tiny", "champion").run_id == result.run_id
    os.rename(data, tmp_path / "data ***")  # a hidden path is read again where it says
    assert lt.reproduce(result.run_id, check=True).check.is_equal  # type: ignore[union-attr]


@pytest.mark.slow
def test_what_a_sweep_keeps_is_hidden_too(config_file: Path, tiny_project: Path) -> None:
    sweep = "sweep={name: hidden, trials: 1, space: {train.seed: {choice: [1, 2]}}}"
    result = lt.sweep(lt.load(config_file, sweep))
    assert result.is_concluded
    assert files_with(CANARY, tiny_project / "mlruns") == []


@pytest.fixture
def config(sample: Any) -> RunConfig:
    loaded = lt.load(sample.config)
    assert isinstance(loaded, RunConfig)
    return loaded


def test_a_secret_in_a_name_is_refused_before_the_run(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "q7Zx19LmPw03")
    named = config.model_copy(update={"exp_id": "a-q7Zx19LmPw03", "project": "AKIAC4N4RY4444444444"})
    with pytest.raises(ConfigError) as fault:
        storable(named)
    assert str(fault.value) == (
        "a-***: 2 invalid names\n"
        "  exp_id: must not hold a secret, got 'a-***'; choose another name\n"
        "  project: must not hold a secret, got '***'; choose another name"
    )


def test_everyday_words_of_variables_are_hidden_in_texts_only(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "baseline")
    named = config.model_copy(update={"exp_id": "baseline", "description": "baseline of all"})
    assert (storable(named).exp_id, storable(named).description) == ("baseline", "*** of all")


def test_what_holds_no_secret_is_stored_as_it_is(config: RunConfig) -> None:
    assert storable(config) == config
    assert storable(storable(config)) == storable(config)
