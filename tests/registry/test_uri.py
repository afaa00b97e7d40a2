"""From the names of a model to its files, and what is said when there are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from loratrack.errors import StoreError, UserError
from loratrack.registry import uri
from loratrack.store.client import ensure_experiment
from loratrack.store.place import tracking_uri
from loratrack.tracking.registration import register

MODEL = {"flavors": {"python_function": {"loader_module": "loratrack.serving.pyfunc", "data": "data/bundle"}}}


@pytest.fixture
def run_id(client: MlflowClient, tmp_path: Path) -> str:
    """A run that keeps a model."""
    draft = tmp_path / "pyfunc"
    (draft / "data" / "bundle").mkdir(parents=True)
    (draft / "MLmodel").write_text(yaml.safe_dump(MODEL))
    (draft / "data" / "bundle" / "bundle.json").write_text("{}")
    run_id = new_run(client)
    client.log_artifacts(run_id, str(draft), "pyfunc")
    return run_id


def new_run(client: MlflowClient) -> str:
    return str(client.create_run(ensure_experiment("loratrack"), run_name="dual").info.run_id)


@pytest.fixture
def bundle(client: MlflowClient, run_id: str) -> Path:
    """Where the bundle lies of versions 1 and 2 of the model `intents`."""
    source = f"{client.get_run(run_id).info.artifact_uri}/pyfunc"
    client.create_registered_model("intents")
    for _ in range(2):
        client.create_model_version("intents", source, run_id)
    client.set_registered_model_alias("intents", "champion", "2")
    return Path(client.get_run(run_id).info.artifact_uri) / "pyfunc" / "data" / "bundle"


def fault(model: str) -> str:
    with pytest.raises(UserError) as caught:
        uri.fetch(model)
    return str(caught.value)


def test_each_name_of_a_registered_model_leads_to_its_bundle(client: MlflowClient, bundle: Path) -> None:
    assert (bundle / "bundle.json").is_file()
    assert uri.fetch("models:/intents@champion") == bundle
    assert uri.fetch("models:/intents/1") == bundle


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")  # MLflow's stages, which are asked for
def test_a_stage_leads_to_the_bundle_too(client: MlflowClient, bundle: Path) -> None:
    assert fault("models:/intents/Production") == (
        "models:/intents/Production: no version is in this stage; in use: no stage"
    )
    client.transition_model_version_stage("intents", "1", "Staging")
    assert uri.fetch("models:/intents/staging") == bundle
    assert fault("models:/intents/Production") == (
        "models:/intents/Production: no version is in this stage; in use: Staging (version 1)"
    )


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")  # MLflow's stages, which are asked for
def test_a_pinned_name_means_the_same_after_the_alias_has_moved(client: MlflowClient, bundle: Path) -> None:
    client.transition_model_version_stage("intents", "1", "Staging")
    assert uri.pinned("models:/intents@champion") == "models:/intents/2"
    assert uri.pinned("models:/intents/staging") == "models:/intents/1"
    assert uri.pinned("models:/intents/1") == "models:/intents/1"
    with pytest.raises(UserError, match="no such alias"):
        uri.pinned("models:/intents@chalenger")


def test_a_pinned_run_loses_its_path_and_a_folder_stays() -> None:
    assert uri.pinned("runs:/abc/pyfunc") == uri.pinned("runs:/abc") == "runs:/abc"
    assert uri.pinned("projects/model") == "projects/model"


def test_the_number_behind_the_name_is_the_one_that_is_read(client: MlflowClient, bundle: Path) -> None:
    other = new_run(client)
    client.log_artifacts(other, str(bundle.parents[1]), "pyfunc")
    register(client, other, "intents", {})
    found = uri.fetch("models:/intents/3")
    assert other in found.parts
    assert uri.fetch("models:/intents@champion") == bundle


def test_a_run_leads_to_its_bundle(run_id: str) -> None:
    bundle = uri.fetch(f"runs:/{run_id}")
    assert (bundle / "bundle.json").is_file()
    assert uri.fetch(f"runs:/{run_id}/pyfunc") == bundle


def test_a_folder_is_a_bundle_or_holds_one(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert uri.fetch("pyfunc") == Path("pyfunc/data/bundle")
    assert uri.fetch(str(tmp_path / "pyfunc/data/bundle")) == tmp_path / "pyfunc/data/bundle"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/intent/1", "models:/intent: no such registered model; did you mean 'intents'?"),
        ("models:/x@champion", "models:/x: no such registered model; the registry has intents"),
        (
            "models:/intents@champoin",
            "models:/intents@champoin: no such alias; did you mean 'champion'?; it has @champion (version 2)",
        ),
        ("models:/intents/3", "models:/intents/3: no such version; it has 1, 2"),
        (
            "models:/intents/Prod",
            "models:/intents/Prod: must be a number or one of Production, Staging, Archived, got 'Prod'",
        ),
        (
            "models:/intents",
            "models:/intents: must say which version, as @alias, /3 or /Production;"
            " of aliases it has @champion (version 2)",
        ),
        ("intents", "intents: must say which version, such as intents/1 or intents@champion"),
        ("intents/3", "intents/3: no such version; it has 1, 2; a model is FORMS"),
    ],
)
def test_a_name_of_nothing_is_told_with_what_there_is(bundle: Path, model: str, message: str) -> None:
    assert fault(model) == message.replace("FORMS", uri.FORMS)


def test_an_empty_registry_is_told(client: MlflowClient) -> None:
    assert fault("models:/x/1") == "models:/x: no such registered model; the registry is empty"


def test_a_run_that_is_not_there_is_told(client: MlflowClient) -> None:
    assert fault("runs:/abc") == f"runs:/abc: no such run in {tracking_uri()}"


def test_a_run_without_a_model_is_told(client: MlflowClient) -> None:
    run_id = new_run(client)
    client.log_text(run_id, "…", "notices.txt")
    assert fault(f"runs:/{run_id}") == (
        f"runs:/{run_id}: the run 'dual' (RUNNING) keeps no model at 'pyfunc', it has notices.txt"
    )


def test_files_that_are_gone_are_told(client: MlflowClient, bundle: Path) -> None:
    place = bundle.parents[1]
    shutil.rmtree(place)
    assert fault("models:/intents/1") == (
        f"intents version 1: its files are not in {place} any more; put the folder back"
    )


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(yaml.safe_dump({"flavors": {"sklearn": {}}}))
    assert (
        fault(str(tmp_path)) == f"{tmp_path}: must be a model that loratrack saved, got one of another kind"
    )


def test_a_store_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hidden@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreError, match="the tracking store must answer, got") as caught:
        uri.fetch("models:/intents/1")
    assert "hidden" not in str(caught.value)


def test_links_that_lead_in_a_circle_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(yaml.safe_dump(MODEL))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bundle").symlink_to("bundle")
    assert fault(str(tmp_path)).startswith(f"{tmp_path / 'MLmodel'}: data must lie inside the model")


@pytest.mark.parametrize("key", ["code", "model_code_path"])
def test_a_model_that_brings_code_for_mlflow_is_refused(tmp_path: Path, key: str) -> None:
    """MLflow puts that folder before all others when it loads the champion: a `peft.py` in it would run."""
    flavor = {**MODEL["flavors"]["python_function"], key: "code"}
    (tmp_path / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": flavor}}))
    (tmp_path / "data" / "bundle").mkdir(parents=True)
    assert fault(str(tmp_path)) == (
        f"{tmp_path / 'MLmodel'}: must not bring code, got {key};"
        " it would run wherever MLflow loads this model"
    )


def test_files_out_of_reach_are_one_message(client: MlflowClient) -> None:
    """Without its library, an address, or the right to read."""
    client.create_registered_model("far")
    client.create_model_version("far", "gs://no-such-bucket/model")
    assert fault("models:/far/1").startswith(
        "gs://no-such-bucket/model: the files must be within reach, got "
    )
    assert "no such version" in fault(f"models:/far/{'9' * 18}")
    assert "must be a number or one of" in fault(f"models:/far/{'9' * 5000}")
