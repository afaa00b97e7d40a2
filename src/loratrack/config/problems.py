"""What is wrong with settings, told in the words of the file: key path, fault, value, who said it."""

from __future__ import annotations

import copy
import difflib
import reprlib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from loratrack.config.layers import Layer, Settings
from loratrack.config.schema import READ_TOGETHER, RunConfig

KeyPath = tuple[Any, ...]

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


def faults(
    settings: Settings,
    error: ValidationError,
    place: str,
    said: Sequence[Layer],
    schema: type[RunConfig] = RunConfig,
) -> list[str]:
    """All faults of `settings`, whose validation as `schema` raised `error`.

    A fault that a layer of `said` other than `place` brought in names that layer.
    """
    found = [(_key_path(detail), detail) for detail in error.errors()]
    names = setting_names(schema)
    told = [
        line for path, detail in found for line in _lines(path, detail, _source(path, place, said), names)
    ]
    if any(not path or _meant(path, detail, names).startswith(READ_TOGETHER) for path, detail in found):
        return told
    return told + _faults_between(_without(settings, [path for path, _ in found]), schema)


def closest_setting(name: str) -> str | None:
    """The setting of a run that was probably meant by a dotted name."""
    return _closest(tuple(name.split(".")), setting_names(RunConfig))


def _faults_between(settings: Settings, schema: type[RunConfig]) -> list[str]:
    """What does not fit together, in settings that are right each by itself."""
    try:
        schema.model_validate(settings)
    except ValidationError as error:
        return [line for detail in error.errors() if not detail["loc"] for line in _lines((), detail, "", ())]
    return []


def _without(settings: Settings, paths: Sequence[KeyPath]) -> Settings:
    rest = copy.deepcopy(settings)
    for path in paths:
        below: Any = rest
        for key in path[:-1]:
            below = below.get(key) if isinstance(below, dict) else None
        if isinstance(below, dict):
            below.pop(path[-1], None)
    return rest


def _key_path(detail: ErrorDetails) -> KeyPath:
    """Where the fault lies, without the names of the schema's own branches."""
    return tuple(part for part in detail["loc"] if not str(part).startswith(("<", "[key]")))


def _name(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _lines(path: KeyPath, detail: ErrorDetails, source: str, names: Sequence[str]) -> list[str]:
    if not path:
        return _words(detail).splitlines()
    return [f"{_name(path)}: {_fault(path, detail, names)}{source}"]


def _fault(path: KeyPath, detail: ErrorDetails, names: Sequence[str]) -> str:
    match detail["type"]:
        case "missing":
            return "must be given"
        case "extra_forbidden" if path == ("sweep",):
            return "is not for a single training; start it with loratrack sweep"
        case "extra_forbidden":
            close = _closest(path, names)
            return f"no such setting; did you mean {close}?" if close else "no such setting"
        case "model_type":
            return f"must hold settings of its own, got {_short.repr(detail['input'])}"
        case "value_error":
            return _words(detail)
        case _:
            return f"{_words(detail)}, got {_short.repr(detail['input'])}"


def _words(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _source(path: KeyPath, place: str, said: Sequence[Layer]) -> str:
    last = next((layer.place for layer in reversed(said) if _says(layer.settings, path)), place)
    return "" if last == place else f" (in {last})"


def _says(settings: Any, path: KeyPath) -> bool:
    for key in path:
        if not isinstance(settings, dict):
            return True
        if key not in settings:
            return False
        settings = settings[key]
    return True


def _meant(path: KeyPath, detail: ErrorDetails, names: Sequence[str]) -> str:
    """The setting that a fault is about: for an unknown one, the one it was probably meant to be."""
    return (_closest(path, names) if detail["type"] == "extra_forbidden" else None) or _name(path)


def _closest(path: KeyPath, names: Sequence[str]) -> str | None:
    names = [name for name in names if not _name(path).startswith(f"{name}.")]
    by_last = {name.rsplit(".", 1)[-1]: name for name in names}
    if path[-1] in by_last:
        return by_last[path[-1]]
    close = difflib.get_close_matches(_name(path), names, n=1, cutoff=0.8)
    close = close or difflib.get_close_matches(str(path[-1]), list(by_last), n=1, cutoff=0.7)
    return by_last.get(close[0], close[0]) if close else None


def setting_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all sections and settings of a schema."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(prefix + (field.alias or name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += setting_names(field.annotation, f"{prefix}{name}.")
    return names
