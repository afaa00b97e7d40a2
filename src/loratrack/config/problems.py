"""What is wrong with settings, in the words of the file: key path, problem, value, and which file said it."""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from loratrack.config.layers import Layer, Settings
from loratrack.config.schema import READ_TOGETHER, RunConfig
from loratrack.errors import closest, full_width

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


def problems_of(
    settings: Settings,
    error: ValidationError,
    source: str,
    layers: Sequence[Layer],
    schema: type[RunConfig] = RunConfig,
) -> list[str]:
    """All problems of `settings`, whose validation as `schema` raised `error`; one line each.

    A problem that a layer other than `source` brought in names that layer.
    """
    names = setting_names(schema)
    lines: list[str] = []
    bad_paths: list[tuple[int | str, ...]] = []
    are_rules_checked = False  # pydantic checks the rules across sections only where each section is valid
    for detail in error.errors():
        # pydantic's path also holds the names of the schema's own branches
        path = tuple(part for part in detail["loc"] if not str(part).startswith(("<", "[key]")))
        name, text, value = ".".join(map(str, path)), _text(detail), _short.repr(detail["input"])
        if not path:
            lines += text.splitlines()
            are_rules_checked = True
            continue
        meant = closest_setting(name, names) if detail["type"] == "extra_forbidden" else None
        match detail["type"]:
            case "missing":
                text = "must be given"
            case "extra_forbidden" if name == "sweep":
                text = f"this is a sweep config; run it with: loratrack sweep {source}"
            case "extra_forbidden":
                text = f"no such setting; did you mean {meant}?" if meant else "no such setting"
            case "model_type":
                text = f"must hold settings of its own, got {value}"
            case "float_parsing" | "int_parsing":
                number = "number" if detail["type"] == "float_parsing" else "whole number"
                text = f"must be a {number}, got {value}{full_width(value)}"
            case "literal_error":
                text = f"must be one of {_plain_list(detail)}, got {value}"
            case "value_error":
                pass  # our own words, with the value where it helps
            case _:
                text = f"{text}, got {value}"
        said_by = next((layer.source for layer in reversed(layers) if layer.holds(path)), source)
        lines.append(f"{name}: {text}" + ("" if said_by == source else f" (in {said_by})"))
        bad_paths.append(path)
        # What a rule would say of a setting that is wrong by itself only follows from that.
        are_rules_checked = are_rules_checked or (meant or name).startswith(READ_TOGETHER)
    if ("exp_id",) in bad_paths and ("data",) in bad_paths and not settings.keys() & {"exp_id", "data"}:
        lines = [line for line in lines if line not in ("exp_id: must be given", "data: must be given")]
        lines.append(
            "exp_id, data: must be given; a file without them is a parent: name it as base_config in a file"
            " of your own"
        )
    if are_rules_checked:
        return lines
    rest = copy.deepcopy(settings)
    for *parents, last in bad_paths:
        section: object = rest
        for key in parents:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(last, None)
    try:
        schema.model_validate(rest)
    except ValidationError as broken_rules:
        of_rules = [detail for detail in broken_rules.errors() if not detail["loc"]]
        lines += [line for detail in of_rules for line in _text(detail).splitlines()]
    return lines


def _text(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ").replace("Input should ", "must ")
    return message[:1].lower() + message[1:]


def _plain_list(detail: ErrorDetails) -> str:
    """`'cls', 'mean' or 'last'`, as pydantic says it, without quotes."""
    return str(detail.get("ctx", {})["expected"]).replace("'", "").replace(" or ", ", ")


def closest_setting(name: str, names: Sequence[str] | None = None) -> str | None:
    """The setting that was probably meant by a dotted name, of a run's settings unless `names` are given."""
    names = [one for one in names or setting_names(RunConfig) if not name.startswith(f"{one}.")]
    by_last = {one.rsplit(".", 1)[-1]: one for one in names}
    last = name.rsplit(".", 1)[-1]
    if last in by_last:
        return by_last[last]
    near = closest(name, names, cutoff=0.8) or closest(last, by_last, cutoff=0.7)
    return None if near is None else by_last.get(near, near)


def setting_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all sections and settings of a schema."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(prefix + (field.alias or name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += setting_names(field.annotation, f"{prefix}{name}.")
    return names
