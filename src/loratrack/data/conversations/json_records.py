"""The records of a JSON file: a list of them, one object, or one object a line. Values stay as they are."""

from __future__ import annotations

import hashlib
import json
import re
from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path

from loratrack.data.encoding import UndecodableError, decode
from loratrack.data.files import read_bytes
from loratrack.data.tables import lines_text

SUFFIXES = (".json", ".jsonl")
REMEDIES = dict.fromkeys((".csv", ".tsv", ".xlsx", ".parquet"), "; write conversations as JSON")
SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Records:
    file: Path
    sha256: str
    num_bytes: int
    encoding: str
    noun: str
    """What the numbers count: `record` in a list, `line` where each line has one."""
    values: list[tuple[int, object]]
    """Each with its number, from 1 on."""


class _RepeatedKeyError(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise _RepeatedKeyError
    return content


# NaN is what pandas writes for a missing value.
DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=lambda _: None)


def read_records(file: Path, problems: list[str]) -> Records | None:
    """None when the file cannot be read. Adds what is wrong to `problems`; bad lines are left out."""
    raw = read_bytes(file, SUFFIXES, problems, REMEDIES)
    if raw is None:
        return None
    bad_lines: dict[str, list[int]] = {}
    try:
        if not raw.removeprefix(BOM_UTF8).strip():
            raise UndecodableError("is empty; it must hold records")
        decoded = decode(raw)
        text = decoded.text
        start = _after_space(text, 0)
        noun = "record"
        if text.startswith("[", start):
            values = _of_list(text, start)
        else:
            values = _of_one(text, start, is_lines=file.suffix.lower() == ".jsonl")
            if not values:
                noun, values = "line", _of_lines(text, bad_lines)
        if not values and not bad_lines:
            raise UndecodableError("holds no records")
    except UndecodableError as error:
        problems.append(f"{file}: {error}")
        return None
    for fault, lines in bad_lines.items():
        problems.append(f"{file}: {lines_text(lines)}: must be one JSON object a line ({fault})")
    return Records(file, hashlib.sha256(raw).hexdigest(), len(raw), decoded.encoding, noun, values)


def _of_list(text: str, start: int) -> list[tuple[int, object]]:
    """Record by record, so that a fault has the record's number. `start`: of the list."""
    values: list[tuple[int, object]] = []
    place = _after_space(text, start + 1)
    has_more = not text.startswith("]", place)
    while has_more:
        number = len(values) + 1
        try:
            value, end = DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise UndecodableError(f"record {number}: {_fault(error, text, place)}") from None
        values.append((number, value))
        place = _after_space(text, end)
        has_more = text.startswith(",", place)
        if has_more:
            place = _after_space(text, place + 1)
        elif not text.startswith("]", place):
            line = text.count("\n", 0, place) + 1
            raise UndecodableError(f"record {number}: no comma or ] follows it (line {line})")
    if rest := text[_after_space(text, place + 1) :]:
        line = text.count("\n", 0, len(text) - len(rest)) + 1
        raise UndecodableError(f"line {line}: something follows the end of the list")
    return values


def _of_one(text: str, start: int, *, is_lines: bool) -> list[tuple[int, object]]:
    """The text as one value, over however many lines; nothing where it is to be read line by line."""
    try:
        value, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        if is_lines:
            return []
        raise UndecodableError(
            f"must be JSON: a list, one object, or one object a line; {_fault(error, text, start)}"
        ) from None
    return [(1, value)] if _after_space(text, end) == len(text) else []


def _of_lines(text: str, bad_lines: dict[str, list[int]]) -> list[tuple[int, object]]:
    values: list[tuple[int, object]] = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() cuts at U+2028 too
        content = line.strip()
        if not content:
            continue
        try:
            values.append((number, DECODER.decode(content)))
        except (ValueError, RecursionError) as error:
            bad_lines.setdefault(_fault(error), []).append(number)
    return values


def _fault(error: Exception, text: str = "", place: int = 0) -> str:
    """What is wrong, and at which line of the text that is."""
    match error:
        case json.JSONDecodeError():
            fault, place = error.msg.lower(), error.pos
        case _RepeatedKeyError():
            fault = "the same key stands twice in one object"
        case RecursionError():
            fault = "nested too deeply"
        case _:
            fault = "a number has too many digits"
    return f"{fault} (line {text.count(chr(10), 0, place) + 1})" if text else fault


def _after_space(text: str, place: int) -> int:
    match = SPACE.match(text, place)
    assert match is not None
    return match.end()
