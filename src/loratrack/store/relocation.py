"""A project that was moved or copied: MLflow records artifacts by absolute path, and we keep these true.

A file beside the database says which folder the recorded paths lead to. Whoever reads maps them to where
the folder is now (`here`) and changes nothing: two mounts of one folder would correct each other for ever.
Whoever is about to write a run corrects them in the database (`follow`), while nobody else writes.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from loratrack.disk import locked, write_text
from loratrack.errors import StoreError
from loratrack.places import DATABASE, STORE
from loratrack.store.leases import live_runs
from loratrack.store.place import database_file, tracking_uri

log = logging.getLogger(__name__)

BUSY_TIMEOUT_SECONDS = 30
PATHS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}
"""Where MLflow's tables hold paths of artifacts."""


def recorded(file: Path) -> Path | None:
    """The folder that the recorded paths lead to; None when it is this one, or nobody wrote it down.

    A database that does not lie as ours do is left alone.
    """
    if not _is_ours(file) or not _marker(file).is_file():
        return None
    old = Path(_marker(file).read_text("utf-8"))
    return None if old == file.parent or _is_same(old / file.name, file) else old


def here(uri: str) -> str:
    """Where an artifact lies whose path was recorded on another mount, or before the folder was moved."""
    file = database_file(tracking_uri())
    old = None if file is None else recorded(file)
    if file is None or old is None:
        return uri
    for before, now in _prefixes(old, file.parent):
        if uri == before or uri.startswith(f"{before}/"):
            return now + uri[len(before) :]
    return uri


def follow(uri: str, own_run: str | None = None) -> None:
    """Before anything is written: each path below the folder's old path leads to the new one.

    A copy is a project of its own: its paths must not lead into the one it was copied from. StoreError while
    a run is live, for whoever writes it may have mounted the folder where the paths lead now: they are true
    for him, and would be false for him afterwards. `own_run` is written by the one who asks.
    """
    file = database_file(uri)
    if file is None or not _is_ours(file) or (_marker(file).is_file() and recorded(file) is None):
        return
    with locked(file.with_name(f".{file.name}.lock")):
        old = recorded(file)
        if old is not None:
            if runs := [run_id for run_id in live_runs(file.parent) if run_id != own_run]:
                raise StoreError(
                    f"{file.parent}: its artifact paths lead to {old}, and run {runs[0]} is being written;"
                    f" use the store as {old}, or wait until that run has ended"
                )
            count = _rewrite(file, old)
            log.warning("%s was in %s before: %d artifact paths are corrected", file.parent, old, count)
        mark(file)


def mark(file: Path) -> None:
    """Note that the recorded paths lead to where the database is now."""
    if _is_ours(file):
        write_text(_marker(file), str(file.parent))


def _is_ours(file: Path) -> bool:
    return file.parts[-2:] == (STORE, DATABASE)


def _marker(file: Path) -> Path:
    return file.with_name(f".{file.name}.place")


def _is_same(old: Path, new: Path) -> bool:
    try:
        return os.path.samefile(old, new)
    except OSError:  # the old place is gone, or not ours to see
        return False


def _prefixes(old: Path, new: Path) -> list[tuple[str, str]]:
    return [(str(old), str(new)), (f"file://{quote(str(old))}", f"file://{quote(str(new))}")]


def _rewrite(file: Path, old: Path) -> int:
    with closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_SECONDS)) as database, database:
        return sum(
            database.execute(
                f"UPDATE {table} SET {column} = ?2 || substr({column}, length(?1) + 1)"
                f" WHERE {column} = ?1 OR substr({column}, 1, length(?1) + 1) = ?1 || '/'",
                pair,
            ).rowcount
            for table, columns in PATHS.items()
            for column in columns
            for pair in _prefixes(old, file.parent)
        )
