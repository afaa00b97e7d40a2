"""What is wrong with the values of a table: empty texts, missing labels, labels outside the subset."""

from __future__ import annotations

from collections.abc import Sequence

from loratrack.data.labelled.labels import MAX_LISTED_LABELS, labels_of_cell
from loratrack.data.tables import Table, lines_text
from loratrack.errors import did_you_mean, quoted


def text_problems(table: Table, columns: Sequence[str]) -> list[str]:
    """A row needs text in at least one of its text columns."""
    empty = set(range(len(table)))
    for column in columns:
        texts = table.columns[column]
        empty = {row for row, text in enumerate(texts) if not text or text.isspace()} & empty
    if not empty:
        return []
    what = "the text is empty" if len(columns) == 1 else "all text columns are empty"
    where = lines_text([table.lines[row] for row in sorted(empty)])
    return [f"{table.file}: {what} at {where}; fill or delete these rows"]


def label_problems(table: Table, column: str) -> list[str]:
    values = set(table.columns[column])
    missing = {value for value in values if not value or value.isspace()}
    spaced = {value for value in values - missing if value != str(value).strip()}
    problems = []
    if missing:
        where = lines_text(_lines_of(table, column, missing))
        problems.append(
            f"{table.file}: the label {quoted(column)} is missing at {where}; fill or delete these rows"
        )
    if spaced:
        where = lines_text(_lines_of(table, column, spaced))
        examples = ", ".join(map(quoted, sorted(map(str, spaced))[:MAX_LISTED_LABELS]))
        problems.append(
            f"{table.file}: the label {quoted(column)} has space around it at {where}, got {examples}"
        )
    return problems


def unknown_label_problems(
    table: Table, column: str, labels: Sequence[str], separator: str | None = None
) -> list[str]:
    rows = [labels_of_cell(cell, separator) for cell in table.columns[column]]
    unknown = sorted({label for row in rows for label in row} - set(labels))

    def lines_with(label: str) -> list[int]:
        return [line for row, line in zip(rows, table.lines, strict=True) if label in row]

    problems = [
        f"{table.file}: the label {quoted(column)} must be one of the task's {len(labels)}, got"
        f" {quoted(label)} at {lines_text(lines_with(label))}{did_you_mean(label, labels)}"
        for label in unknown[:MAX_LISTED_LABELS]
    ]
    if len(unknown) > MAX_LISTED_LABELS:
        more = len(unknown) - MAX_LISTED_LABELS
        problems.append(f"{table.file}: … and {more} more such labels in {quoted(column)}")
    if unknown:
        problems[-1] += "; correct them, add them to data.label_subset, or set data.unknown_label: drop"
    return problems


def _lines_of(table: Table, column: str, values: set[str | None]) -> list[int]:
    return [line for value, line in zip(table.columns[column], table.lines, strict=True) if value in values]
