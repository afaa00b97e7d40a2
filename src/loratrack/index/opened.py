"""Which of the tables answers: a SQLite file or a database in place, or the mirror of a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from loratrack.index.tables import DATABASES, DatabaseTables, SqliteTables, Tables
from loratrack.store.place import database_file, tracking_uri


@contextmanager
def open_tables(is_rebuild: bool = False) -> Iterator[Tables]:
    """The tables of the tracking store; StoreError when it does not answer.

    `is_rebuild` reads all of a server anew; other stores are read in place.
    """
    uri = tracking_uri()
    with closing(_of(uri, is_rebuild)) as tables:
        yield tables


def _of(uri: str, is_rebuild: bool) -> Tables:
    file = database_file(uri)
    if file is not None:
        if not file.exists() or file.stat().st_size == 0:
            return Tables()
        return SqliteTables(file)
    if uri.startswith(DATABASES):
        return DatabaseTables(uri)
    from loratrack.index import mirror

    return mirror.open_mirror(is_rebuild)
