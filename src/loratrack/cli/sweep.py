"""`loratrack sweep CONFIG`: many trials on one base, the best of them registered; and what came of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from loratrack.cli.commands import Commands, add_settings_to, examples
from loratrack.cli.run import CODES
from loratrack.cli.screen import (
    CELL_GAP,
    console,
    fitted_table,
    left_out_line,
    loading,
    print_json,
    view,
)
from loratrack.errors import UserError, counted

if TYPE_CHECKING:
    from rich.console import Console

    from loratrack.tuning.report import Report

SHOW = "show"


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "sweep",
        help="search for the best settings",
        description="Train trials until the sweep is over, go on with one that was interrupted, or help with"
        " one that runs elsewhere; the last process registers the best trial. `sweep show` shows how it"
        " stands.",
        epilog=examples(
            "loratrack sweep projects/clinc/sweep.yaml",
            "loratrack sweep projects/clinc/sweep.yaml --set sweep.trials=48",
            "loratrack sweep show clinc-rank-weights --plot pictures",
            codes=CODES,
        ),
        usage="loratrack sweep CONFIG [--set KEY=VALUE] [--json]\n"
        "       loratrack sweep show NAME [--plot DIR] [--storage URL] [--json]",
    )
    parser.add_argument(
        "config", help="a YAML file with a `sweep` section; or the word show (a file of that name is ./show)"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="for show: the sweep's name")
    add_settings_to(parser, "sweep.trials=8")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="for show: write pictures and a page there")
    parser.add_argument(
        "--storage", metavar="URL", help="for show: the sweep's storage, where it has its own"
    )
    parser.add_argument(
        "--json", action="store_true", help="the result as JSON; everything else goes to the error stream"
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.experiments.loading import load_search

    if arguments.config == SHOW:
        return show(arguments)
    if arguments.name is not None:
        raise UserError(f"sweep: takes one config, got {arguments.config!r} and {arguments.name!r}")
    from loratrack.tracking.failures import told_to_mlflow

    with told_to_mlflow(), loading():
        config = load_search(arguments.config, arguments.set)
        from loratrack.experiments.checking import check

        corpus = check(config)
        from loratrack.cli.progress import SweepBar
        from loratrack.experiments.sweep import sweep

    screen = console(beside_the_answers=arguments.json)
    with SweepBar(screen) as bar:
        result = sweep(config, bar, corpus)
    if arguments.json:
        from loratrack.views.sweep import facts

        print_json(result.facts() | {"report": None if result.report is None else facts(result.report)})
    elif result.is_concluded and result.report is not None:
        print_report(result.report, screen)
    if result.version is not None and not arguments.json:
        screen.print(f"model        {result.model}")
    for line in view(result.link):
        screen.print(line)
    if result.status != "FINISHED":
        by = "the disk is full" if result.ended_by is None else result.ended_by.name
        done = counted(result.num_done, "trial")
        screen.print(f"stopped ({by}); {done} done; the same command goes on")
    return result.exit_code


def show(arguments: argparse.Namespace) -> int:
    """The best trials of a sweep, and what mattered."""
    if arguments.name is None:
        raise UserError("sweep show: needs the name of a sweep: loratrack sweep show NAME")
    from loratrack.experiments.sweep import existing
    from loratrack.views.sweep import facts, write

    begun, report = existing(arguments.name, arguments.storage)
    screen = console(beside_the_answers=arguments.json)
    if arguments.json:
        print_json(facts(report))
    else:
        print_report(report, screen)
    if arguments.plot is not None:
        screen.print(f"page         {write(begun, report, arguments.plot)}")
    return 0


def print_report(report: Report, screen: Console) -> None:
    from dataclasses import replace

    from rich.table import Table

    from loratrack.views import sweep as views
    from loratrack.views.columns import SHORT_HASH, fitting

    counts = ", ".join(f"{count} {state}" for state, count in report.counts.items())
    screen.print(f"{report.name}: {counts or 'no trials yet'}")
    if report.best:
        columns = views.best_trials(report)
        best_run = columns[-1].cells[0]
        if screen.is_terminal and fitting(columns, screen.width, CELL_GAP)[1]:
            columns[-1] = replace(columns[-1], cells=tuple(cell[:SHORT_HASH] for cell in columns[-1].cells))
        table, left_out = fitted_table(columns, screen)
        table.title = "best trials"
        screen.print(table)
        if left_out:
            screen.print(left_out_line(left_out, screen.width))
        screen.print(f"best run     {best_run}")
    shares = views.importances(report)
    if len(shares) > 1:  # the first is the heading
        table = Table(*shares[0], title="importance")
        for cells in shares[1:]:
            table.add_row(*cells)
        screen.print(table)
    screen.print(f"importance   {report.evidence}")
