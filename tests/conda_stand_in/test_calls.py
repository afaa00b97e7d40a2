"""The calls that MLflow makes, answered by the stand-in's own script."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from loratrack.mlflow_plugin import CONDA_STAND_IN

CONDA = CONDA_STAND_IN / "bin" / "conda"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Without uv, so that an environment is built by what every python has."""
    kept = [path for path in os.environ["PATH"].split(":") if not Path(path, "uv").exists()]
    own = {
        "LORATRACK_PYTHON": sys.executable,
        "LORATRACK_CACHE": str(tmp_path / "cache"),
        "PATH": ":".join(kept),
    }
    return dict(os.environ) | own


def conda(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CONDA, *arguments], env=environment, capture_output=True, text=True, check=False)


def shell(environment: dict[str, str], command: str) -> str:
    """As MLflow does it: source the script beside the executable, activate, then the command."""
    lines = f"source {CONDA.parent}/../etc/profile.d/conda.sh && conda activate mlflow-1 1>&2 && {command}"
    process = subprocess.run(
        ["bash", "-c", lines], env=environment, capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


def tiny_wheel(folder: Path) -> None:
    """A package of one line, as pip takes it without any network."""
    info = "tiny_thing-1.0.dist-info"
    files = {
        "tiny_thing.py": "SIZE = 'tiny'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        for name, text in files.items()
    }
    record = "".join(f"{name},sha256={digests[name]},{len(files[name])}\n" for name in files)
    with zipfile.ZipFile(folder / "tiny_thing-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in (files | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}).items():
            wheel.writestr(name, text)


def test_help_and_list_are_answered(environment: dict[str, str]) -> None:
    assert conda(environment, "--help").returncode == 0
    assert json.loads(conda(environment, "env", "list", "--json").stdout) == {"envs": []}


def test_the_environment_we_are_in_is_used_when_it_satisfies(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    file = tmp_path / "conda.yaml"
    file.write_text("dependencies:\n  - python>=3.11\n  - pip:\n      - mlflow\n")
    process = conda(environment, "env", "create", "-n", "mlflow-1", "--file", str(file))
    assert process.stdout == f"loratrack: no conda here; {sys.prefix} satisfies conda.yaml and is used\n"
    assert shell(environment, "python -c 'import sys; print(sys.prefix)'") == sys.prefix


@pytest.mark.slow
def test_an_environment_is_built_once_where_ours_does_not_satisfy(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    tiny_wheel(tmp_path)
    file = tmp_path / "conda.yaml"
    file.write_text(
        "dependencies:\n  - python>=3.11\n  - pip:\n      - --no-index\n      - --find-links .\n"
        "      - tiny-thing==1.0\n"
    )
    create = ("env", "create", "-n", "mlflow-1", "--file", str(file))
    first = conda(environment, *create)
    assert first.returncode == 0, first.stderr
    told = (
        f"{sys.prefix} does not satisfy conda.yaml (tiny-thing: not installed): run make setup to mend that"
    )
    assert f"{told}; until then building {tmp_path / 'cache'}" in first.stdout
    home = Path(shell(environment, "python -c 'import sys; print(sys.prefix)'"))
    assert home.parent == tmp_path / "cache" / "environments"
    assert shell(environment, "python -c 'import tiny_thing; print(tiny_thing.SIZE)'") == "tiny"
    (home / "mark").touch()
    second = conda(environment, *create)
    assert f"{told}; until then using {home}\n" in second.stdout
    assert (home / "mark").exists()


def test_a_failure_says_why_and_leaves_no_environment(tmp_path: Path, environment: dict[str, str]) -> None:
    file = tmp_path / "conda.yaml"
    file.write_text("dependencies:\n  - python=2.7\n")
    process = conda(environment, "env", "create", "-n", "mlflow-1", "--file", str(file))
    assert process.returncode == 1
    assert "python==2.7.* is asked for, and venv can only give" in process.stderr
    assert "install uv (pip install uv) or conda" in process.stderr
    assert "Traceback" not in process.stderr
    bash = ["bash", "-c", f"source {CONDA_STAND_IN}/etc/profile.d/conda.sh && conda activate mlflow-1"]
    assert subprocess.run(bash, env=environment, capture_output=True, check=False).returncode != 0
