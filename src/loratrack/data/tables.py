"""A data file as columns of text with their line numbers, and everything that is wrong with it.

Every value stays the text that stands in the file: `NA`, `007` and `1.0` are labels like any other.
"""

from __future__ import annotations

import hashlib
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loratrack.data.encoding import UndecodableError
from loratrack.data.files import read_bytes
from loratrack.data.parsed import Parsed
from loratrack.data.records import parse_excel, parse_json_lines, parse_parquet
from loratrack.data.separated import parse_separated
from loratrack.errors import MAX_NAME_CHARACTERS, closest, did_you_mean, quoted

MAX_LISTED_LINES = 10
REMEDIES = {
    ".json": "; JSON is read one object a line, as .jsonl",
    ".xls": "; save it as .xlsx, or as CSV UTF-8",
}


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

    raw = read_bytes(file, tuple(PARSERS), problems, REMEDIES)
    if raw is None:
        return None
    if not raw.removeprefix(BOM_UTF8).strip():
        refuse("is empty; it must hold a header and rows")
        return None
    try:
        parsed = PARSERS[file.suffix.lower()](raw, columns, separators or {})
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


def lines_text(lines: Sequence[int], noun: str = "line") -> str:
    """`line 3`, `lines 3, 5`, or the first ten and how many more."""
    listed = ", ".join(str(line) for line in lines[:MAX_LISTED_LINES])
    more = f", … and {len(lines) - MAX_LISTED_LINES} more" if len(lines) > MAX_LISTED_LINES else ""
    return f"{noun} {listed}" if len(lines) == 1 else f"{noun}s {listed}{more}"


PARSERS: dict[str, Callable[[bytes, Sequence[str], Mapping[str, str]], Parsed]] = {
    ".csv": lambda raw, columns, _: parse_separated(raw, columns, ","),
    ".tsv": lambda raw, columns, _: parse_separated(raw, columns, "\t"),
    ".jsonl": parse_json_lines,
    ".xlsx": parse_excel,
    ".parquet": parse_parquet,
}
