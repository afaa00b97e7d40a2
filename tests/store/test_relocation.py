"""A store that was moved or copied: what MLflow recorded leads to where the artifacts are now."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from loratrack.registry import register
from loratrack.store.client import connect, ensure_experiment


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    """A run with an artifact and a registered version, in the store of `tmp_path/mlruns`."""
    run_id = str(client.create_run(ensure_experiment("loratrack")).info.run_id)
    client.log_text(run_id, "whole", "model/told.txt")
    register.register(run_id, "intents", "model", {})
    return run_id


def opened_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    return connect()


def test_every_recorded_place_follows_a_move(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    new = tmp_path / "一 new" / "mlruns"
    new.parent.mkdir()
    shutil.move(tmp_path / "mlruns", new)
    with caplog.at_level(logging.WARNING):
        client = opened_in(new, monkeypatch)
        run_there = client.get_run(run_id).info.artifact_uri
    assert Path(run_there, "model", "told.txt").read_text() == "whole"
    assert client.get_model_version_download_uri("intents", "1") == f"{run_there}/model"
    assert client.get_experiment_by_name("loratrack").artifact_location == f"{new}/artifacts/loratrack"
    assert caplog.messages == [f"{new} was in {tmp_path}/mlruns before: 4 artifact paths are corrected"]


def test_a_copy_keeps_to_itself(run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tmp_path / "mlruns", tmp_path / "copy" / "mlruns")
    in_copy = opened_in(tmp_path / "copy" / "mlruns", monkeypatch).get_run(run_id).info.artifact_uri
    in_original = opened_in(tmp_path / "mlruns", monkeypatch).get_run(run_id).info.artifact_uri
    assert Path(in_copy).is_relative_to(tmp_path / "copy")
    assert Path(in_original).is_relative_to(tmp_path / "mlruns")


def test_another_way_to_the_same_place_changes_nothing(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    run_there = opened_in(tmp_path / "link" / "mlruns", monkeypatch).get_run(run_id).info.artifact_uri
    assert Path(run_there).is_relative_to(tmp_path / "mlruns")


def test_places_outside_the_folder_stay(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = f"{tmp_path}/mlruns-of-others/1"
    client.create_experiment("near", artifact_location=near)
    new = tmp_path / "new" / "mlruns"
    shutil.move(tmp_path / "mlruns", new)
    other = opened_in(new, monkeypatch)
    assert other.get_experiment_by_name("near").artifact_location == near
