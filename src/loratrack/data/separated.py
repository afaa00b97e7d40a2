"""CSV and TSV, with the separators and the nameless index column that they come with."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from loratrack.data.encoding import decode
from loratrack.data.parsed import Parsed, Row, values_without_name
from loratrack.errors import counted

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def parse_separated(raw: bytes, columns: Sequence[str], usual: str) -> Parsed:
    decoded = decode(raw)
    delimiter = _separator(decoded.text, columns, usual)
    rows, bad_lines = _fields(decoded.text, delimiter)
    notices = []
    if delimiter != usual:
        found, expected = SEPARATORS[delimiter], SEPARATORS[usual]
        notices.append(f"its fields are separated by {found}, not by {expected}, and were read so")
    if not rows:
        return Parsed([], [], [], bad_lines, notices, decoded.encoding)

    names = [str(name) for name in rows[0][0]]
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
    told, spilled = values_without_name(names, whole, "quote texts with commas, or name the column")
    notices += told
    for problem, lines in spilled.items():
        bad_lines.setdefault(problem, []).extend(lines)
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
