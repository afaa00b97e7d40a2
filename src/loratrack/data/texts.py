"""The texts of a file to label: read as training data is, with no labels asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from loratrack.data.files import guessed_notices
from loratrack.data.labelled.checks import text_problems
from loratrack.data.tables import read_table
from loratrack.errors import DataError, problems_message


def read_texts(
    file: Path, text_columns: Sequence[str], notice: Callable[[str], None] = lambda text: None
) -> dict[str, list[str]]:
    """The text columns of a file, row for row; one DataError reports all its problems."""
    problems: list[str] = []
    table = read_table(file, text_columns, problems)
    if table is not None:
        problems += text_problems(table, text_columns)
    if problems or table is None:
        raise DataError(problems_message(str(file), problems))
    for line in (*guessed_notices(file, table.encoding), *table.notices):
        notice(line)
    return {name: [value or "" for value in table.columns[name]] for name in text_columns}
