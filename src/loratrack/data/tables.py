"""A data file as columns of text with their line numbers, and everything that is wrong with it.

Every value stays the text that stands in the file: `NA`, `007` and `1.0` are labels like any other.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratrack.data.encoding import GUESSED, UndecodableError, decode
from loratrack.errors import did_you_mean, quoted

MAX_LISTED_LINES = 10

Row = Sequence[str | None]


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
    """What a parser makes of a text: column names, rows with their lines, and the bad lines by problem."""

    names: list[str]
    rows: list[Row]
    lines: list[int]
    bad_lines: dict[str, list[int]]


def read_table(
    file: Path, columns: Sequence[str], problems: list[str], separators: Mapping[str, str] | None = None
) -> Table | None:
    """The named columns of a file; None when it cannot be read at all. Adds what is wrong to `problems`.

    `separators`: columns whose cells may be lists in JSON; they become one text, joined by the separator.
    """

    def refuse(problem: str) -> None:
        problems.append(f"{file}: {problem}")

    suffix = file.suffix.lower()
    if suffix not in PARSERS:
        refuse(f"must be one of {', '.join(PARSERS)}, got {file.suffix!r}; JSON is read one object a line")
        return None
    if not file.exists():
        names = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
        refuse(f"no such file{did_you_mean(file.name, names)}")
        return None
    if not file.is_file():
        refuse("must be a file, got a folder" if file.is_dir() else "must be a regular file")
        return None
    try:
        raw = file.read_bytes()
    except OSError as error:
        refuse(f"cannot be read: {error.strerror}")
        return None
    if not raw.removeprefix(BOM_UTF8).strip():
        refuse("is empty; it must hold a header and rows")
        return None
    try:
        decoded = decode(raw)
    except UndecodableError as error:
        refuse(str(error))
        return None

    parsed = PARSERS[suffix](decoded.text, columns, separators or {})
    num_before = len(problems)
    for problem, lines in parsed.bad_lines.items():
        refuse(f"{problem} at {lines_text(lines)}")
    if parsed.names or not parsed.bad_lines:  # else what the columns are is not known
        for column in columns:
            if column not in parsed.names:
                refuse(
                    f"has no column {quoted(column)}{did_you_mean(column, parsed.names)}; it has"
                    f" {quoted(parsed.names)}"
                    " (settings data.text_column, data.label_subset, data.label_columns)"
                )
        for column in columns:
            if parsed.names.count(column) > 1:
                refuse(f"has the column {quoted(column)} more than once; rename one")
    if len(problems) > num_before:
        return None
    if not parsed.rows:
        refuse("holds no rows, only a header")
        return None
    values: dict[str, list[str | None]] = {}
    for column in columns:
        index = parsed.names.index(column)
        values[column] = [row[index] for row in parsed.rows]
    return Table(file, hashlib.sha256(raw).hexdigest(), len(raw), decoded.encoding, values, parsed.lines)


def lines_text(lines: Sequence[int]) -> str:
    """`line 3`, `lines 3, 5`, or the first ten and how many more."""
    listed = ", ".join(str(line) for line in lines[:MAX_LISTED_LINES])
    more = f", … and {len(lines) - MAX_LISTED_LINES} more" if len(lines) > MAX_LISTED_LINES else ""
    return f"line {listed}" if len(lines) == 1 else f"lines {listed}{more}"


def is_guessed(table: Table) -> bool:
    return table.encoding in GUESSED


def _parse_separated(text: str, delimiter: str) -> Parsed:
    # No field is too long: the limit of csv guards against an open quote, which strict mode reports.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[Row, int]] = []
    """Each row and the line it starts at; a value with line breaks ends on a later one."""
    bad_lines: dict[str, list[int]] = {}
    line, is_at_end = 1, False
    while not is_at_end:
        try:
            for values in reader:
                if values:  # a blank line has none
                    rows.append((values, line))
                line = reader.line_num + 1
            is_at_end = True
        except csv.Error as error:  # the reader goes on behind the bad row
            if "unexpected end of data" in str(error):
                problem = "a quote is opened and never closed"
            else:
                problem = (
                    f"a closing quote must stand before {delimiter!r} or the line's end"
                    " (a quote inside is doubled)"
                )
            bad_lines.setdefault(problem, []).append(line)
            line = reader.line_num + 1
    if not rows:
        return Parsed([], [], [], bad_lines)

    names = [str(name) for name in rows[0][0]]
    nameless = [index for index, name in enumerate(names) if not name.strip()]
    for row, line in rows[1:]:
        if len(row) != len(names):
            problem = f"must have {len(names)} fields like the header, has {len(row)}"
            bad_lines.setdefault(problem, []).append(line)
        elif nameless and any(row[index] for index in nameless):
            problem = (
                "a value stands in a column without a name (quote texts with commas, or name the column)"
            )
            bad_lines.setdefault(problem, []).append(line)
    bad = {line for lines in bad_lines.values() for line in lines}
    good = [(row, line) for row, line in rows[1:] if line not in bad]
    return Parsed(names, [row for row, _ in good], [line for _, line in good], bad_lines)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("the same key stands twice in one object")
    return content


# Numbers stay the text they are written as, so that 1 and 1.0 are two labels; NaN is a missing value.
DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_int=str, parse_float=str, parse_constant=lambda _: None
)


def _parse_json_lines(text: str, columns: Sequence[str], separators: Mapping[str, str]) -> Parsed:
    names: dict[str, None] = {}
    rows: list[Row] = []
    lines: list[int] = []
    bad_lines: dict[str, list[int]] = {}
    for line, content in enumerate(text.split("\n"), start=1):  # splitlines() would cut at U+2028 too
        if not content.strip():
            continue
        try:
            try:
                values = DECODER.decode(content.strip())
            except json.JSONDecodeError as error:
                raise ValueError(f"must be one JSON object a line ({error.msg.lower()})") from None
            except RecursionError:
                raise ValueError("must be one JSON object a line (nested too deeply)") from None
            if not isinstance(values, dict):
                raise ValueError(f"must be one JSON object a line, got a {type(values).__name__}")
            names.update(dict.fromkeys(values))
            rows.append([_json_cell(column, values.get(column), separators) for column in columns])
            lines.append(line)
        except ValueError as error:
            bad_lines.setdefault(str(error), []).append(line)
    if not set(columns) <= set(names):
        return Parsed(list(names), [], [], bad_lines)
    return Parsed(list(columns), rows, lines, bad_lines)


def _json_cell(column: str, value: object, separators: Mapping[str, str]) -> str | None:
    if not isinstance(value, list) or column not in separators:
        return _json_text(column, value)
    separator, labels = separators[column], [_json_text(column, label) for label in value]
    if None in labels:
        raise ValueError(f"{quoted(column)} must list labels, got null among them")
    texts = [str(label) for label in labels]
    if any(separator in text for text in texts):
        raise ValueError(
            f"{quoted(column)} lists a label with the separator {separator!r} in it; set data.label_separator"
            " to a character that no label has"
        )
    return separator.join(texts)


def _json_text(column: str, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        raise ValueError(
            f"{quoted(column)} must be text, a number or true/false, got a {type(value).__name__}"
        )
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(
                f"{quoted(column)} holds half of a character (a lone surrogate escape)"
            ) from None
    return value


PARSERS: dict[str, Callable[[str, Sequence[str], Mapping[str, str]], Parsed]] = {
    ".csv": lambda text, *_: _parse_separated(text, ","),
    ".tsv": lambda text, *_: _parse_separated(text, "\t"),
    ".jsonl": _parse_json_lines,
}
