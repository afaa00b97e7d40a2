"""MLflow's client: opened on our store, typed, with short requests, and its errors as ours.

for run in pages(lambda token: client.search_runs(experiment_ids, condition, page_token=token)): ...
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Protocol, TypeVar
from urllib.parse import quote

from loratrack.errors import StoreError, UserError
from loratrack.places import ARTIFACTS
from loratrack.store.place import database_file, store_folder, store_name, tracking_uri
from loratrack.store.relocation import here
from loratrack.store.secrets import scrub_text

EXPERIMENT = "loratrack"
"""Where runs go that have no project."""
EVENTS_EXPERIMENT = "registry-events"
"""Its runs are moves in the registry, not trainings."""
PARENT_TAG = "mlflow.parentRunId"
DESCRIPTION = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment."""
ERROR_TAG = "error"
STOPPED_TAG = "stopped"
"""The tag of a run that waits for `resume`: how far it is, and what goes on with it."""
"""Why a run failed."""
RUN_ID_PREFIX = re.compile(r"[0-9a-f]{4,32}")
"""A run id, or as much of its beginning as may stand for it."""
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Error codes for something that is not in the store."""
AUTOFLUSH = (
    "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block"
    " if this flush is occurring prematurely)\n"
)
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
"""Error codes that another try does not change; every other request is tried again."""

SHORT_REQUESTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
"""MLflow's own seven retries take four minutes, in which a server that is back goes unnoticed."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


# MLflow's own annotations do not pass mypy's strict mode, so what we use of its classes is written down here.


class Experiment(Protocol):
    artifact_location: str
    experiment_id: str
    name: str
    lifecycle_stage: str


class RunInfo(Protocol):
    run_id: str
    run_name: str
    experiment_id: str
    status: str
    lifecycle_stage: str
    start_time: int
    """Milliseconds, as all times of MLflow."""
    end_time: int | None
    artifact_uri: str

    def __iter__(self) -> Iterator[tuple[str, object]]: ...


class RunData(Protocol):
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]

    def to_dictionary(self) -> dict[str, object]: ...


class InputTag(Protocol):
    key: str
    value: str


class LoggedDataset(Protocol):
    name: str
    digest: str
    profile: str | None


class DatasetInput(Protocol):
    dataset: LoggedDataset
    tags: Sequence[InputTag]


class RunInputs(Protocol):
    dataset_inputs: Sequence[DatasetInput]


class Run(Protocol):
    info: RunInfo
    data: RunData
    inputs: RunInputs


class MetricPoint(Protocol):
    key: str
    value: float
    timestamp: int
    step: int


class FileInfo(Protocol):
    path: str
    is_dir: bool
    file_size: int | None


class ModelVersion(Protocol):
    name: str
    version: str
    run_id: str | None
    source: str
    current_stage: str
    description: str | None
    tags: Mapping[str, str]
    last_updated_timestamp: int


class RegisteredModel(Protocol):
    name: str
    aliases: Mapping[str, str]
    """Version numbers by alias."""
    latest_versions: Sequence[ModelVersion]
    """The newest version in each stage."""


class PagedList(Protocol[T_co]):
    token: str | None
    """What the next page is asked for with; None or empty on the last one."""

    def __iter__(self) -> Iterator[T_co]: ...


class RegistryClient(Protocol):
    """Behind MlflowClient; it writes without first asking whether the model is a prompt."""

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None: ...

    def delete_registered_model_alias(self, name: str, alias: str) -> None: ...

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> ModelVersion: ...

    def delete_model_version(self, name: str, version: str) -> None: ...

    def update_model_version(self, name: str, version: str, description: str) -> ModelVersion: ...

    def get_model_version_download_uri(self, name: str, version: str) -> str: ...


