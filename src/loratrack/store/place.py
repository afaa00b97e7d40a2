"""Where the tracking store is, and where everything of ours on disk lies."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from loratrack.places import STORE, database_uri, our_project
from loratrack.store import secrets

SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the database in `store_folder()`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or database_uri(store_folder())


def store_folder() -> Path:
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


def read_options(file: Path) -> str:
    """With what SQLite opens a file to read, also where it may not write.

    It would make two files beside one in WAL mode. Where a writer has made them, they are read; where none is
    at work, `immutable` says that they are not needed.
    """
    needs_no_more = os.access(file.parent, os.W_OK) or file.with_name(f"{file.name}-wal").exists()
    return "mode=ro" if needs_no_more else "immutable=1"


def store_name() -> str:
    """The tracking URI without user and password: what the outbox knows the store by."""
    return str(secrets.scrub_text(tracking_uri()))
