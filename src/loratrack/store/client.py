"""MLflow's client: opened on our store, with short requests, and its errors as ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from loratrack.errors import StoreError
from loratrack.places import ARTIFACTS
from loratrack.store.place import database_file, store_folder, store_name, tracking_uri
from loratrack.store.secrets import scrub_text

EXPERIMENT = "loratrack"
"""Where runs go when nobody names an experiment."""
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Error codes for something that is not in the store."""
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
"""Answers that another try does not change; everything else is tried again."""

SHORT_REQUESTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
"""MLflow's own seven retries take four minutes, in which a server that is back goes unnoticed."""


def connect() -> Any:
    """An MlflowClient of `tracking_uri()`."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri())


def ensure_experiment(name: str) -> str:
    """The id of the experiment `name`, made when there is none; any number of processes may ask."""
    from mlflow.exceptions import MlflowException

    mlflow_client = connect()
    if mlflow_client.get_experiment_by_name(name) is None:
        try:
            mlflow_client.create_experiment(name, artifact_location=_artifact_location(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    experiment = mlflow_client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise StoreError(
            f"experiment {name!r}: must not be deleted; bring it back with"
            f" mlflow experiments restore -x {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


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
        raise StoreError(
            f"{store_name()}: the tracking store must answer, got: {scrub_text(str(error))};"
            " see that it is up and MLFLOW_TRACKING_URI names it"
        ) from error


def quoted(name: str) -> str:
    return f'"{name}"' if "'" in name else f"'{name}'"


def _artifact_location(name: str) -> str | None:
    """Below `store_folder()`, wherever the process runs; a server decides for itself."""
    if database_file(tracking_uri()) is None:
        return None
    return str(store_folder() / ARTIFACTS / quote(name, safe=" "))
