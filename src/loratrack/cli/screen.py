"""The one door to the terminal: what goes through it is text, never markup, an emoji or an escape sequence.

Names, reasons and file contents come from anywhere. Each of their control characters becomes a space on the
screen, and an escape in JSON; so does a mark that turns the direction of writing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from loratrack.errors import counted, printable_lines
from loratrack.store import links

if TYPE_CHECKING:
    from loratrack.views.columns import Column

STATE_STYLES = {
    **dict.fromkeys(("FINISHED", "ok"), "green"),
    **dict.fromkeys(("RUNNING", "KILLED", "note"), "yellow"),
    **dict.fromkeys(("FAILED", "FAULT"), "red"),
}
"""Colours appear on a terminal alone, and not where NO_COLOR is set."""
BAR_OF_MLFLOW = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
"""Whether MLflow draws a bar for the files that it fetches or sends."""
CELL_GAP = 3
"""What the frame of a table takes beside each column."""


class Screen(Console):
    """A console of rich that takes no part of a text as its own language or the terminal's."""

    def render_str(self, text: str, **options: Any) -> Text:
        options |= {"markup": False, "emoji": False, "highlight": False}
        return super().render_str(printable_lines(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            # rich's own codes, as of a progress bar, come as `control`, and colours as a style
            is_text = not segment.control
            yield Segment(printable_lines(segment.text), segment.style) if is_text else segment


def console(*, beside_the_answers: bool = False) -> Screen:
    """The screen; or the error stream, for what must not mix with answers that are piped on."""
    return Screen(stderr=beside_the_answers, soft_wrap=True, markup=False, emoji=False, highlight=False)


def print_json(content: object) -> None:
    lines = json.dumps(content, ensure_ascii=False, indent=1).split("\n")
    console().out("\n".join("".join(map(_json_letter, line)) for line in lines))


def _json_letter(letter: str) -> str:
    """Letters that a terminal would obey are escaped, as JSON may write any letter."""
    return letter if letter.isprintable() else json.dumps(letter)[1:-1]


def view(page: str) -> list[str]:
    """The line of a summary that leads to MLflow's page, and what opens it while nothing serves it."""
    line = f"view         {page}"
    return [line] if links.is_served() else [line, "             loratrack ui serves it"]


def complain(text: str) -> None:
    """A message on the error stream; no line of it is broken."""
    sys.stderr.write(f"{printable_lines(text)}\n")
    sys.stderr.flush()


def complain_of_error(text: str) -> None:
    """The reason why a command ends, below the name of the program."""
    line = Text("loratrack: ", style="bold red")
    console(beside_the_answers=True).print(line.append(printable_lines(text), style="not bold default"))


def loading() -> AbstractContextManager[object]:
    """At a terminal a word on the error stream as long as the block takes: torch needs seconds to load."""
    beside = console(beside_the_answers=True)
    return beside.status("loading …") if beside.is_terminal else nullcontext()


def in_colours(text: str) -> Text:
    """The text with each word that says how a run or a finding stands in its colour."""
    coloured = Text(printable_lines(text))
    for word, style in STATE_STYLES.items():
        coloured.highlight_regex(rf"\b{word}\b", style)
    return coloured


class Complaints(logging.Handler):
    """Warnings on the error stream, ours and those of libraries that set up no logging of their own."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


class Help(argparse.HelpFormatter):
    """Each line of a text is filled by itself, and an indented one, as an example is, stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(
            line if line.startswith(" ") else super(Help, self)._fill_text(line, width, indent)
            for line in lines
        )


class Parser(argparse.ArgumentParser):
    """Words that it does not know are shown in its message, as text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Help, **options})

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        super().exit(status, None if message is None else printable_lines(message))


def fitted_table(columns: Sequence[Column], screen: Console) -> tuple[Table, list[Column]]:
    """The columns that a terminal has room for, and the others.

    A file or a pipe has room for all, unless COLUMNS says how wide it is.
    """
    from loratrack.views.columns import fitting

    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = max(screen.width, sum(column.width + CELL_GAP for column in columns) + 1)
    with_room, left_out = fitting(columns, screen.width, CELL_GAP)
    table = Table()
    for column in with_room:
        table.add_column(column.heading, justify="right" if column.is_number else "left", no_wrap=True)
    for cells in zip(*(column.cells for column in with_room), strict=True):
        table.add_row(
            *(
                in_colours(cell) if column.name == "status" else cell
                for column, cell in zip(with_room, cells, strict=True)
            )
        )
    return table, left_out


def left_out_line(columns: Sequence[Column], width: int, remedy: str = "") -> str:
    """How many columns there is no room for, what to do, and as many of their names as two lines hold."""
    names = [column.heading for column in columns]
    begin = f"no room for {counted(len(names), 'column')}: "
    line = f"{begin}{', '.join(names)}{remedy}"
    while names and cell_len(line) > 2 * width:
        names.pop()
        line = f"{begin}{', '.join([*names, '…'])}{remedy}"
    return line
