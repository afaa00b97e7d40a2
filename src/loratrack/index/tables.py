"""MLflow's tables, read where they are: whatever the store, the same SQL answers.

A SQLite file is read in place, a database through SQLAlchemy; a server is read into a copy of the same
tables (`mirror`). Nothing here imports MLflow, which alone takes longer than most questions.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratrack.errors import StoreError
from loratrack.store import secrets
from loratrack.store.client import remedy_for
from loratrack.store.place import read_options, store_name

Row = tuple[Any, ...]

DATABASES = ("postgresql", "mysql", "mssql")
BUSY_TIMEOUT_SECONDS = 30
AT_ONCE = 500
"""Values in one IN; databases have limits."""


@dataclass(frozen=True)
class Dataset:
    """A file that a run has read."""

    name: str
    context: str
    """What for: training, validation or test."""
    num_rows: int | None
    sha256: str

    def __str__(self) -> str:
        rows = "" if self.num_rows is None else f", {self.num_rows:,} rows"
        return f"{self.name} ({self.context or 'unknown use'}{rows}, sha256 {self.sha256[:12]})"


class Tables:
    """`runs`, `params`, `tags`, `latest_metrics`, `metrics`, `experiments`, and the registry's tables.

    This one is of a store that nobody has used yet.
    """

    def rows(self, query: str, **values: object) -> list[Row]:
        """Columns in `query` are named with their table (`p.key`): `key` alone is a word of some SQL."""
        return []

    def need_history(self, run_ids: Sequence[str], metrics: Sequence[str]) -> None:
        """To be called before `metrics` is asked for these; the other tables are always whole."""

    def renew(self, run_ids: Sequence[str]) -> bool:
        """To be called before these runs are shown; whether anything that was read before is stale."""
        return False

    def datasets(self, run_id: str) -> list[Dataset]:
        rows = self.rows(
            "SELECT i.input_uuid, d.name, d.digest, d.dataset_profile, t.name, t.value FROM inputs i"
            " JOIN datasets d ON d.dataset_uuid = i.source_id"
            " LEFT JOIN input_tags t ON t.input_uuid = i.input_uuid"
            " WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN' AND i.destination_id = :run"
            " ORDER BY d.name",
            run=run_id,
        )
        tags: dict[Row, dict[str, str]] = {}
        for *told, key, value in rows:
            tags.setdefault(tuple(told), {})[key] = value
        return [dataset(name, digest, profile, of_it) for (_, name, digest, profile), of_it in tags.items()]

    def close(self) -> None:
        pass

    def of_runs(self, query: str, run_ids: Sequence[str], **values: object) -> list[Row]:
        """The rows for these runs; `query` says `IN (:runs)`."""
        rows_of_runs: list[Row] = []
        for start in range(0, len(run_ids), AT_ONCE):
            part = {f"run{n}": run_id for n, run_id in enumerate(run_ids[start : start + AT_ONCE])}
            names = ", ".join(f":{name}" for name in part)
            rows_of_runs += self.rows(query.replace(":runs", names), **part, **values)
        return rows_of_runs


class SqliteTables(Tables):
    """A SQLite file, opened to read only."""

    def __init__(self, file: Path, mode: str = "ro") -> None:
        self.file = file
        try:
            options = read_options(file) if mode == "ro" else f"mode={mode}"
            self.database = sqlite3.connect(
                f"{file.as_uri()}?{options}", uri=True, timeout=BUSY_TIMEOUT_SECONDS
            )
        except sqlite3.Error as error:
            raise unreadable(str(file), error) from error

    def rows(self, query: str, **values: object) -> list[Row]:
        try:
            return self.database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise unreadable(str(self.file), error) from error

    def close(self) -> None:
        self.database.close()


class DatabaseTables(Tables):
    """A database server that SQLAlchemy knows."""

    def __init__(self, uri: str) -> None:
        import sqlalchemy

        try:
            self.engine = sqlalchemy.create_engine(uri)
            self.connection = self.engine.connect()
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            raise unreadable(store_name(), error) from error

    def rows(self, query: str, **values: object) -> list[Row]:
        import sqlalchemy

        try:
            return [tuple(row) for row in self.connection.execute(sqlalchemy.text(query), values)]
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise unreadable(store_name(), error) from error

    def close(self) -> None:
        self.connection.close()
        self.engine.dispose()


def dataset(name: str, digest: str, profile: str | None, tags: Mapping[str, str]) -> Dataset:
    """MLflow's record of a dataset; its digest is short, and ours stands in a tag."""
    try:
        num_rows = json.loads(profile or "{}").get("num_rows")
    except (ValueError, AttributeError):  # whoever made the run writes what they like
        num_rows = None
    return Dataset(name, tags.get("mlflow.data.context", ""), num_rows, tags.get("sha256", digest))


def unreadable(place: str, error: Exception) -> StoreError:
    fault = secrets.scrub_text(str(getattr(error, "orig", error)).strip().partition("\n")[0])
    if "no such" in fault or "does not exist" in fault:
        remedy = "bring it to the installed version with mlflow db upgrade"
    else:
        remedy = remedy_for(fault)
    return StoreError(f"{place}: the tracking store must answer, got: {fault}; {remedy}")
