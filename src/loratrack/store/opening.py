"""The first use of a store: a database is seen whole or not at all."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from loratrack.disk import DRAFT_SUFFIX, locked
from loratrack.errors import StoreError
from loratrack.store import process, relocation
from loratrack.store.place import SQLITE, database_file, read_options


def open_tracking_store(uri: str, artifact_root: str | None = None, *, is_mlflow_run: bool = False) -> Any:
    """MLflow's own store for a SQLite URI, after `initialise`.

    `is_mlflow_run`: in the process of `mlflow run`, whose runs say from their first moment whose they are.
    """
    from mlflow.tracking._tracking_service.utils import _get_sqlalchemy_store

    initialise(uri)
    root = artifact_root or os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    opened = _keeping_killed(_get_sqlalchemy_store(uri, root))
    return _naming_process(opened) if is_mlflow_run else opened


def _naming_process(opened: Any) -> Any:
    """A run that is killed in the seconds before our own process joins it must not stay RUNNING for ever."""
    from mlflow.entities import RunTag

    create = opened.create_run

    def create_run(experiment_id: str, user_id: str, start_time: int, tags: list[Any], run_name: str) -> Any:
        own = [RunTag(name, value) for name, value in process.own_tags().items()]
        return create(experiment_id, user_id, start_time, [*tags, *own], run_name)

    opened.create_run = create_run
    return opened


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


def _read_only(dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
    """A connection to a SQLite file that we may not write: without the files that SQLite makes beside it."""
    if dialect.name != "sqlite" or not arguments or os.access(Path(arguments[0]).parent, os.W_OK):
        return None  # SQLAlchemy connects as ever
    file = Path(arguments[0]).absolute()
    return sqlite3.connect(f"{file.as_uri()}?{read_options(file)}", uri=True, **options)


def initialise(uri: str) -> None:
    """Build the database file of `uri` where there is none, under a lock, and rename it into place.

    MLflow builds a fresh one in some fifty migrations with no lock; eight processes that start
    together all fail, and leave it broken.
    """
    file = database_file(uri)
    if file is None or _is_there(file):
        if file is not None and not os.access(file.parent, os.W_OK):
            import sqlalchemy

            if not sqlalchemy.event.contains(sqlalchemy.Engine, "do_connect", _read_only):
                sqlalchemy.event.listen(sqlalchemy.Engine, "do_connect", _read_only)
        return
    with locked(file.with_name(f".{file.name}.lock")):
        if not _is_there(file):
            _build(file)
            relocation.mark(file)


def _build(file: Path) -> None:
    from mlflow.tracking._tracking_service.utils import _get_sqlalchemy_store
    from sqlalchemy.exc import SQLAlchemyError

    draft = file.with_name(f".{file.name}{DRAFT_SUFFIX}")
    root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    try:
        _remove(draft)  # of a process that was killed
        _get_sqlalchemy_store(f"{SQLITE}{draft}", root)._dispose_engine()
        connection = sqlite3.connect(draft)
        connection.execute("PRAGMA journal_mode=WAL")  # lasting: readers no longer wait for writers
        connection.close()
        draft.rename(file)
    except (SQLAlchemyError, sqlite3.Error) as error:
        _remove(draft)
        fault = str(getattr(error, "orig", error))
        raise StoreError(
            f"{file}: the tracking store must be made here, got {fault!r}; free some space, or set"
            " MLFLOW_TRACKING_URI to another place"
        ) from error


def _remove(draft: Path) -> None:
    """With the files that SQLite makes beside it."""
    for remains in draft.parent.glob(f"{draft.name}*"):
        remains.unlink()


def _is_there(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0
