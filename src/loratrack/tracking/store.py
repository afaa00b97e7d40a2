"""Where the store is, and its first use: a database is seen whole or not at all."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import platformdirs

from loratrack.errors import StoreError
from loratrack.places import ARTIFACTS, STORE, database_uri, our_project
from loratrack.tracking import moved

SQLITE = "sqlite:///"
EXPERIMENT = "loratrack"
"""Where runs go when nobody names an experiment."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the database in `folder()`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or database_uri(folder())


def folder() -> Path:
    """Where everything of ours on disk lies: beside the database file, else in the project's mlruns.

    Outside our project, and with a tracking server, it is the user's data folder.
    """
    file = database_file(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if file is not None:
        return file.parent
    project = our_project()
    return project / STORE if project else Path(platformdirs.user_data_dir("loratrack")) / STORE


def database_file(uri: str) -> Path | None:
    """The file behind a SQLite URI, absolute; None for any other store."""
    path = uri.removeprefix(SQLITE).partition("?")[0]
    is_file = uri.startswith(SQLITE) and path not in ("", ":memory:")
    return Path(path).absolute() if is_file else None


def client() -> Any:
    """An MlflowClient of `tracking_uri()`."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri())


def ensure_experiment(name: str) -> str:
    """The id of the experiment `name`, made when there is none; any number of processes may ask."""
    from mlflow.exceptions import MlflowException

    mlflow_client = client()
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


def open_tracking_store(uri: str, artifact_root: str | None = None) -> Any:
    """MLflow's own store for a SQLite URI, after `initialise`."""
    from mlflow.tracking._tracking_service.utils import _get_sqlalchemy_store

    initialise(uri)
    root = artifact_root or os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    return _keeping_killed(_get_sqlalchemy_store(uri, root))


def _keeping_killed(opened: Any) -> Any:
    """`mlflow run` marks a run FAILED after Ctrl-C, also one that has ended itself as KILLED."""
    from mlflow.entities import RunStatus

    update = opened.update_run_info

    def update_run_info(
        run_id: str, run_status: int | None, end_time: int | None, run_name: str | None
    ) -> Any:
        if run_status == RunStatus.FAILED and opened.get_run(run_id).info.status == "KILLED":
            run_status = end_time = None
        return update(run_id, run_status, end_time, run_name)

    opened.update_run_info = update_run_info
    return opened


def open_registry_store(uri: str) -> Any:
    """MLflow's own registry for a SQLite URI, after `initialise`."""
    from mlflow.tracking._model_registry.utils import _get_sqlalchemy_store

    initialise(uri)
    return _get_sqlalchemy_store(uri)


def initialise(uri: str) -> None:
    """Build the database file of `uri` where there is none, under a lock, and rename it into place.

    One that was moved is told where it is now.

    MLflow builds a fresh one in some fifty migrations with no lock; eight processes that start
    together all fail, and leave it broken.
    """
    file = database_file(uri)
    if file is None or (_is_there(file) and moved.is_in_place(file)):
        return
    with locked(file.with_name(f".{file.name}.lock")):
        if not _is_there(file):
            _build(file)
        moved.follow(file)


def _build(file: Path) -> None:
    from mlflow.tracking._tracking_service.utils import _get_sqlalchemy_store

    draft = file.with_name(f".{file.name}.draft")
    for remains in draft.parent.glob(f"{draft.name}*"):  # of a process that was killed
        remains.unlink()
    root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    _get_sqlalchemy_store(f"{SQLITE}{draft}", root)._dispose_engine()
    connection = sqlite3.connect(draft)
    connection.execute("PRAGMA journal_mode=WAL")  # lasting: readers no longer wait for writers
    connection.close()
    draft.rename(file)


def _is_there(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _artifact_location(name: str) -> str | None:
    """Below `folder()`, wherever the process runs; a server decides for itself."""
    if database_file(tracking_uri()) is None:
        return None
    return str(folder() / ARTIFACTS / quote(name, safe=" "))