class Client(Protocol):
    """What we use of MlflowClient."""

    def get_experiment_by_name(self, name: str) -> Experiment | None: ...

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: Mapping[str, str] | None = None
    ) -> str: ...

    def search_experiments(
        self,
        *,
        max_results: int | None = 1000,
        filter_string: str | None = None,
        page_token: str | None = None,
    ) -> PagedList[Experiment]: ...

    def get_run(self, run_id: str) -> Run: ...

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str = "",
        *,
        max_results: int = 1000,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[Run]: ...

    def create_run(
        self,
        experiment_id: str,
        *,
        start_time: int | None = None,
        tags: Mapping[str, str] | None = None,
        run_name: str | None = None,
    ) -> Run: ...

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None: ...

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None: ...

    def set_tag(self, run_id: str, key: str, value: str) -> object: ...

    def delete_tag(self, run_id: str, key: str) -> None: ...

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[object] = (),
        params: Sequence[object] = (),
        tags: Sequence[object] = (),
    ) -> object: ...

    def log_inputs(self, run_id: str, datasets: Sequence[object] | None = None) -> None: ...

    def log_artifacts(self, run_id: str, local_dir: str) -> None: ...

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[FileInfo]: ...

    def get_metric_history(self, run_id: str, key: str) -> list[MetricPoint]: ...

    def create_registered_model(
        self, name: str, tags: Mapping[str, str] | None = None, description: str | None = None
    ) -> RegisteredModel: ...

    def get_registered_model(self, name: str) -> RegisteredModel: ...

    def search_registered_models(
        self,
        filter_string: str | None = None,
        *,
        max_results: int = 100,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[RegisteredModel]: ...

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        description: str | None = None,
    ) -> ModelVersion: ...

    def get_model_version(self, name: str, version: str) -> ModelVersion: ...

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion: ...

    def get_model_version_download_uri(self, name: str, version: str) -> str: ...

    def search_model_versions(
        self,
        filter_string: str | None = None,
        *,
        max_results: int = 10000,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[ModelVersion]: ...

    def _get_registry_client(self) -> RegistryClient: ...


def connect() -> Client:
    """An MlflowClient of `tracking_uri()`."""
    from mlflow import MlflowClient

    client: Client = MlflowClient(tracking_uri())
    return client


def pages(ask: Callable[[str | None], PagedList[T]]) -> Iterator[T]:
    """Every result of a search; `ask` sends the request for the page of this token, None for the first.

    A page is asked for when the one before it has been read, so stopping early saves requests.
    """
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


def _quoted_folder(name: str) -> str:
    """A name as a folder, quoted: MLflow unquotes the location of artifacts, a bare path too."""
    inside = re.sub(r"[/\\]|^\.+$", lambda part: "".join(f"%{ord(sign):02X}" for sign in part[0]), name)
    return re.sub("[%#?]", lambda sign: quote(sign[0]), inside)


def ensure_experiment(name: str) -> str:
    """The id of the experiment `name`, made when there is none; any number of processes may ask."""
    from mlflow.exceptions import MlflowException

    client = connect()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # In a database of ours artifacts lie below store_folder(), wherever the process runs; MLflow would
        # put them below the current folder. A server decides for itself.
        is_database = database_file(tracking_uri()) is not None
        location = str(store_folder() / ARTIFACTS / _quoted_folder(name)) if is_database else None
        try:
            client.create_experiment(name, artifact_location=location, tags=_experiment_tags(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
        experiment = client.get_experiment_by_name(name)
    assert experiment is not None, "it was there, or has been made"
    if experiment.lifecycle_stage != "active":
        raise StoreError(
            f"experiment {name!r}: must not be deleted; bring it back with"
            f" mlflow experiments restore -x {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def _experiment_tags(name: str) -> dict[str, str]:
    """What MLflow's list of experiments says of it; the kind opens it in the mode Model training."""
    about = (
        "Moves in the model registry, one run each: who made which version champion, when and why."
        " Written by loratrack promote and rollback; no trainings."
        if name == EVENTS_EXPERIMENT
        else f"Trainings; loratrack compare --filter experiment={name} sets them side by side."
    )
    return {DESCRIPTION: about, "mlflow.experimentKind": "custom_model_development"}


DELETED = "DELETED"
"""The status of a run that somebody has deleted, which MLflow keeps for a while."""


def status_of(run_id: str) -> str | None:
    """What the store says of the run, also DELETED; None where it knows no such run, or does not answer."""
    use_short_requests()
    with suppress(StoreError), answering():
        info = connect().get_run(run_id).info
        return DELETED if info.lifecycle_stage == "deleted" else str(info.status)
    return None


def names_of_files(run: Run, folder: str = "") -> list[str]:
    """The names of what the run keeps at the top, or in that folder of its artifacts."""
    from mlflow.artifacts import list_artifacts

    uri = f"{here(run.info.artifact_uri)}/{folder}".rstrip("/")
    with fetching(uri):
        files = list_artifacts(artifact_uri=uri, tracking_uri=tracking_uri())
    return [PurePosixPath(file.path).name for file in files]


def use_short_requests() -> None:
    for name, value in SHORT_REQUESTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def answering() -> Iterator[None]:
    """What MLflow cannot answer becomes a StoreError that names the store."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        fault = fault_text(error)
        raise StoreError(
            f"{store_name()}: the tracking store must answer, got: {fault}; {remedy_for(fault)}"
        ) from error


@contextmanager
def fetching(uri: str) -> Iterator[None]:
    """What the library behind a bucket or another place of files raises becomes a StoreError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, UserError):
        raise
    except Exception as error:
        fault = scrub_text((str(error).splitlines() or [""])[0])
        raise StoreError(
            f"{scrub_text(uri)}: the files must be within reach, got {type(error).__name__}: {fault};"
            " see that the address is right, its library installed, and that you have the right to read it"
        ) from error


def fault_text(error: Exception) -> str:
    """What MLflow says of an error, without secrets and without the SQL that it was found in."""
    text = str(error).partition("\n[SQL:")[0]
    return scrub_text(text.removeprefix(AUTOFLUSH))


def remedy_for(fault: str) -> str:
    """What to do about a store that answers with this."""
    if "readonly database" in fault:
        return "you may read it but not write it: ask its owner for the right to write, or copy the project"
    if "disk is full" in fault or "disk I/O error" in fault:
        return "free some space, and send what waits with loratrack sync"
    return "see that it is up and MLFLOW_TRACKING_URI names it"


def quoted(name: str) -> str:
    return f'"{name}"' if "'" in name else f"'{name}'"
