"""What all tests share: no network, two threads, a store and a cache of their own, a copy of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = (
    ".venv",
    ".git",
    "mlruns",
    "build",
    "dist",
    "tests",
    "docs",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
)

SESSION = tempfile.TemporaryDirectory(prefix="loratrack-tests-", ignore_cleanup_errors=True)
"""Made before the first test module is imported: libraries read their settings when imported."""

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_TRACKING_URI": f"sqlite:///{SESSION.name}/mlruns/mlflow.db",
    "LORATRACK_CACHE": f"{SESSION.name}/cache",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "2",
    "MKL_NUM_THREADS": "2",
}


@dataclass(frozen=True)
class Project:
    """A copy of the project in `folder`, and what a user's shell there knows."""

    folder: Path
    environment: dict[str, str]

    @property
    def store(self) -> Path:
        return self.folder / "mlruns"

    def start(self, *command: str, below: str = ".") -> subprocess.Popen[str]:
        """`command` started in the folder `below` the project's, in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder / below,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str, below: str = ".") -> str:
        """What `command` prints; it must succeed."""
        process = self.start(*command, below=below)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output


@pytest.fixture
def project(new_project: Callable[[], Project]) -> Project:
    return new_project()


@pytest.fixture(scope="session")
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Project]:
    """Makes copies of the project, for fixtures of any scope."""

    def new() -> Project:
        folder = tmp_path_factory.mktemp("copy") / "some project 项目"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        return Project(folder, _shell())

    return new


def _shell() -> dict[str, str]:
    """This environment without any conda, MLflow's settings and pytest's mark, which MLflow heeds."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "_MLFLOW", "CONDA", "LORATRACK_PYTHON", "COV_", "PYTEST_"))
    }
    folders = [folder for folder in kept["PATH"].split(":") if not Path(folder, "conda").exists()]
    return kept | {"PATH": ":".join([str(Path(sys.executable).parent), *folders])}


@pytest.fixture(scope="session", autouse=True)
def _session_folder() -> Iterator[None]:
    yield
    SESSION.cleanup()
