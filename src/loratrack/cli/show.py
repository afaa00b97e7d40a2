"""`loratrack show RUN|EXP`: everything of one run on one screen."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from loratrack.cli.commands import Commands, examples
from loratrack.cli.screen import complain, console, fitted_table, in_colours, print_json
from loratrack.errors import RefusedError, UserError
from loratrack.index.naming import MODEL_HELP, MODEL_WORDS
from loratrack.places import ANSWERS, METRICS

if TYPE_CHECKING:
    from loratrack.index.detail import Detail

PIPE_WIDTH = 120
"""Columns at least, where no terminal says its width."""


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "show",
        help="everything of one run",
        description="Everything of one run: settings, scores, epochs, versions, files, environment, notices.",
        epilog=examples(
            "loratrack show clinc_dual",
            "loratrack show 0a1b2c3d --plots pictures",
            codes="exit codes: 0 found, 1 no such run, 2 wrong use",
        ),
    )
    parser.add_argument("run", metavar=MODEL_WORDS, help=MODEL_HELP)
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw its curves and confusions there")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.index.detail import detail as detail_of
    from loratrack.index.opened import open_tables
    from loratrack.views import run

    with open_tables() as tables:
        detail = detail_of(tables, arguments.run)
    if arguments.plots is not None:
        draw(detail, arguments.plots)
    if arguments.json:
        print_json(run.run(detail))
        return 0
    screen = console()
    if not screen.is_terminal:
        screen.width = screen.width if "COLUMNS" in os.environ else max(screen.width, PIPE_WIDTH)
    first, *others = run.head(detail)
    screen.print(in_colours(first), *others, "", sep="\n")
    if detail.run.scores:
        heading, *rows = run.scores(detail)
        table = Table()
        for index, text in enumerate(heading):
            table.add_column(text, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        screen.print(table)
    if detail.epochs:
        epochs = run.epochs(detail)
        table, left_out = fitted_table(epochs.columns, screen)
        screen.print(table)
        more = [f"{epochs.num_left_out} more {epochs.columns[0].heading}s"] if epochs.num_left_out else []
        more += [column.name for column in left_out]
        if more:
            screen.print(f"with --json also {', '.join(more)}")
    blocks = []
    for section, values in run.settings(detail).items():
        block = Table.grid(padding=(0, 2))
        block.add_row(Text(section, style="bold"))
        for name, text in values.items():
            block.add_row(name, text)
        blocks.append(block)
    screen.print("", Columns(blocks, padding=(0, 4)), "", sep="\n")
    for line in run.tail(detail):
        screen.print(line)
    return 0


def draw(detail: Detail, folder: Path) -> None:
    from loratrack.index.detail import kept_text
    from loratrack.views import answers  # matplotlib takes a second

    name = f"run {detail.run.summary.run_id}"
    metrics, counts = kept_text(detail, METRICS), kept_text(detail, ANSWERS)
    if metrics is None:
        raise RefusedError(f"{name}: has kept no {METRICS}, so there is nothing to draw")
    try:
        notice = answers.draw(folder, metrics, counts)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{name}: {METRICS} or {ANSWERS} is not as a run writes it ({error})") from None
    if counts is None:
        complain(f"{name}: has kept no {ANSWERS}; its loss alone is drawn")
    if notice is not None:
        complain(f"{folder}: {notice}")
    complain(f"drawn into {folder}: {', '.join(sorted(file.name for file in folder.glob('*.png')))}")
