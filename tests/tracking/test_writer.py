import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param

from loratrack.errors import StoreError
from loratrack.store.client import ensure_experiment
from loratrack.store.place import store_folder, store_name
from loratrack.tracking import writer
from loratrack.tracking.outbox import Outbox
from loratrack.tracking.shipper import sync
from loratrack.tracking.writer import RunWriter

SHA256 = "0123456789abcdef" * 4


def start(
    name: str = "exp_v1", params: Mapping[str, object] | None = None, experiment: str = "loratrack"
) -> RunWriter:
    return RunWriter.start(name=name, params=params or {}, tags={"exp_id": name}, experiment=experiment)


def test_a_run_holds_what_it_was_told(client: MlflowClient, tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "plots").mkdir(parents=True)
    (files / "plots" / "loss.png").write_bytes(b"png")
    (files / "config_copy.yaml").write_text("exp_id: exp_v1\n")
    (files / "config_copy.yaml").chmod(0o444)
    run = start(params={"train.lr": 2e-5, "data.text_column": ("a", "文")})
    for epoch in range(3):
        run.log_metrics({"f1": epoch / 2, "train/loss": 1 / (epoch + 1)}, step=epoch)
    run.log_dataset("train.csv", "data/train.csv", SHA256, "training", 120)
    run.log_artifacts(files)
    assert run.finish("FINISHED")

    run_there = client.get_run(run.run_id)
    assert (run_there.info.run_name, run_there.info.status) == ("exp_v1", "FINISHED")
    assert run_there.data.params == {"train.lr": "2e-05", "data.text_column": '["a", "文"]'}
    assert run_there.data.tags["exp_id"] == "exp_v1"
    assert [m.value for m in client.get_metric_history(run.run_id, "f1")] == [0, 0.5, 1]
    [dataset] = run_there.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("train.csv", SHA256[:32])
    assert {tag.key: tag.value for tag in dataset.tags} == {
        "mlflow.data.context": "training",
        "sha256": SHA256,
    }
    assert [file.path for file in client.list_artifacts(run.run_id)] == ["config_copy.yaml", "plots"]
    assert any(name.startswith("system/cpu") for name in run_there.data.metrics)


