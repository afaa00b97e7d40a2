"""A project that was moved or copied: MLflow records artifacts by absolute path, and we keep these true.

A file beside the database says where both were when it was last opened.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from loratrack.disk import write_text
from loratrack.places import DATABASE, STORE

log = logging.getLogger(__name__)

BUSY_TIMEOUT_SECONDS = 30
PATHS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}
"""Where MLflow's tables hold paths of artifacts."""


def is_in_place(file: Path) -> bool:
    """Whether the database is known to be where it was; one that does not lie as ours do is left alone."""
    marker = _marker(file)
    is_ours = file.parts[-2:] == (STORE, DATABASE)
    return not is_ours or (marker.is_file() and marker.read_text("utf-8") == str(file.parent))


def follow(file: Path) -> None:
    """Point each path below the folder's old path at the new one; call it under the database's lock.

    A copy is a project of its own: its paths must not lead into the one it was copied from.
    """
    if is_in_place(file):
        return
    marker = _marker(file)
    if marker.is_file():
        old = Path(marker.read_text("utf-8"))
        if _is_same(old / file.name, file):
            return
        count = _rewrite(file, old)
        log.warning("%s was in %s before: %d artifact paths are corrected", file.parent, old, count)
    write_text(marker, str(file.parent))


def _marker(file: Path) -> Path:
    return file.with_name(f".{file.name}.place")


def _is_same(old: Path, new: Path) -> bool:
    try:
        return os.path.samefile(old, new)
    except OSError:  # the old place is gone, or not ours to see
        return False


def _rewrite(file: Path, old: Path) -> int:
    pairs = [(str(old), str(file.parent)), (f"file://{quote(str(old))}", f"file://{quote(str(file.parent))}")]
    with closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_SECONDS)) as database, database:
        return sum(
            database.execute(
                f"UPDATE {table} SET {column} = ?2 || substr({column}, length(?1) + 1)"
                f" WHERE {column} = ?1 OR substr({column}, 1, length(?1) + 1) = ?1 || '/'",
                pair,
            ).rowcount
            for table, columns in PATHS.items()
            for column in columns
            for pair in pairs
        )
