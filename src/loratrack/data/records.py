"""Files whose rows have typed values by name: JSON lines, Excel and Parquet. Each value becomes text."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal

from loratrack.data.encoding import UndecodableError, decode
from loratrack.data.parsed import Parsed, Row, values_without_name
from loratrack.errors import quoted

EXCEL, PARQUET = "xlsx", "parquet"
"""Said in the place of an encoding."""


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("the same key stands twice in one object")
    return {name: _truths_as_written(value) for name, value in content.items()}


def _truths_as_written(value: object) -> object:
    match value:
        case bool():
            return "true" if value else "false"
        case list():
            return [_truths_as_written(item) for item in value]
        case _:
            return value


# Numbers stay the text they are written as, so that 1 and 1.0 are two labels; NaN is a missing value.
DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_int=str, parse_float=str, parse_constant=lambda _: None
)


def parse_json_lines(raw: bytes, columns: Sequence[str], separators: Mapping[str, str]) -> Parsed:
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


def parse_excel(raw: bytes, columns: Sequence[str], separators: Mapping[str, str]) -> Parsed:
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
    # A row may be longer or shorter than the header.
    width = max(len(row) for row, _ in filled)
    padded = [([*row, *[None] * (width - len(row))], line) for row, line in filled[1:]]
    told, spilled = values_without_name(
        names + [""] * (width - len(names)), padded, "name the column, or clear its cells"
    )
    notices += told
    rows = [(dict(zip(names, row, strict=False)), line) for row, line in padded]
    return _as_text(names, rows, columns, separators, spilled, notices, EXCEL)


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
    """As Excel shows it where the cell has no format of its own: 1 for 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if value == "" else value


def parse_parquet(raw: bytes, columns: Sequence[str], separators: Mapping[str, str]) -> Parsed:
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
    """A value as the text that a reader of its file sees; true and false as pandas writes them to CSV."""
    match value:
        case None:
            return None
        case datetime():
            is_day = (value.hour, value.minute, value.second, value.microsecond) == (0, 0, 0, 0)
            return value.date().isoformat() if is_day else value.isoformat(sep=" ")
        case date() | time() | Decimal() | int():  # a bool is an int: True
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
