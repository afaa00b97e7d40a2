"""What a conda.yaml asks for, and what is missing of it here."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import pytest

from loratrack.conda_stand_in.requirements import read
from loratrack.errors import UserError

ROOT = Path(__file__).parents[2]
YAML_VERSION = metadata.version("PyYAML")


def conda_yaml(folder: Path, *pip: str, python: str = "python>=3.11") -> Path:
    file = folder / "conda.yaml"
    lines = "".join(f"\n      - {line}" for line in pip)
    file.write_text(f"dependencies:\n  - '{python}'\n  - pip\n" + (f"  - pip:{lines}\n" if pip else ""))
    return file


def test_our_own_conda_yaml_is_satisfied_by_our_own_environment() -> None:
    requirements = read(ROOT / "conda.yaml")
    assert len(requirements.lines) > 100
    assert requirements.faults() == []


def test_our_conda_yaml_gives_what_make_setup_gives() -> None:
    requirements = read(ROOT / "conda.yaml")
    base = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("BASE := "))
    assert requirements.pip == ("-r requirements.txt", base.removeprefix("BASE := "), "-e .")
    assert "torch==2.13.0" in requirements.lines
    assert "3.11" in requirements.python
    assert "3.10" not in requirements.python


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (f"PyYAML=={YAML_VERSION}", []),
        (f"pyyaml=={YAML_VERSION}  # any spelling, and a comment", []),
        ("PyYAML==0.1", [f"PyYAML==0.1: {YAML_VERSION} is installed"]),
        ("no-such-package==1.0", ["no-such-package: not installed"]),
        ("no-such-package==1.0; python_version < '3'", []),
        ("--find-links wheels", []),
    ],
)
def test_a_line_is_compared_with_what_is_installed(tmp_path: Path, line: str, fault: list[str]) -> None:
    assert read(conda_yaml(tmp_path, f'"{line}"')).faults() == fault


@pytest.mark.parametrize(
    ("python", "fits"),
    [
        ("python", True),
        (f"python={platform.python_version()}", True),
        (f"python={platform.python_version()}=h1234_0", True),
        (f"python={'.'.join(platform.python_version_tuple()[:2])}", True),
        ("python>=3.11,<4", True),
        ("python=3.1", False),
        ("conda-forge::python<3.11", False),
    ],
)
def test_the_python_is_compared_as_conda_would(tmp_path: Path, python: str, fits: bool) -> None:
    assert (read(conda_yaml(tmp_path, python=python)).faults() == []) is fits


def test_files_named_by_dash_r_are_read_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("# nothing\n\n-r b.txt\n")
    (tmp_path / "more" / "b.txt").write_text("no-such-package\n")
    assert read(conda_yaml(tmp_path, "-r more/a.txt")).lines == ("no-such-package",)


def test_a_project_in_a_folder_counts_by_its_name(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "loratrack"\n')
    assert read(conda_yaml(tmp_path, "-e .")).faults() == []
    project.write_text('[project]\nname = "no-such-package"\n')
    assert read(conda_yaml(tmp_path, "-e .")).faults() == ["no-such-package: not installed"]


def test_another_wish_is_another_environment(tmp_path: Path) -> None:
    digests = {
        read(conda_yaml(tmp_path, *lines)).digest()
        for lines in ([], ["a==1"], ["a==2"], ["a==1", "b"], ["-e ."])
    }
    assert len(digests) == 5
    (tmp_path / "copy").mkdir()
    first, copy = read(conda_yaml(tmp_path, "a==1")), read(conda_yaml(tmp_path / "copy", "a==1"))
    assert first.digest() == copy.digest()


def test_what_only_conda_can_install_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "conda.yaml"
    file.write_text("dependencies: [python, cudatoolkit=11.8]\n")
    with pytest.raises(UserError) as error:
        read(file)
    assert str(error.value) == (
        f"{file}: only python, pip, setuptools, wheel and a list of pip: packages can be had"
        " without conda, got 'cudatoolkit=11.8'; install conda, or ask for it under pip:"
    )
