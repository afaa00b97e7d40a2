"""A data file as columns of text with their line numbers, and everything that is wrong with it.

Every value stays the text that stands in the file: `NA`, `007` and `1.0` are labels like any other.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path

from loratrack.data.encoding import GUESSED, UndecodableError, decode
from loratrack.errors import MAX_NAME_CHARACTERS, closest, counted, did_you_mean, quoted

MAX_LISTED_LINES = 10
EXCEL, PARQUET = "xlsx", "parquet"
"""Said in the place of an encoding."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
REMEDIES = {
    ".json": "; JSON is read one object a line, as .jsonl",
    ".xls": "; save it as .xlsx, or as CSV UTF-8",
}

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
    names: tuple[str, ...]
    """Of all columns that the file has."""
    notices: tuple[str, ...] = ()
    """How the file was read, where that is not what its name says."""

    def __len__(self) -> int:
        return len(self.lines)

    def without(self, rows: set[int]) -> Table:
        kept = [row for row in range(len(self)) if row not in rows]
        columns = {name: [values[row] for row in kept] for name, values in self.columns.items()}
        return replace(self, columns=columns, lines=[self.lines[row] for row in kept])


@dataclass(frozen=True)
class Parsed:
    """What a parser makes of a file: column names, rows with their lines, and the bad lines by problem."""

    names: list[str]
    rows: list[Row]
    lines: list[int]
    bad_lines: dict[str, list[int]]
    notices: list[str] = field(default_factory=list)
    encoding: str = ""


def read_table(
    file: Path,
    columns: Sequence[str],
    problems: list[str],
    separators: Mapping[str, str] | None = None,
    remedy: Callable[[dict[str, str]], str] = lambda meant: "rename the columns in the file",
) -> Table | None:
    """The named columns of a file; None when it cannot be read at all. Adds what is wrong to `problems`.

    `separators`: columns whose cells may be lists (JSON, Parquet), which become one text joined by it.
    `remedy`: what to do about missing columns, by what may have been meant with each.
    """

    def refuse(problem: str) -> None:
        problems.append(f"{file}: {problem}")

    suffix = file.suffix.lower()
    if suffix not in PARSERS:
        refuse(f"must be one of {', '.join(PARSERS)}, got {file.suffix!r}{REMEDIES.get(suffix, '')}")
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
        parsed = PARSERS[suffix](raw, columns, separators or {})
    except UndecodableError as error:
        refuse(str(error))
        return None

    num_before = len(problems)
    for problem, lines in parsed.bad_lines.items():
        refuse(f"{problem} at {lines_text(lines)}")
    if parsed.names or not parsed.bad_lines:  # else what the columns are is not known
        missing = [column for column in columns if column not in parsed.names]
        if missing:
            free = [name for name in parsed.names if name.strip() and name not in columns]
            unclaimed = [name for name in free if len(name) <= MAX_NAME_CHARACTERS]
            are_enough, meant = len(unclaimed) >= len(missing), {}
            for column in missing:
                near = closest(column, unclaimed)
                meant[column] = near or (unclaimed[0] if are_enough else "COLUMN")
                unclaimed = [name for name in unclaimed if name != meant[column]]
            hint = did_you_mean(missing[0], parsed.names) if len(missing) == 1 else ""
            listed = f"column{'s' if len(missing) > 1 else ''} {', '.join(map(quoted, missing))}"
            refuse(f"has no {listed}{hint}; it has {quoted(parsed.names)}; {remedy(meant)}")
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
    return Table(
        file=file,
        sha256=hashlib.sha256(raw).hexdigest(),
        num_bytes=len(raw),
        encoding=parsed.encoding,
        columns=values,
        lines=parsed.lines,
        names=tuple(parsed.names),
        notices=tuple(f"{file}: {notice}" for notice in parsed.notices),
    )


def lines_text(lines: Sequence[int]) -> str:
    """`line 3`, `lines 3, 5`, or the first ten and how many more."""
    listed = ", ".join(str(line) for line in lines[:MAX_LISTED_LINES])
    more = f", … and {len(lines) - MAX_LISTED_LINES} more" if len(lines) > MAX_LISTED_LINES else ""
    return f"line {listed}" if len(lines) == 1 else f"lines {listed}{more}"


def is_guessed(table: Table) -> bool:
    return table.encoding in GUESSED


def guessed_notice(table: Table) -> str:
    return f"{table.file}: encoding guessed as {table.encoding}; save the file as UTF-8 to be sure"


