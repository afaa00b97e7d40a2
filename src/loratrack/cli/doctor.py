"""`loratrack doctor`: what is wrong here, and what to do about it."""

from __future__ import annotations

import argparse

from loratrack.checkpoints import KEPT_DAYS
from loratrack.cli.commands import Commands, examples
from loratrack.cli.screen import console, in_colours, print_json
from loratrack.errors import UserError

FAULT = 1
MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what is wrong here, and what to do about it",
        description="Check the environment, the store, its runs, the registry, disk, GPU and hub.",
        epilog=examples(
            "loratrack doctor",
            "loratrack doctor --fix",
            codes="exit codes: 0 nothing to do, 1 there is a fault, 2 wrong use",
        ),
    )
    parser.add_argument(
        "--fix", action="store_true", help="end runs whose process is gone, and correct artifact paths"
    )
    parser.add_argument(
        "--run",
        metavar="ID",
        help="with --fix: end this run too, which runs elsewhere and is known to be dead",
    )
    parser.add_argument(
        "--days",
        type=int,
        metavar="N",
        help=f"with --fix: remove the checkpoints of stopped runs that are older ({KEPT_DAYS} by itself)",
    )
    parser.add_argument("--json", action="store_true", help="all findings as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from loratrack.views import machine

    if arguments.run is not None and not arguments.fix:
        raise UserError("--run: means nothing without --fix")
    if arguments.days is not None and (not arguments.fix or arguments.days < 0):
        raise UserError("--days: must be a number of days from 0 on, with --fix")
    kept_days = KEPT_DAYS if arguments.days is None else arguments.days
    findings = list(machine.check(is_fix=arguments.fix, dead_run=arguments.run, kept_days=kept_days))
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
    else:
        screen = console()
        for finding in findings:
            remedy = f"  -> {finding.remedy}" if finding.remedy else ""
            line = in_colours(MARKS[finding.state])
            screen.print(line.append(f"  {finding.area:<11}  {finding.text}{remedy}", style="default"))
    return FAULT if any(finding.state == "fault" for finding in findings) else 0
