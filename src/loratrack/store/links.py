"""Addresses of pages in the MLflow UI; each says the mode, or the visitor lands in another one.

run_page("3", run.run_id)       # http://127.0.0.1:5000/#/experiments/3/runs/…?workflowType=machine_learning
"""

from __future__ import annotations

from urllib.parse import quote

from loratrack.disk import is_locked
from loratrack.store import secrets
from loratrack.store.place import store_folder, tracking_uri

HOST, PORT = "127.0.0.1", 5000
"""Where `loratrack ui` and `mlflow ui` listen when nobody says otherwise."""
MODE = "workflowType=machine_learning"
SERVED = "ui.address"
"""The file beside the store that says where a living `loratrack ui` listens, which has it locked."""


def run_page(experiment_id: str, run_id: str) -> str:
    return f"{runs_page(experiment_id).partition('?')[0]}/{quote(run_id)}?{MODE}"


def runs_page(experiment_id: str) -> str:
    """The runs of an experiment."""
    return f"{ui()}/#/experiments/{quote(experiment_id)}/runs?{MODE}"


def experiments_page() -> str:
    return f"{ui()}/#/experiments?{MODE}"


def version_page(version: str) -> str:
    """The page of `NAME/NUMBER`."""
    name, _, number = version.rpartition("/")
    return f"{ui()}/#/models/{quote(name, safe='')}/versions/{number}?{MODE}"


def ui() -> str:
    """The tracking server itself, without user and password; else where `loratrack ui` listens or will."""
    uri = tracking_uri()
    if uri.startswith("http"):
        return str(secrets.scrub_text(uri)).rstrip("/")
    return (store_folder() / SERVED).read_text("utf-8") if is_served() else f"http://{HOST}:{PORT}"


def is_served() -> bool:
    """Whether `ui()` is the address of a server, or of a living `loratrack ui`."""
    return tracking_uri().startswith("http") or is_locked(store_folder() / SERVED)
