"""The texts of a file to label: read as training data is, with no labels asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from loratrack.data.labelled.checks import text_faults
from loratrack.data.tables import is_guessed, read_table
from loratrack.errors import DataError, problems_message


def read_texts(
    file: Path, text_columns: Sequence[str], notice: Callable[[str], None] = lambda text: None
) -> dict[str, list[str]]:
    """The text columns of a file, row for row; every fault of it is told in one DataError."""
    faults: list[str] = []
    table = read_table(file, text_columns, faults)
    if table is not None:
        faults += text_faults(table, text_columns)
    if faults or table is None:
        raise DataError(problems_message(str(file), faults))
    if is_guessed(table):
        notice(f"{file}: read as {table.encoding}, which is a guess; save it as UTF-8 to be sure")
    return {name: [value or "" for value in table.columns[name]] for name in text_columns}
