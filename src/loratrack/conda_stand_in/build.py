"""Build an environment with uv, or with venv and pip."""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from loratrack.conda_stand_in.requirements import Wanted
from loratrack.errors import UserError

WHOLE = "loratrack-whole"


def build(home: Path, wanted: Wanted) -> None:
    """The environment in `home`, unless it is there already; one process builds, others wait for it."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f".{home.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not is_whole(home):
            shutil.rmtree(home, ignore_errors=True)
            _install(home, wanted)
            (home / WHOLE).touch()


def is_whole(home: Path) -> bool:
    return (home / WHOLE).exists()


def _install(home: Path, wanted: Wanted) -> None:
    uv = shutil.which("uv")
    if uv is None:
        _check_python(wanted)
        _call([sys.executable, "-m", "venv", str(home)], wanted.folder)
        install = [str(home / "bin" / "python"), "-m", "pip", "install"]
    else:
        version = str(wanted.python) or platform.python_version()
        _call([uv, "venv", "--quiet", "--python", version, str(home)], wanted.folder)
        install = [uv, "pip", "install", "--python", str(home / "bin" / "python")]
    if wanted.pip:
        with tempfile.NamedTemporaryFile("w", dir=wanted.folder, prefix="condaenv.", suffix=".txt") as file:
            file.write("\n".join(wanted.pip) + "\n")  # beside conda.yaml, as conda does: paths start there
            file.flush()
            _call([*install, "--quiet", "-r", file.name], wanted.folder)


def _check_python(wanted: Wanted) -> None:
    version = platform.python_version()
    if not wanted.python.contains(version):
        raise UserError(
            f"python{wanted.python} is asked for, and venv can only give {version};"
            " install uv (pip install uv) or conda"
        )


def _call(command: list[str], folder: Path) -> None:
    process = subprocess.run(command, cwd=folder, check=False)
    if process.returncode != 0:
        raise UserError(f"the command failed with exit code {process.returncode}: {' '.join(command)}")