def test_a_run_goes_to_the_experiment_of_its_project_unless_the_user_names_one(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def experiment_of(run: RunWriter) -> str:
        assert run.finish("FINISHED")
        return str(client.get_experiment(run.experiment_id).name)

    assert experiment_of(start(experiment="clinc")) == "clinc"
    assert experiment_of(start()) == "loratrack"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert experiment_of(start(experiment="clinc")) == "mine"


def test_runs_that_would_be_called_the_same_are_numbered(client: MlflowClient) -> None:
    def name_of(name: str) -> str:
        run = RunWriter.start(name=name, params={}, tags={"exp_id": "exp_v1"}, is_numbered=True)
        assert run.finish("FINISHED")
        return str(client.get_run(run.run_id).info.run_name)

    names = ("exp_v1", "exp_v1", "exp_v1 rank=8", "exp_v1", "exp_v1 rank=8")
    assert [name_of(name) for name in names] == [
        *("exp_v1", "exp_v1 #2", "exp_v1 rank=8", "exp_v1 #3", "exp_v1 rank=8 #2")
    ]


def test_finished_runs_leave_nothing_in_the_outbox(client: MlflowClient) -> None:
    run = start()
    run.log_metrics({"f1": 1.0}, step=1)
    assert run.finish("FINISHED")
    outbox = Outbox(store_folder(), store_name())
    assert outbox.next_step(run.run_id, "f1") == 0
    assert list((store_folder() / "outbox" / "locks").glob(f"{run.run_id}*")) == []
    outbox.close()


def test_a_run_joins_the_one_that_mlflow_made_once(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = client.create_run(ensure_experiment("other"), run_name="bold-fox").info
    client.log_batch(made.run_id, params=[Param("config", "a.yaml"), Param("set", "''")])
    monkeypatch.setenv("MLFLOW_RUN_ID", made.run_id)
    joined = start("exp_v2", {"config": "b.yaml", "train.epochs": 2})
    second = start("exp_v3")
    assert (joined.run_id, joined.experiment_id) == (made.run_id, made.experiment_id)
    assert second.run_id != made.run_id
    assert "MLFLOW_RUN_ID" not in os.environ
    assert joined.finish("FINISHED")
    assert second.finish("FINISHED")
    run_there = client.get_run(made.run_id)
    assert run_there.info.run_name == "exp_v2"
    assert run_there.data.params == {"config": "a.yaml", "set": "''", "train.epochs": "2"}


def test_a_run_that_resumes_tells_no_step_twice(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = start()
    for step in range(4):
        first.log_metrics({"loss": float(step), "system/epoch_seconds": 1.0}, step)
    assert first.finish("KILLED")
    monkeypatch.setenv("MLFLOW_RUN_ID", first.run_id)
    again = start()
    assert client.get_run(first.run_id).info.status == "RUNNING"
    for step in (2, 3, 4):
        again.log_metrics({"loss": float(step) if step != 3 else 9.0, "system/epoch_seconds": 2.0}, step)
    assert again.finish("FINISHED")
    history = client.get_metric_history(first.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, step) for step in range(5)]
    assert [record.getMessage() for record in caplog.records if record.name == writer.__name__] == [
        "step 3: loss was 3.0 and is now 9.0; the first stays"
    ]


def test_a_child_run_knows_its_parent(client: MlflowClient) -> None:
    parent = start("sweep")
    child = RunWriter.start(name="trial_0", params={}, tags={}, parent_run_id=parent.run_id)
    assert child.finish("FINISHED")
    assert parent.finish("FINISHED")
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def test_the_experiment_is_the_one_the_user_names(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team")
    run = start()
    assert run.finish("FINISHED")
    assert client.get_experiment(run.experiment_id).name == "team"


def test_a_refused_metric_costs_no_other(client: MlflowClient) -> None:
    run = start()
    run.log_metrics({"f1": 0.5, "bad(name": 1.0}, step=1)
    run.log_metrics({"f1": 0.6}, step=2)
    assert not run.finish("FINISHED")
    assert [m.value for m in client.get_metric_history(run.run_id, "f1")] == [0.5, 0.6]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    report = sync(store_folder(), store_name(), client)
    assert report.waiting == 0
    [(run_id, reason)] = report.refused
    assert run_id == run.run_id
    assert "bad(name" in reason


def test_a_deleted_run_does_not_hold_up_the_next_one(client: MlflowClient) -> None:
    gone, other = start(), start("exp_v2")
    assert gone.flush()
    client.delete_run(gone.run_id)
    gone.log_metrics({"f1": 1.0, "loss": 0.1}, step=1)
    assert not gone.finish("FINISHED")
    assert other.finish("FINISHED")


def test_read_only_files_may_be_told_again(client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    file = tmp_path / "files" / "config_copy.yaml"
    run = start()
    for text in ("exp_id: a\n", "exp_id: b\n"):
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(0o444)
        run.log_artifacts(file.parent)
    assert run.finish("FINISHED")
    stored = Path(client.download_artifacts(run.run_id, file.name))
    assert stored.read_text() == "exp_id: b\n"
    assert stored.stat().st_mode & 0o777 == 0o444


def test_an_unknown_run_cannot_be_joined(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(StoreError, match=r"MLFLOW_RUN_ID: must be a run of sqlite:.*, got '0{32}'"):
        start()


def test_a_new_run_needs_a_store_that_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:pass-word@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(StoreError, match=r"^http://\*\*\*@127.0.0.1:9: the tracking store must") as told:
        start()
    assert "pass-word" not in str(told.value)


def test_the_room_opens_without_torch() -> None:
    code = "import sys, loratrack.tracking.writer, loratrack.tracking.environment as e; e.environment()"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_ends_as_its_first_end_says(client: MlflowClient) -> None:
    """A second Ctrl-C while it waits for the store does not make a finished run a killed one."""
    run = start()
    assert run.finish("FINISHED")
    run.finish("KILLED", 0)
    assert sync(store_folder(), store_name(), client).waiting == 0
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_whoever_is_in_a_hurry_does_not_wait_for_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MLproject").write_text("name: loratrack\n")  # else the folder of the user
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    run = start()
    began = time.monotonic()
    assert not run.finish("FINISHED", is_urgent=lambda: True)
    assert time.monotonic() - began < writer.GIVE_UP_SECONDS / 4


def test_a_deleted_run_does_not_go_on_and_the_message_says_how_it_may(client: MlflowClient) -> None:
    run = start()
    assert run.finish("KILLED")
    client.delete_run(run.run_id)
    with pytest.raises(StoreError) as caught:
        RunWriter.attach(run.run_id)
    assert str(caught.value) == (
        f"the run to go on with: must be a run of {store_name()}, got '{run.run_id}'; where it was deleted,"
        f" mlflow runs restore --run-id {run.run_id} brings it back"
    )
