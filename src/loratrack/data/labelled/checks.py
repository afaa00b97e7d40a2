"""What is wrong with the values of a table: empty texts, missing labels, labels outside the subset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from loratrack.data.labelled.labels import MAX_LISTED_LABELS, labels_of_cell
from loratrack.data.tables import Table, lines_text
from loratrack.errors import did_you_mean, quoted

FILL = "fill or delete these rows"
ROWS_OF_A_SLIP = 10
"""A label mistyped has at most a tenth of the rows of the label that was meant."""


def rows_without_text(table: Table, columns: Sequence[str]) -> set[int]:
    """A row needs text in at least one of its text columns."""
    empty = set(range(len(table)))
    for column in columns:
        texts = table.columns[column]
        empty = {row for row, text in enumerate(texts) if not text or text.isspace()} & empty
    return empty


def text_problems(table: Table, columns: Sequence[str], remedy: str = FILL) -> list[str]:
    empty = rows_without_text(table, columns)
    if not empty:
        return []
    what = "the text is empty" if len(columns) == 1 else "all text columns are empty"
    where = lines_text([table.lines[row] for row in sorted(empty)])
    return [f"{table.file}: {what} at {where}; {remedy}"]


def lines_without_label(table: Table, column: str) -> list[int]:
    values = set(table.columns[column])
    return _lines_of(table, column, {value for value in values if not value or value.isspace()})


def label_problems(table: Table, column: str) -> list[str]:
    values = set(table.columns[column])
    spaced = {value for value in values if value is not None and value.strip() not in ("", value)}
    problems = []
    if missing := lines_without_label(table, column):
        where = lines_text(missing)
        problems.append(f"{table.file}: the label {quoted(column)} is missing at {where}; {FILL}")
    if spaced:
        where = lines_text(_lines_of(table, column, spaced))
        examples = ", ".join(map(quoted, sorted(map(str, spaced))[:MAX_LISTED_LABELS]))
        problems.append(
            f"{table.file}: the label {quoted(column)} has space around it at {where}, got {examples}"
        )
    return problems


def labels_in(table: Table, column: str, separator: str | None = None) -> Counter[str]:
    """How many rows each label has; what `label_problems` reports is no label."""
    values: Counter[str] = Counter()
    for cell, count in Counter(table.columns[column]).items():
        for label in labels_of_cell(cell, separator):
            if label == label.strip():
                values[label] += count
    return values


def unknown_label_problems(
    table: Table,
    column: str,
    labels: Sequence[str],
    rows_of: Mapping[str, int],
    told: Set[str] = frozenset(),
    separator: str | None = None,
) -> list[str]:
    """`rows_of`: the number of rows of each label in all of the data; `told`: labels that were reported."""

    def meant(label: str) -> str:
        """Only a label with far fewer rows than another is a slip: `not urgent` is not meant as `urgent`."""
        least = rows_of[label] * ROWS_OF_A_SLIP
        return did_you_mean(label, [known for known in labels if rows_of.get(known, 0) >= least])

    rows = [labels_of_cell(cell, separator) for cell in table.columns[column]]

    def lines_with(label: str) -> list[int]:
        return [line for row, line in zip(rows, table.lines, strict=True) if label in row]

    unknown = sorted(labels_in(table, column, separator).keys() - set(labels) - told)
    problems = [
        f"{table.file}: the label {quoted(column)} must be one of the task's {len(labels)}, got"
        f" {quoted(label)} at {lines_text(lines_with(label))}{meant(label)}"
        for label in unknown[:MAX_LISTED_LABELS]
    ]
    if len(unknown) > MAX_LISTED_LABELS:
        more = len(unknown) - MAX_LISTED_LABELS
        problems.append(f"{table.file}: … and {more} more such labels in {quoted(column)}")
    if unknown:
        problems[-1] += "; correct them, add them to data.label_subset, or set data.unknown_label: drop"
    return problems


def _lines_of(table: Table, column: str, values: Set[str | None]) -> list[int]:
    return [line for value, line in zip(table.columns[column], table.lines, strict=True) if value in values]
