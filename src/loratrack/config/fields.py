"""Kinds of values that the sections of a config share, and the rules that every section keeps."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4000
"""What file systems take, with some room for what is put before a path."""

YES, NO = {"true", "yes", "on"}, {"false", "no", "off"}


def one_shape_of(must: str, *words: str) -> Discriminator:
    """Tells a list, a mapping and one of a few words apart, so that a message names what was meant."""

    def shape(value: object) -> str | None:
        if isinstance(value, list | tuple):
            return "<list>"
        if isinstance(value, dict):
            return "<mapping>"
        return "<word>" if value in words or (not words and isinstance(value, str)) else None

    return Discriminator(shape, custom_error_type="shape", custom_error_message=must)


Seed = Annotated[int, Field(ge=0, lt=2**32)]


def path_problem(path: str) -> str | None:
    """What no file system takes: a part of more than 255 bytes, or a NUL."""
    longest = max(path.split("/"), key=lambda part: len(part.encode()))
    num_bytes = len(longest.encode())
    if num_bytes > MAX_NAME_BYTES:
        return f"must have names of at most {MAX_NAME_BYTES} bytes, got {num_bytes}: {longest:.40}…"
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"must be a path of at most {MAX_PATH_BYTES} bytes, got {len(path.encode())}"
    return f"must be a path without NUL, got {path!r}" if "\0" in path else None


def _path(path: str) -> str:
    if problem := path_problem(path):
        raise ValueError(problem)
    return path


Share = Annotated[float, Field(ge=0, lt=1)]
NotEmpty = Annotated[str, Field(min_length=1)]
FilePath = Annotated[str, Field(min_length=1), AfterValidator(_path)]
Size = Annotated[int, Field(gt=0, le=1_000_000)]
"""Of a batch, in epochs or steps: no machine holds or trains more."""
Factor = Annotated[float, Field(gt=0, le=1_000_000)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
