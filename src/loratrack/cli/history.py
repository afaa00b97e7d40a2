"""`loratrack history MODEL`: every move of the aliases, and what was moved by hand."""

from __future__ import annotations

import argparse
import shlex

from rich.table import Table

from loratrack.cli.commands import Commands, examples
from loratrack.cli.screen import console, print_json

NO_MOVES = 1
NONE = "–"
MOMENT_CHARACTERS = len("2026-11-27 14:30:05")
"""Of a moment; its difference from UTC is that of this machine, and stands in the JSON."""


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "history",
        help="who was champion, since when, and why",
        description="Every move of a model's aliases: when, from which version to which, by whom and why; and"
        " what was moved by hand.",
        epilog=examples(
            "loratrack history clinc",
            codes="exit codes: 0 found, 1 no such model or no move yet, 2 wrong use",
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="a registered model")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.views.history import history

    content = history(arguments.model)
    if arguments.json:
        print_json(content)
        return 0 if content["moves"] else NO_MOVES
    table = Table(box=None, pad_edge=False)
    for heading in ("when", "what", "alias", "from", "to", "who", "why"):
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("who", "why"))
    for move in content["moves"]:
        when = (move["when"] or "now").replace("T", " ")[:MOMENT_CHARACTERS]
        versions = [NONE if version is None else str(version) for version in (move["from"], move["to"])]
        table.add_row(when, move["event"], move["alias"] or NONE, *versions, move["who"], move["why"])
    screen = console()
    screen.print(table if content["moves"] else f"{arguments.model}: no move yet")
    for text in content["drift"]:
        screen.print(f"drift: {text}")
    if content["drift"]:
        screen.print(f"repair it: loratrack registry reconcile {shlex.quote(arguments.model)}")
    return 0 if content["moves"] else NO_MOVES
