"""What is printed is printed as it is: no text of a user or a file is read as markup, emoji or colour."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from loratrack.views.columns import Column

CELL_GAP = 3
"""What the frame of a table takes beside each column."""


def console(*, beside_the_answers: bool = False) -> Console:
    """The screen; or the error stream, for what must not mix with answers that are piped on."""
    return Console(stderr=beside_the_answers, soft_wrap=True, markup=False, emoji=False, highlight=False)


def print_json(content: object) -> None:
    console().out(json.dumps(content, ensure_ascii=False, indent=1))


def fitted_table(columns: Sequence[Column], screen: Console) -> tuple[Table, list[Column]]:
    """The columns that a terminal has room for, and the others; a file or a pipe has room for all."""
    from loratrack.views.columns import fitting

    if not screen.is_terminal:
        screen.width = max(screen.width, sum(column.width + CELL_GAP for column in columns) + 1)
    with_room, left_out = fitting(columns, screen.width, CELL_GAP)
    table = Table()
    for column in with_room:
        table.add_column(column.heading, justify="right" if column.is_number else "left", no_wrap=True)
    for cells in zip(*(column.cells for column in with_room), strict=True):
        table.add_row(*cells)
    return table, left_out
