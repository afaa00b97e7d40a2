"""`loratrack init DATA`: a config from the header and the labels of a data file."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from loratrack.cli.commands import Commands, examples
from loratrack.cli.screen import console


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "init",
        help="write a config for a data file",
        description="Write a config from the columns and labels of a data file. It asks nothing, says what it"
        " guessed and why, and replaces no file.",
        epilog=examples(
            "loratrack init projects/mine/reviews.csv", "loratrack init reviews.csv --label stars"
        ),
    )
    parser.add_argument("data", type=Path, help="CSV, TSV, JSONL, Excel or Parquet, a row for each text")
    parser.add_argument("--text", metavar="COLUMN", help="the column with the text; default: guessed")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column with labels, one for each task; repeat it; default: guessed",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the config to write; default: beside the data, as DATA.yaml"
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.experiments import first_config

    out = arguments.out or arguments.data.with_suffix(".yaml")
    first = first_config.guess(arguments.data, arguments.text, arguments.label)
    first_config.write(first, out)
    screen = console()
    for reason in first.reasons:
        screen.print(reason)
    screen.print(f"\n{out} is written; all of it may be changed. Next:")
    screen.print(f"  loratrack check {shlex.quote(str(out))}")
    screen.print(f"  loratrack run {shlex.quote(str(out))}")
    return 0