def _parse_separated(raw: bytes, columns: Sequence[str], usual: str) -> Parsed:
    decoded = decode(raw)
    delimiter = _separator(decoded.text, columns, usual)
    rows, bad_lines = _fields(decoded.text, delimiter)
    notices = []
    if delimiter != usual:
        told, expected = SEPARATORS[delimiter], SEPARATORS[usual]
        notices.append(f"its fields are separated by {told}, not by {expected}, and were read so")
    if not rows:
        return Parsed([], [], [], bad_lines, notices, decoded.encoding)

    names = [str(name) for name in rows[0][0]]
    nameless = [index for index, name in enumerate(names) if not name.strip()]
    odd_counts: dict[int, None] = {}
    odd_lines: list[int] = []
    whole = []
    for row, line in rows[1:]:
        if len(row) == len(names):
            whole.append((row, line))
        else:
            odd_counts[len(row)] = None
            odd_lines.append(line)
    if odd_lines:
        counts = " or ".join(map(str, sorted(odd_counts)[:3])) + (" or more" if len(odd_counts) > 3 else "")
        problem = f"must have {counted(len(names), 'field')} like the header, got {counts}"
        bad_lines.setdefault(problem, []).extend(odd_lines)
    if nameless[:1] == [0] and len(names) > 1 and _are_numbers([row[0] for row, _ in whole]):
        nameless.remove(0)
        notices.append("its first column has no name and numbers the rows, as pandas writes them: left out")
    spilled = [line for row, line in whole if any(row[index] for index in nameless)]
    if spilled:
        problem = "a value stands in a column without a name (quote texts with commas, or name the column)"
        bad_lines.setdefault(problem, []).extend(spilled)
    bad = {line for lines in bad_lines.values() for line in lines}
    good = [(row, line) for row, line in whole if line not in bad]
    return Parsed(
        names, [row for row, _ in good], [line for _, line in good], bad_lines, notices, decoded.encoding
    )


def _separator(text: str, columns: Sequence[str], usual: str) -> str:
    """The usual one, unless another parts the header into the columns that are asked for.

    Or into several columns, each with a name of its own, where the usual one does not part it at all.
    """
    headers = {}
    for delimiter in (usual, *SEPARATORS):
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            headers[delimiter] = next((values for values in reader if values), [])
        except csv.Error:
            headers[delimiter] = []
    for delimiter, names in headers.items():
        if columns and set(columns) <= set(names):
            return delimiter
    if len(headers[usual]) <= 1:
        for delimiter, names in headers.items():
            if len(names) > 1 and len(set(names)) == len(names) and all(map(str.strip, names)):
                return delimiter
    return usual


def _are_numbers(values: Sequence[str | None]) -> bool:
    """Whether they are whole numbers, each different."""
    return len(values) > 0 and all(map(str.isdecimal, map(str, values))) and len(set(values)) == len(values)


def _fields(text: str, delimiter: str) -> tuple[list[tuple[Row, int]], dict[str, list[int]]]:
    """Each row and the line it starts at; and the lines that cannot be parted, by problem."""
    # No field is too long: the limit of csv guards against an open quote, which strict mode reports.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[Row, int]] = []
    """A value with line breaks ends on a later line."""
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
    return rows, bad_lines


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("the same key stands twice in one object")
    return content


# Numbers stay the text they are written as, so that 1 and 1.0 are two labels; NaN is a missing value.
DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_int=str, parse_float=str, parse_constant=lambda _: None
)


def _parse_json_lines(raw: bytes, columns: Sequence[str], separators: Mapping[str, str]) -> Parsed:
    decoded = decode(raw)
    rows: list[tuple[dict[str, object], int]] = []
    bad_lines: dict[str, list[int]] = {}
    for line, content in enumerate(decoded.text.split("\n"), start=1):  # splitlines() cuts at U+2028 too
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
            rows.append((values, line))
        except ValueError as error:
            bad_lines.setdefault(str(error), []).append(line)
    names = list(dict.fromkeys(name for values, _ in rows for name in values))
    return _as_text(names, rows, columns, separators, bad_lines, [], decoded.encoding)


