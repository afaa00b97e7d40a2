"""Addresses of pages in the MLflow UI; each says the mode, or the visitor lands in another one.

run_page("3", run.run_id)       # http://127.0.0.1:5000/#/experiments/3/runs/…?workflowType=machine_learning
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from loratrack.disk import is_locked
from loratrack.places import DATABASE
from loratrack.store import secrets
from loratrack.store.place import database_file, store_folder, store_name, tracking_uri

HOST, PORT = "127.0.0.1", 5000
"""Where `loratrack ui` and `mlflow ui` listen when nobody says otherwise."""
MODE = "workflowType=machine_learning"


def run_page(experiment_id: str, run_id: str) -> str:
    return f"{runs_page(experiment_id).partition('?')[0]}/{quote(run_id)}?{MODE}"


def runs_page(experiment_id: str) -> str:
    """The runs of an experiment."""
    return f"{ui()}{path_of_runs(experiment_id)}"


def path_of_runs(experiment_id: str | None) -> str:
    """The part of `runs_page` behind the host; without an experiment, that of the list of them."""
    if experiment_id is None:
        return f"/#/experiments?{MODE}"
    return f"/#/experiments/{quote(experiment_id)}/runs?{MODE}"


def version_page(version: str) -> str:
    """The page of `NAME/NUMBER`."""
    name, _, number = version.rpartition("/")
    return f"{ui()}/#/models/{quote(name, safe='')}/versions/{number}?{MODE}"


def ui() -> str:
    """The tracking server itself, without user and password; else where `loratrack ui` listens or will."""
    uri = tracking_uri()
    if uri.startswith("http"):
        return str(secrets.scrub_text(uri)).rstrip("/")
    return served_file().read_text("utf-8") if is_served() else f"http://{HOST}:{PORT}"


def is_served() -> bool:
    """Whether `ui()` is the address of a server, or of a living `loratrack ui`."""
    return tracking_uri().startswith("http") or is_locked(served_file())


def served_file() -> Path:
    """The file that says where a living `loratrack ui` of this store listens, which has it locked.

    Several stores may share the folder: all that are no SQLite file.
    """
    file = database_file(tracking_uri())
    name = store_name() if file is None else file.name
    mark = "" if name == DATABASE else f"-{sha256(name.encode()).hexdigest()[:8]}"
    return store_folder() / f"ui{mark}.address"
