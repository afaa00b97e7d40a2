"""Addresses of pages in the MLflow UI; each says the mode, or the visitor lands in another one."""

from __future__ import annotations

from urllib.parse import quote

from loratrack.store import secrets
from loratrack.store.place import tracking_uri

UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens when nobody says otherwise."""
MODE = "workflowType=machine_learning"


def run_page(experiment_id: str, run_id: str) -> str:
    return f"{ui()}/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}?{MODE}"


def ui() -> str:
    """The tracking server itself, without user and password; else where `mlflow ui` will listen."""
    uri = tracking_uri()
    return str(secrets.scrub_text(uri)).rstrip("/") if uri.startswith("http") else UI