def _parse_excel(raw: bytes, columns: Sequence[str], separators: Mapping[str, str]) -> Parsed:
    """The first sheet, its first row as the header; a line is a row as Excel numbers it."""
    try:
        import openpyxl
    except ImportError:
        raise UndecodableError(
            "needs openpyxl to be read: `pip install openpyxl`; or save it in Excel as CSV UTF-8"
        ) from None
    with _faults_as("is no Excel workbook that openpyxl can read"):
        book = openpyxl.load_workbook(io.BytesIO(raw), read_only=True, data_only=True)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # some programs write wrong ones
        cells = [
            ([_excel_value(value) for value in row], line)
            for line, row in enumerate(sheet.iter_rows(values_only=True), start=1)
        ]
    filled = [(row, line) for row, line in cells if any(value is not None for value in row)]
    if not filled:
        return Parsed([], [], [], {}, [], EXCEL)
    names = ["" if name is None else str(name) for name in filled[0][0]]
    notices = []
    if len(book.worksheets) > 1:
        notices.append(f"it has {len(book.worksheets)} sheets, and only the first was read: {sheet.title!r}")
    rows = [(dict(zip(names, row, strict=False)), line) for row, line in filled[1:]]
    return _as_text(names, rows, columns, separators, {}, notices, EXCEL)


@contextmanager
def _faults_as(fault: str) -> Iterator[None]:
    """What a library says of a file that it cannot read, as one UndecodableError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # over a damaged file it is of any kind: zip, XML, text, numbers
        first = (str(error).strip().splitlines() or [""])[0]
        raise UndecodableError(f"{fault}: {type(error).__name__}: {first}") from error


def _excel_value(value: object) -> object:
    """As Excel shows it where the cell has no format of its own: 1 for 1.0, TRUE for true."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if value == "" else value


def _parse_parquet(raw: bytes, columns: Sequence[str], separators: Mapping[str, str]) -> Parsed:
    """A line is a row, counted from 1."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise UndecodableError("needs pyarrow to be read: `pip install pyarrow`") from None
    with _faults_as("is no Parquet file that pyarrow can read"):
        table = parquet.read_table(io.BytesIO(raw))
        wanted = table.select([name for name in columns if name in table.column_names])
        rows = [(values, line) for line, values in enumerate(wanted.to_pylist(), start=1)]
    return _as_text(list(table.column_names), rows, columns, separators, {}, [], PARQUET)


def _as_text(
    names: list[str],
    rows: Sequence[tuple[Mapping[str, object], int]],
    columns: Sequence[str],
    separators: Mapping[str, str],
    bad_lines: dict[str, list[int]],
    notices: list[str],
    encoding: str,
) -> Parsed:
    """The values of the columns that are asked for, as text; these columns come first."""
    if not set(columns) <= set(names):
        return Parsed(names, [], [], bad_lines, notices, encoding)
    others = list(names)
    for column in columns:
        others.remove(column)
    texts: list[Row] = []
    lines: list[int] = []
    for values, line in rows:
        try:
            texts.append([_cell(column, values.get(column), separators) for column in columns])
            lines.append(line)
        except ValueError as error:
            bad_lines.setdefault(str(error), []).append(line)
    return Parsed([*columns, *others], texts, lines, bad_lines, notices, encoding)


def _cell(column: str, value: object, separators: Mapping[str, str]) -> str | None:
    """A list of labels becomes one text."""
    if not isinstance(value, list):
        return _text(column, value)
    if column not in separators:
        raise ValueError(
            f"{quoted(column)} must be text, a number or true/false, got a list; lists of labels need"
            " data.multi_label"
        )
    separator, labels = separators[column], [_text(column, label) for label in value]
    if None in labels:
        raise ValueError(f"{quoted(column)} must list labels, got null among them")
    texts = [str(label) for label in labels]
    if any(separator in text for text in texts):
        raise ValueError(
            f"{quoted(column)} lists a label with the separator {separator!r} in it; set data.label_separator"
            " to a character that no label has"
        )
    return separator.join(texts)


def _text(column: str, value: object) -> str | None:
    """A value as the text that a reader of its file sees."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case datetime():
            is_day = (value.hour, value.minute, value.second, value.microsecond) == (0, 0, 0, 0)
            return value.date().isoformat() if is_day else value.isoformat(sep=" ")
        case date() | time() | Decimal() | int():
            return str(value)
        case float():
            return None if math.isnan(value) else repr(value)
        case str():
            pass
        case _:
            kind = type(value).__name__
            raise ValueError(f"{quoted(column)} must be text, a number or true/false, got a {kind}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(
                f"{quoted(column)} holds half of a character (a lone surrogate escape)"
            ) from None
    return value


PARSERS: dict[str, Callable[[bytes, Sequence[str], Mapping[str, str]], Parsed]] = {
    ".csv": lambda raw, columns, _: _parse_separated(raw, columns, ","),
    ".tsv": lambda raw, columns, _: _parse_separated(raw, columns, "\t"),
    ".jsonl": _parse_json_lines,
    ".xlsx": _parse_excel,
    ".parquet": _parse_parquet,
}
