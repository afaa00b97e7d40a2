"""What MLflow imports in each of its processes: our store's place, a stand-in for conda, safe first use.

Nothing that the user has set is changed. Outside our project nothing is set but the stand-in for conda, and
that only for `mlflow run`, which may fetch our project from elsewhere. MLflow is in the middle of its own
import when it imports this, so nothing here may import MLflow in turn.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loratrack.places import ARTIFACTS, PROJECT_FILE, STORE, database_uri, our_project

CONDA_STAND_IN = Path(__file__).parent / "conda_stand_in"


def defaults(project: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """MLflow's own settings for work in `project`, without those that `environment` holds."""
    ours = database_uri(project / STORE)
    uri = environment.get("MLFLOW_TRACKING_URI", ours)
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": uri}
    if uri == ours:
        settings["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = str(project / STORE / ARTIFACTS)
    if not uri.startswith("http"):  # `mlflow ui` opens a database; it cannot sit on another server
        settings["MLFLOW_BACKEND_STORE_URI"] = uri
    return {name: value for name, value in settings.items() if name not in environment}


def conda_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Where MLflow finds the stand-in; nothing where there is a conda.

    A stand-in inherited from a parent process counts as none: it may be another environment's.
    """
    if _has_conda(environment):
        return {}
    return {"MLFLOW_CONDA_HOME": str(CONDA_STAND_IN), "LORATRACK_PYTHON": sys.executable}


def is_mlflow_run() -> bool:
    """Whether this process is `mlflow run`, which makes a run and starts another process that fills it."""
    program = Path(sys.argv[0])
    is_mlflow = program.stem == "mlflow" or program.parts[-2:] == ("mlflow", "__main__.py")
    return is_mlflow and sys.argv[1:2] == ["run"]


def _has_conda(environment: Mapping[str, str]) -> bool:
    home = environment.get("MLFLOW_CONDA_HOME")
    if home is not None:
        return Path(home).parts[-2:] != CONDA_STAND_IN.parts[-2:]
    return "CONDA_EXE" in environment or shutil.which("conda", path=environment.get("PATH")) is not None


class ProjectContext:
    """Tags nothing; MLflow imports this module to get at it."""

    def in_context(self) -> bool:
        return False

    def tags(self) -> dict[str, str]:
        return {}


class ProjectExperiment:
    """The experiment of runs for which nobody named one.

    A default in MLFLOW_EXPERIMENT_NAME would clash with the user's --experiment-id.
    """

    def in_context(self) -> bool:
        return (_project or our_project()) is not None

    def get_experiment_id(self) -> str:
        from loratrack.store.client import EXPERIMENT, ensure_experiment

        return ensure_experiment(experiment_of_this_process() or EXPERIMENT)


def experiment_of_this_process() -> str | None:
    """The experiment of the config that `mlflow run` was given."""
    if not is_mlflow_run():
        return None
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("-P", "--param-list", action="append", default=[])
    given, _ = words.parse_known_args(sys.argv[2:])
    parameters = dict(parameter.partition("=")[::2] for parameter in given.param_list)
    from loratrack.config.layers import experiment_name
    from loratrack.errors import UserError

    try:
        return experiment_name(Path(parameters.get("config", "")), [parameters.get("set", "")])
    except UserError:  # the run that is about to start says what is wrong
        return None


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """MLflow's own SQLite store, initialised by one process at a time."""
    from loratrack.store.opening import open_tracking_store

    return open_tracking_store(store_uri, artifact_uri, is_mlflow_run=is_mlflow_run())


def registry_store(store_uri: str) -> Any:
    """MLflow's own SQLite model registry, initialised by one process at a time."""
    from loratrack.store.opening import open_registry_store

    return open_registry_store(store_uri)


def project_of_this_process() -> Path | None:
    """Our project that `mlflow run FOLDER` names, else the one around the current folder."""
    words = sys.argv[2:] if is_mlflow_run() else []
    # os.path, since a long -P set=… is no path at all, at which Path.is_file raises
    named = (our_project(Path(word)) for word in words if os.path.isfile(os.path.join(word, PROJECT_FILE)))
    return next((project for project in named if project is not None), our_project())


_project = project_of_this_process()
if _project is not None:
    os.environ.update(defaults(_project, os.environ))
if _project is not None or is_mlflow_run():  # ours may come from a git repository
    os.environ.update(conda_settings(os.environ))
