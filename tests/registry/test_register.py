import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from loratrack.errors import StoreError
from loratrack.registry.register import register
from loratrack.tracking.writer import RunWriter


@pytest.fixture
def run_id(client: MlflowClient, tmp_path: Path) -> str:
    """A finished run that keeps a model."""
    (tmp_path / "files" / "model").mkdir(parents=True)
    (tmp_path / "files" / "model" / "MLmodel").write_text("flavors: {}\n")
    run = RunWriter.start(name="exp_v1", params={}, tags={})
    run.log_artifacts(tmp_path / "files")
    assert run.finish("FINISHED")
    return run.run_id


def test_versions_count_from_one_and_know_their_run(client: MlflowClient, run_id: str) -> None:
    assert register(run_id, "clinc", "model", {"exp_id": "exp_v1", "best_f1": "0.95"}) == 1
    assert register(run_id, "clinc", "model", {}) == 2
    version = client.get_model_version("clinc", "1")
    assert (version.run_id, version.tags) == (run_id, {"exp_id": "exp_v1", "best_f1": "0.95"})
    artifact_uri = client.get_run(run_id).info.artifact_uri
    assert client.get_model_version_download_uri("clinc", "1") == f"{artifact_uri}/model"


REGISTER_TEN = """
import sys
from loratrack.registry.register import register
for _ in range(10):
    register(sys.argv[1], "clinc", "model", {})
"""


@pytest.mark.slow
def test_processes_may_register_at_once(client: MlflowClient, run_id: str) -> None:
    command = [sys.executable, "-c", REGISTER_TEN, run_id]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    versions = client.search_model_versions("name = 'clinc'")
    assert sorted(int(version.version) for version in versions) == list(range(1, 21))


def test_a_model_that_is_not_there_is_told(client: MlflowClient, run_id: str) -> None:
    with pytest.raises(StoreError, match=r"must keep the model at 'adapter', got \['model'\]; if they still"):
        register(run_id, "clinc", "adapter", {})
