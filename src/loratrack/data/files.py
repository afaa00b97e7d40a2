"""The bytes of a data file, or what is wrong with naming it; and what its encoding is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from loratrack.data.encoding import GUESSED
from loratrack.errors import did_you_mean


def read_bytes(
    file: Path, suffixes: Sequence[str], problems: list[str], remedies: Mapping[str, str]
) -> bytes | None:
    """None, and a problem more, where it is of another kind, missing or not readable.

    `remedies`: what to do with files of some other kinds, by suffix.
    """
    suffix = file.suffix.lower()
    if suffix not in suffixes:
        problem = f"must be one of {', '.join(suffixes)}, got {file.suffix!r}{remedies.get(suffix, '')}"
    elif not file.exists():
        names = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
        problem = f"no such file{did_you_mean(file.name, names)}"
    elif not file.is_file():
        problem = "must be a file, got a folder" if file.is_dir() else "must be a regular file"
    else:
        try:
            return file.read_bytes()
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
    problems.append(f"{file}: {problem}")
    return None


def guessed_notices(file: Path, encoding: str) -> list[str]:
    """One where the encoding was found by statistics, which may be wrong."""
    if encoding not in GUESSED:
        return []
    return [f"{file}: encoding guessed as {encoding}; save the file as UTF-8 to be sure"]
