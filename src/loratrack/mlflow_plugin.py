"""What MLflow imports in each of its processes: our store's place, a stand-in for conda, safe first use.

Nothing that the user has set is changed, and outside our project nothing is set at all.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from mlflow.tracking.context.abstract_context import RunContextProvider
from mlflow.tracking.default_experiment.abstract_context import DefaultExperimentProvider

from loratrack.places import STORE, database_uri, our_project

CONDA_STAND_IN = Path(__file__).parent / "conda_stand_in"
EXPERIMENT = "loratrack"


def set_defaults(project: Path) -> None:
    """MLflow's own settings for work in `project`, where the user has none."""
    ours = database_uri(project / STORE)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = os.environ.setdefault("MLFLOW_TRACKING_URI", ours)
    if uri == ours:
        os.environ.setdefault("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(project / STORE / "artifacts"))
    if not uri.startswith("http"):  # `mlflow ui` opens a database; it cannot sit on another server
        os.environ.setdefault("MLFLOW_BACKEND_STORE_URI", uri)
    if _has_no_conda():
        os.environ["MLFLOW_CONDA_HOME"] = str(CONDA_STAND_IN)
        os.environ["LORATRACK_PYTHON"] = sys.executable


def _has_no_conda() -> bool:
    """A stand-in inherited from a parent process counts as none: it may be another environment's."""
    if os.environ.get("MLFLOW_CONDA_HOME", "").endswith(f"/loratrack/{CONDA_STAND_IN.name}"):
        return True
    named = "MLFLOW_CONDA_HOME" in os.environ or "CONDA_EXE" in os.environ
    return not named and shutil.which("conda") is None


class ProjectContext(RunContextProvider):  # type: ignore[misc]
    """Tags nothing; MLflow imports this module to get at it."""

    def in_context(self) -> bool:
        return False

    def tags(self) -> dict[str, str]:
        return {}


class ProjectExperiment(DefaultExperimentProvider):  # type: ignore[misc]
    """The experiment of runs for which nobody named one.

    A default in MLFLOW_EXPERIMENT_NAME would clash with the user's --experiment-id.
    """

    def in_context(self) -> bool:
        return our_project() is not None

    def get_experiment_id(self) -> str:
        from loratrack.tracking.store import ensure_experiment

        return ensure_experiment(EXPERIMENT)


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """MLflow's own SQLite store, initialised by one process at a time."""
    from loratrack.tracking.store import open_tracking_store

    return open_tracking_store(store_uri, artifact_uri)


def registry_store(store_uri: str) -> Any:
    """MLflow's own SQLite model registry, initialised by one process at a time."""
    from loratrack.tracking.store import open_registry_store

    return open_registry_store(store_uri)


def _start() -> None:
    project = our_project()
    if project is not None:
        set_defaults(project)


_start()
