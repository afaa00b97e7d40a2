"""`bundle.json`: which files make up a model, what it was trained on, and the sha256 of all of it.

    manifest = read(folder)            # checked in form, not yet against the files
    faults(folder, manifest)           # {"heads.safetensors": "changed since the model was saved"}
    whole(folder)                      # both, or UserError

It cannot stop somebody who changes a file and its entry too. It does say that every file which is read is
listed, and that it is as it was saved.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from loratrack.disk import sha256_of
from loratrack.errors import UserError, problems_message
from loratrack.places import ADAPTER, BUNDLE, CONFIG_COPY, FULL, HEADS, LABEL_MAP, PROBE, THRESHOLDS

FORMAT: Literal[1] = 1
MAX_BYTES = 2**24
"""Far more than the names of any network's files."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class RecordedBase(_Strict):
    name: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    origin: Literal["built-in", "local", "hub", "run"]
    sha256: Sha256
    tokenizer_sha256: Sha256
    runs_code: bool = False


class Manifest(_Strict):
    format: Literal[1]
    base: RecordedBase
    precision: Literal["fp32", "bf16"]
    layout: Literal["packed", "padded"]
    files: dict[str, Sha256]


def whole(folder: Path) -> Manifest:
    """The manifest, once every file of the model was found as it was saved."""
    manifest = read(folder)
    if found := faults(folder, manifest):
        problems = [f"{name}: {fault}" for name, fault in found.items()]
        message = problems_message(str(folder), problems)
        raise UserError(f"{message}\n  not the model that was saved; restore the run's artifacts")
    return manifest


def read(folder: Path) -> Manifest:
    file = folder / BUNDLE
    if not file.is_file():
        raise UserError(
            f"{folder}: not a model of ours, since it has no file {BUNDLE}; restore the run's artifacts"
        )
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES)
        return Manifest.model_validate_json(content)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problems = []
        for each in error.errors(include_url=False, include_context=False):
            has_value = each["type"] not in ("missing", "json_invalid")
            got = f", got {reprlib.repr(each['input'])}" if has_value else ""
            place = ".".join(map(str, each["loc"]))
            if place == "format":  # of another format nothing else can be said
                raise UserError(f"{file}: format must be {FORMAT}{got}; update loratrack") from None
            problems.append(f"{place or BUNDLE}: {each['msg']}{got}")
        message = problems_message(str(file), problems)
        raise UserError(f"{message}\n  not as loratrack wrote it; restore the run's artifacts") from None


def faults(folder: Path, manifest: Manifest) -> dict[str, str]:
    """What is wrong with which file."""
    if links := [top for top in (ADAPTER, FULL) if (folder / top).is_symlink()]:
        return dict.fromkeys(links, "a link, which may lead to all files of this machine")
    own = {path.relative_to(folder).as_posix(): path for path in parts(folder)}
    found = {}
    for name in sorted(own.keys() | manifest.files.keys()):
        if name not in manifest.files:
            found[name] = f"not listed in {BUNDLE}"
        elif name not in own or not own[name].is_file():
            found[name] = "missing from the model"
        elif sha256_of(own[name]) != manifest.files[name]:
            found[name] = "changed since the model was saved"
    return found


def parts(folder: Path) -> list[Path]:
    """The files that make up the model, in a fixed order."""
    inside = [path for top in (ADAPTER, FULL) for path in (folder / top).rglob("*") if not path.is_dir()]
    optional = [path for path in (folder / PROBE, folder / THRESHOLDS) if path.exists()]
    return sorted([*inside, folder / HEADS, folder / LABEL_MAP, folder / CONFIG_COPY, *optional])
