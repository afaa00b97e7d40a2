"""The model registry: how a run's model becomes a version of a registered model."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.exceptions import MlflowException

from loratrack.errors import StoreError
from loratrack.store import secrets
from loratrack.store.client import Client, connect

ATTEMPTS = 5
"""Registrations at the same instant draw the same number; MLflow lets one of them win."""


def register(run_id: str, name: str, artifact_path: str, tags: Mapping[str, str]) -> int:
    """Make what the run keeps at `artifact_path` the next version of `name`; gives its number.

    The registered model is made when it is missing. Any number of processes may register at once.
    """
    client = connect()
    try:
        _ensure_model(client, name)
        source = _source(client, run_id, artifact_path)
        return _new_version(client, name, source, run_id, secrets.scrub_values(tags))
    except MlflowException as error:
        fault = secrets.scrub_text(str(error))
        raise StoreError(f"registered model {name!r}: the registry must take it, got: {fault}") from error


def _ensure_model(client: Client, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _source(client: Client, run_id: str, artifact_path: str) -> str:
    kept = [file.path for file in client.list_artifacts(run_id)]
    if artifact_path not in kept:
        raise StoreError(
            f"run {run_id}: must keep the model at {artifact_path!r}, got {kept};"
            " if they still wait in the outbox, send them with loratrack sync"
        )
    return f"{client.get_run(run_id).info.artifact_uri}/{artifact_path}"


def _new_version(client: Client, name: str, source: str, run_id: str, tags: Mapping[str, str]) -> int:
    for attempt in range(ATTEMPTS):
        try:
            version = client.create_model_version(name, source, run_id=run_id, tags=dict(tags))
            return int(version.version)
        except MlflowException as error:
            is_race = "Giving up after" in str(error) or error.error_code == "TEMPORARILY_UNAVAILABLE"
            if not is_race or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")
