"""Registration: how a run's model becomes a version of a registered model, once for each run and name."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.exceptions import MlflowException

from loratrack.errors import StoreError
from loratrack.places import PYFUNC
from loratrack.store.client import Client, answering, connect, pages

ABOUT = (
    "The version with the alias `champion` is the one that serves: `models:/{name}@champion`."
    " `loratrack promote` and `loratrack rollback` move it after they have looked at the model;"
    " `loratrack history {name}` shows who did and why."
)
"""The description of a registered model."""
ATTEMPTS = 5
"""Registrations at the same instant draw the same number; MLflow lets one of them win."""


def register(client: Client, run_id: str, name: str, tags: Mapping[str, str], description: str = "") -> int:
    """The number of the version of `name` that is this run's model, made where there is none yet.

    The registered model is made when it is missing. Any number of processes may register at once. StoreError
    when the run keeps no model; MLflow's own errors come as they are.
    """
    number = version_of(client, run_id, name)
    if number is not None:
        return number
    names = [file.path for file in client.list_artifacts(run_id)]
    if PYFUNC not in names:
        raise StoreError(
            f"run {run_id}: must keep the model at {PYFUNC!r}, got {names};"
            " if it still waits in the outbox, send it with loratrack sync"
        )
    try:
        client.create_registered_model(name, description=ABOUT.format(name=name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/{PYFUNC}"
    for attempt in range(ATTEMPTS):
        try:
            version = client.create_model_version(
                name, source, run_id=run_id, tags=dict(tags), description=description or None
            )
            return int(version.version)
        except MlflowException as error:
            is_race = "Giving up after" in str(error) or error.error_code == "TEMPORARILY_UNAVAILABLE"
            if not is_race or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def version_of(client: Client, run_id: str, name: str) -> int | None:
    """The version of `name` that is this run's model."""
    found = pages(lambda token: client.search_model_versions(f"run_id = '{run_id}'", page_token=token))
    return min((int(version.version) for version in found if version.name == name), default=None)


def registered(run_id: str, name: str) -> int | None:
    """The same, asked of the tracking store; None also while that does not answer."""
    try:
        with answering():
            return version_of(connect(), run_id, name)
    except StoreError:
        return None
