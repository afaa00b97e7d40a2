"""Where a model lies: from the name that MLflow knows it by to a local folder with its bundle."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from loratrack.errors import RefusedError, UserError, did_you_mean
from loratrack.index.naming import MODELS, RUNS, find, version_in
from loratrack.index.opened import open_tables
from loratrack.index.tables import DATABASES
from loratrack.places import PYFUNC
from loratrack.registry import versions
from loratrack.store.client import (
    MISSING,
    Client,
    RegisteredModel,
    answering,
    connect,
    fetching,
    names_of_files,
    quoted,
    use_short_requests,
)
from loratrack.store.place import SQLITE, store_name, tracking_uri
from loratrack.store.relocation import here

LOADER = "loratrack.serving.pyfunc"
CODE_KEYS = {"code", "model_code_path"}
"""What names Python files in a MLmodel."""
MAX_VERSION_DIGITS = 18
PRODUCTION, STAGING, ARCHIVED = "Production", "Staging", "Archived"
STAGES = (PRODUCTION, STAGING, ARCHIVED)
FORMS = "NAME@alias, NAME/3, NAME/Production, an exp_id, a run's id or its beginning, or a folder"


def fetch(model: str) -> Path:
    """The local folder of the bundle that `model` names, with or without `models:/` or `runs:/`: see `FORMS`.

    What lies on a server is downloaded, and deleted when the process ends.
    """
    folder = Path(os.path.expanduser(model))
    if os.path.isdir(folder):  # unlike Path.is_dir, no error for a name too long to be one
        return _bundle(folder)
    if not model.startswith((MODELS, RUNS)):
        model = _in_full(model)
    return _bundle(_registered(model) if model.startswith(MODELS) else _of_run(model))


def _in_full(model: str) -> str:
    """With `models:/` or `runs:/`; RefusedError where the store has no such thing.

    The tables know it: a mistyped name is refused before MLflow or torch is imported, which takes seconds.
    """
    with open_tables() as tables:
        try:
            version = version_in(tables, model)
            if version is not None:
                return f"{MODELS}{version[0]}/{version[1]}"
            return f"{RUNS}{find(tables, model).run_id}"
        except RefusedError as error:
            raise RefusedError(f"{error}; a model is {FORMS}") from None


def pinned(model: str) -> str:
    """What `model` means now, in words that mean it forever: `models:/NAME/3` for an alias or a stage.

    `runs:/ID/path` becomes `runs:/ID`; a folder stays as it is.
    """
    if model.startswith(RUNS):
        return RUNS + model.removeprefix(RUNS).strip("/").partition("/")[0]
    if not model.startswith(MODELS):
        return model
    use_short_requests()
    with answering():
        name, version = _version(connect(), model)
    return f"{MODELS}{name}/{version}"


def _registered(model: str) -> Path:
    use_short_requests()
    if tracking_uri().startswith((SQLITE, *DATABASES)):
        # The tables know the names: a mistyped one is refused before MLflow is imported, which takes seconds.
        name, names = _parts(model.removeprefix(MODELS))[0], versions.names(None)
        if name not in names:
            raise _no_such_model(name, names)
    with answering():
        client = connect()
        name, version = _version(client, model)
        return _local(
            here(client.get_model_version_download_uri(name, str(version))), f"{name} version {version}"
        )


def _version(client: Client, model: str) -> tuple[str, int]:
    """The name and number that `models:/NAME@alias`, `models:/NAME/3` or `models:/NAME/Stage` mean."""
    name, mark, place = _parts(model.removeprefix(MODELS))
    known = _known(client, name)
    if mark == "/" and place.isdecimal() and len(place) <= MAX_VERSION_DIGITS:
        _refuse_unknown_version(client, name, int(place))
        return name, int(place)
    if mark == "/":
        stages = {found.current_stage.lower(): int(found.version) for found in known.latest_versions}
        return name, _of_stage(name, place, stages)
    return name, _of_alias(name, place, {alias: int(number) for alias, number in known.aliases.items()})


def _parts(text: str) -> tuple[str, str, str]:
    """Name, `/` or `@`, and what stands behind; nothing but the name when neither is there."""
    return text.partition("/") if "/" in text or "@" not in text else text.rpartition("@")


def _known(client: Client, name: str) -> RegisteredModel:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
    raise _no_such_model(name, [model.name for model in client.search_registered_models()])


def _no_such_model(name: str, names: Sequence[str]) -> RefusedError:
    others = f"; the registry has {_listed(names)}" if names else "; the registry is empty"
    return RefusedError(f"{MODELS}{name}: no such registered model{did_you_mean(name, names) or others}")


def _of_alias(name: str, wanted: str, aliases: Mapping[str, int]) -> int:
    if wanted in aliases:
        return aliases[wanted]
    there = _listed(f"@{alias} (version {number})" for alias, number in sorted(aliases.items()))
    instead = f"it has {there}" if aliases else "it has none, so name a version, such as /1"
    if not wanted:
        raise UserError(
            f"{MODELS}{name}: must say which version, as @alias, /3 or /Production; of aliases {instead}"
        )
    raise RefusedError(f"{MODELS}{name}@{wanted}: no such alias{did_you_mean(wanted, aliases)}; {instead}")


def _of_stage(name: str, wanted: str, stages: Mapping[str, int]) -> int:
    if wanted.lower() not in [stage.lower() for stage in STAGES]:
        raise UserError(
            f"{MODELS}{name}/{wanted}: must be a number or one of {', '.join(STAGES)}, got {wanted!r}"
        )
    if wanted.lower() not in stages:
        used = [f"{stage} (version {stages[stage.lower()]})" for stage in STAGES if stage.lower() in stages]
        raise RefusedError(
            f"{MODELS}{name}/{wanted}: no version is in this stage; in use: {_listed(used) or 'no stage'}"
        )
    return stages[wanted.lower()]


def _refuse_unknown_version(client: Client, name: str, number: int) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
        numbers = sorted(int(found.version) for found in client.search_model_versions(f"name={quoted(name)}"))
        raise RefusedError(f"{MODELS}{name}/{number}: no such version; it has {_listed(numbers)}") from None


def _of_run(model: str) -> Path:
    from mlflow.exceptions import MlflowException

    use_short_requests()
    run_id, _, path = model.removeprefix(RUNS).strip("/").partition("/")
    path = path or PYFUNC
    with answering():
        client = connect()
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in MISSING:
                raise
            raise RefusedError(f"{RUNS}{run_id}: no such run in {store_name()}") from None
        names = names_of_files(run, str(Path(path).parent).strip("."))
        if Path(path).name not in names:
            raise RefusedError(
                f"{RUNS}{run_id}: the run {run.info.run_name!r} ({run.info.status})"
                f" keeps no model at {path!r}, it has {_listed(names) or 'no artifacts'}"
            )
        return _local(f"{here(run.info.artifact_uri)}/{path}", f"run {run_id}")


def _local(uri: str, owner: str) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if is_local_uri(uri):
        folder = Path(local_file_uri_to_path(uri))
        if not folder.is_dir():
            raise UserError(f"{owner}: its files are not in {folder} any more; put the folder back")
        return folder
    target = tempfile.mkdtemp(prefix="loratrack-model-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    with fetching(uri):
        return Path(download_artifacts(artifact_uri=uri, dst_path=target, tracking_uri=tracking_uri()))


def _bundle(folder: Path) -> Path:
    """The folder itself, or the one inside it when it is an MLflow model."""
    file = folder / "MLmodel"
    if not file.is_file():
        return folder
    try:  # texts alone are needed: no tag, no merge key is followed
        flavor = yaml.load(file.read_text("utf-8"), Loader=yaml.BaseLoader)["flavors"].get(
            "python_function", {}
        )
        loader, data = flavor.get("loader_module"), flavor.get("data", "")
        brings_code = sorted(key for key in CODE_KEYS if flavor.get(key) not in (None, "null", "~", ""))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise UserError(
            f"{file}: must describe a model that loratrack saved, and cannot be read"
            f" ({type(error).__name__}); restore the run's artifacts"
        ) from None
    if loader != LOADER:
        raise UserError(f"{folder}: must be a model that loratrack saved, got one of another kind")
    if brings_code:  # MLflow would import it; what we save has none
        raise UserError(
            f"{file}: must not bring code, got {', '.join(brings_code)}; it would run wherever MLflow loads"
            " this model"
        )
    inside = folder / str(data)
    try:
        is_inside = inside.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        is_inside = False
    if not is_inside:
        raise UserError(f"{file}: data must lie inside the model, got {data!r}; restore the run's artifacts")
    return inside


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
