"""A data file as columns of text with their line numbers, and everything that is wrong with it.

Every value stays the text that stands in the file: `NA`, `007` and `1.0` are labels like any other.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratrack.data.encoding import GUESSED, Decoded, UndecodableError, decode
from loratrack.errors import did_you_mean

MAX_SHOWN = 10

Record = Sequence[str | None]


@dataclass(frozen=True)
class Table:
    """`columns[name][i]` stands at line `lines[i]` of `file`; None is a value that is not there."""

    file: Path
    sha256: str
    num_bytes: int
    encoding: str
    columns: dict[str, list[str | None]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True)
class Parsed:
    """What a parser makes of a text: the names it found, one record a row, and the bad lines by fault."""

    names: list[str]
    records: list[Record]
    lines: list[int]
    bad_lines: dict[str, list[int]]


def read_table(file: Path, columns: Sequence[str], faults: list[str]) -> Table | None:
    """The named columns of a file; None when it cannot be read at all. Adds what is wrong to `faults`."""
    told = len(faults)
    raw = _bytes(file, faults)
    if raw is None:
        return None
    try:
        decoded = decode(raw)
    except UndecodableError as error:
        faults.append(f"{file}: {error}")
        return None
    rows = PARSERS[file.suffix.lower()](decoded.text, columns)
    faults += [f"{file}: {fault} at {lines_text(lines)}" for fault, lines in rows.bad_lines.items()]
    if rows.names or not rows.bad_lines:
        faults += _column_faults(file, rows.names, columns)
    if len(faults) > told:
        return None
    if not rows.records:
        faults.append(f"{file}: holds no rows, only a header")
        return None
    return _table(file, raw, decoded, rows, columns)


def lines_text(lines: Sequence[int]) -> str:
    """`line 3`, `lines 3, 5`, or the first ten and how many more."""
    shown = ", ".join(str(line) for line in lines[:MAX_SHOWN])
    more = f", … and {len(lines) - MAX_SHOWN} more" if len(lines) > MAX_SHOWN else ""
    return f"line {shown}" if len(lines) == 1 else f"lines {shown}{more}"


def is_guessed(table: Table) -> bool:
    return table.encoding in GUESSED


def _bytes(file: Path, faults: list[str]) -> bytes | None:
    fault = _path_fault(file)
    if fault is not None:
        faults.append(f"{file}: {fault}")
        return None
    try:
        raw = file.read_bytes()
    except OSError as error:
        faults.append(f"{file}: cannot be read: {error.strerror}")
        return None
    if not raw.removeprefix(BOM_UTF8).strip():
        faults.append(f"{file}: is empty; it must hold a header and rows")
        return None
    return raw


def _path_fault(file: Path) -> str | None:
    if file.suffix.lower() not in PARSERS:
        return f"must be one of {', '.join(PARSERS)}, got {file.suffix!r}; JSON is read one object a line"
    if not file.exists():
        names = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
        return f"no such file{did_you_mean(file.name, names)}"
    if not file.is_file():
        return "must be a file, got a folder" if file.is_dir() else "must be a regular file"
    return None


def _column_faults(file: Path, names: Sequence[str], columns: Sequence[str]) -> list[str]:
    faults = [
        f"{file}: has no column {column!r}{did_you_mean(column, names)}; it has {list(names)!r}"
        " (settings data.text_column, data.label_subset, data.label_columns)"
        for column in columns
        if column not in names
    ]
    twice = [column for column in columns if names.count(column) > 1]
    return faults + [f"{file}: has the column {column!r} more than once; rename one" for column in twice]


def _table(file: Path, raw: bytes, decoded: Decoded, rows: Parsed, columns: Sequence[str]) -> Table:
    places = {column: rows.names.index(column) for column in columns}
    values = {column: [record[place] for record in rows.records] for column, place in places.items()}
    sha256 = hashlib.sha256(raw).hexdigest()
    return Table(file, sha256, len(raw), decoded.encoding, values, rows.lines)


def _parse_separated(text: str, delimiter: str) -> Parsed:
    # No field is too long: the limit of csv guards against an open quote, which strict mode tells.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    bad_lines: dict[str, list[int]] = {}
    found = [(record, line) for record, line in _records(reader, delimiter, bad_lines) if record]
    if not found:
        return Parsed([], [], [], bad_lines)
    names = [str(name) for name in found[0][0]]
    good = _fitting(names, found[1:], bad_lines)
    return Parsed(names, [record for record, _ in good], [line for _, line in good], bad_lines)


def _records(reader: Any, delimiter: str, bad_lines: dict[str, list[int]]) -> Iterator[tuple[Record, int]]:
    """Each record and the line it starts at; a blank line is an empty record."""
    line = 1
    while True:
        try:
            for record in reader:
                yield record, line
                line = reader.line_num + 1
            return
        except csv.Error as error:
            bad_lines.setdefault(_quoting_fault(error, delimiter), []).append(line)
            line = reader.line_num + 1


def _quoting_fault(error: csv.Error, delimiter: str) -> str:
    if "unexpected end of data" in str(error):
        return "a quote is opened and never closed"
    return f"a closing quote must stand before {delimiter!r} or the line's end (a quote inside is doubled)"


def _fitting(
    names: Sequence[str], found: list[tuple[Record, int]], bad_lines: dict[str, list[int]]
) -> list[tuple[Record, int]]:
    """The records with one value for each name; the others are told in `bad_lines`."""
    nameless = [place for place, name in enumerate(names) if not name.strip()]
    for record, line in found:
        if len(record) != len(names):
            fault = f"must have {len(names)} fields like the header, has {len(record)}"
            bad_lines.setdefault(fault, []).append(line)
        elif nameless and any(record[place] for place in nameless):
            fault = "a value stands in a column without a name (quote texts with commas, or name the column)"
            bad_lines.setdefault(fault, []).append(line)
    bad = {line for lines in bad_lines.values() for line in lines}
    return [pair for pair in found if pair[1] not in bad] if bad else found


def _parse_json_lines(text: str, columns: Sequence[str]) -> Parsed:
    names: dict[str, None] = {}
    records: list[Record] = []
    lines: list[int] = []
    bad_lines: dict[str, list[int]] = {}
    for line, content in enumerate(text.split("\n"), start=1):  # splitlines() would cut at U+2028 too
        if not content.strip():
            continue
        try:
            record = _json_object(content)
            names.update(dict.fromkeys(record))
            records.append([_json_text(column, record.get(column)) for column in columns])
            lines.append(line)
        except ValueError as error:
            bad_lines.setdefault(str(error), []).append(line)
    known = [column for column in columns if column in names]
    if len(known) < len(columns):
        return Parsed(list(names), [], [], bad_lines)
    return Parsed(list(columns), records, lines, bad_lines)


def _json_object(content: str) -> dict[str, Any]:
    try:
        record = DECODER.decode(content.strip())
    except json.JSONDecodeError as error:
        raise ValueError(f"must be one JSON object a line ({error.msg.lower()})") from None
    except RecursionError:
        raise ValueError("must be one JSON object a line (nested too deeply)") from None
    if not isinstance(record, dict):
        raise ValueError(f"must be one JSON object a line, got a {type(record).__name__}")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("the same key stands twice in one object")
    return record


# Numbers stay the text they are written as, so that 1 and 1.0 are two labels; NaN is a missing value.
DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=str, parse_float=str, parse_constant=lambda _: None
)


def _json_text(column: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        raise ValueError(f"{column!r} must be text, a number or true/false, got a {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"{column!r} holds half of a character (a lone surrogate escape)") from None
    return value


PARSERS: dict[str, Callable[[str, Sequence[str]], Parsed]] = {
    ".csv": lambda text, _: _parse_separated(text, ","),
    ".tsv": lambda text, _: _parse_separated(text, "\t"),
    ".jsonl": _parse_json_lines,
}
