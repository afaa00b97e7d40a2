"""A store that was moved or copied: what MLflow recorded leads to where the artifacts are now."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from loratrack.errors import StoreError
from loratrack.registry import uri
from loratrack.store import leases, relocation
from loratrack.store.client import connect, ensure_experiment
from loratrack.store.place import tracking_uri
from loratrack.tracking import artifacts


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    """A run with an artifact and a registered version, in the store of `tmp_path/mlruns`."""
    run_id = str(client.create_run(ensure_experiment("loratrack")).info.run_id)
    client.log_text(run_id, "whole", "pyfunc/MLmodel")
    relocation.follow(tracking_uri())
    client.create_registered_model("intents")
    client.create_model_version("intents", f"{client.get_run(run_id).info.artifact_uri}/pyfunc", run_id)
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
    client = opened_in(new, monkeypatch)
    with caplog.at_level(logging.WARNING):
        relocation.follow(tracking_uri())
        run_there = client.get_run(run_id).info.artifact_uri
    assert Path(run_there, "pyfunc", "MLmodel").read_text() == "whole"
    assert client.get_model_version_download_uri("intents", "1") == f"{run_there}/pyfunc"
    assert client.get_experiment_by_name("loratrack").artifact_location == f"{new}/artifacts/loratrack"
    assert caplog.messages == [f"{new} was in {tmp_path}/mlruns before: 4 artifact paths are corrected"]


def test_a_copy_keeps_to_itself(run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tmp_path / "mlruns", tmp_path / "copy" / "mlruns")
    copied = opened_in(tmp_path / "copy" / "mlruns", monkeypatch)
    relocation.follow(tracking_uri())
    in_copy = copied.get_run(run_id).info.artifact_uri
    in_original = opened_in(tmp_path / "mlruns", monkeypatch).get_run(run_id).info.artifact_uri
    assert Path(in_copy).is_relative_to(tmp_path / "copy")
    assert Path(in_original).is_relative_to(tmp_path / "mlruns")


def test_another_way_to_the_same_place_changes_nothing(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    client = opened_in(tmp_path / "link" / "mlruns", monkeypatch)
    relocation.follow(tracking_uri())
    run_there = client.get_run(run_id).info.artifact_uri
    assert Path(run_there).is_relative_to(tmp_path / "mlruns")


def test_places_outside_the_folder_stay(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = f"{tmp_path}/mlruns-of-others/1"
    client.create_experiment("near", artifact_location=near)
    new = tmp_path / "new" / "mlruns"
    shutil.move(tmp_path / "mlruns", new)
    other = opened_in(new, monkeypatch)
    relocation.follow(tracking_uri())
    assert other.get_experiment_by_name("near").artifact_location == near


def test_who_only_reads_finds_everything_and_changes_nothing(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new" / "mlruns"
    shutil.copytree(tmp_path / "mlruns", new)
    shutil.rmtree(tmp_path / "mlruns")
    client = opened_in(new, monkeypatch)
    run = client.get_run(run_id)
    kept = artifacts.fetch(run, ["pyfunc"], tmp_path / "fetched")
    assert (kept["pyfunc"] / "MLmodel").read_text() == "whole"
    assert uri._local(relocation.here(f"{run.info.artifact_uri}/pyfunc"), "the run").is_relative_to(new)
    artifacts.restore(run, tmp_path / "restored")
    assert (tmp_path / "restored" / "pyfunc" / "MLmodel").read_text() == "whole"
    assert Path(client.get_run(run_id).info.artifact_uri).is_relative_to(tmp_path / "mlruns")
    assert relocation.recorded(new / "mlflow.db") == tmp_path / "mlruns"


def test_paths_are_not_moved_under_a_living_run(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a container: another path to the same files, where the first path leads nowhere."""
    new = tmp_path / "new" / "mlruns"
    lease = leases.take(tmp_path / "mlruns", run_id)
    assert lease is not None
    new.parent.mkdir()
    (tmp_path / "mlruns").rename(new)
    client = opened_in(new, monkeypatch)
    with pytest.raises(StoreError) as caught:
        relocation.follow(tracking_uri())
    assert str(caught.value) == (
        f"{new}: its artifact paths lead to {tmp_path}/mlruns, and run {run_id} is being written;"
        f" use the store as {tmp_path}/mlruns, or wait until that run has ended"
    )
    assert Path(client.get_run(run_id).info.artifact_uri).is_relative_to(tmp_path / "mlruns")
    lease.close()
    relocation.follow(tracking_uri())
    assert Path(client.get_run(run_id).info.artifact_uri).is_relative_to(new)
