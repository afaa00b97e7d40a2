"""From a file to what can be started, with the project it belongs to written into it.

load("projects/clinc/dual.yaml", "train.epochs=2")     # a RunConfig
load("projects/clinc/sweep.yaml")                      # a SweepConfig, for it has a `sweep` section
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from loratrack import config as configs
from loratrack.config import RunConfig
from loratrack.config.layers import merged, project_name, read_layers
from loratrack.config.schema import registry_problem
from loratrack.config.sweep import SweepConfig, load_sweep
from loratrack.errors import ConfigError, DataError

AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


def load_any(path: str | Path, settings: Sequence[str] = ()) -> RunConfig:
    """A SweepConfig where the file has a `sweep` section."""
    is_sweep = "sweep" in merged(read_layers(Path(path), settings))
    return load_search(path, settings) if is_sweep else load_run(path, settings)


def load_run(path: str | Path, settings: Sequence[str] = ()) -> RunConfig:
    with _problems_of_the_data_too(path, settings):
        config = configs.load(path, settings)
    return with_project(config, Path(path))


def load_search(path: str | Path, settings: Sequence[str] = ()) -> SweepConfig:
    """A sweep; what its settings cannot be is said before anything is trained."""
    from loratrack.tuning.checks import check

    with _problems_of_the_data_too(path, settings):
        config = load_sweep(path, settings)
        check(config, str(path))
    return with_project(config, Path(path))


@contextmanager
def _problems_of_the_data_too(path: str | Path, settings: Sequence[str]) -> Iterator[None]:
    """Settings that are wrong do not hide what is wrong with the data, where it can be read without them."""
    try:
        yield
    except ConfigError as error:
        from loratrack.data import read

        try:
            merged_settings = merged(read_layers(Path(path), settings))
            of_the_data = {
                key: merged_settings[key] for key in ("exp_id", "task_type", "data") if key in merged_settings
            }
            read(RunConfig.model_validate({"exp_id": "experiment", **of_the_data}))
        except DataError as problems:
            raise ConfigError(f"{error}\n{problems}") from None
        except (ConfigError, ValidationError):
            pass
        raise


def with_project(config: AnyConfig, file: Path) -> AnyConfig:
    """The folder that the config lies in is its project, after which its experiment is called.

    A frozen copy says both, wherever it is loaded from.
    """
    project = config.project or project_name(file)
    if problem := registry_problem(project):
        raise ConfigError(
            f"{file}: project: {problem}, the name of its folder; say project: NAME, or rename the folder"
        )
    experiment = config.experiment or project
    return config.model_copy(update={"project": project, "experiment": experiment})
