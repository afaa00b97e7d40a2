"""`loratrack sync`: send what the tracking store has not received yet."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from loratrack.cli.commands import Commands, examples
from loratrack.cli.screen import console, print_json

UNSENT = 1


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "sync",
        help="send metrics and files that the tracking store has not received yet",
        description="Send what waits here since the tracking store was away: metrics, files, and the versions"
        " that runs have asked for. Sending twice stores once.",
        epilog=examples(
            "loratrack sync",
            "loratrack sync --json",
            codes="exit codes: 0 everything is sent, 1 something is still waiting or was refused",
        ),
    )
    parser.add_argument("--json", action="store_true", help="what was sent as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.store.client import connect
    from loratrack.store.place import store_folder, store_name
    from loratrack.tracking import shipper

    report = shipper.sync(store_folder(), store_name(), connect())
    code = UNSENT if report.waiting or report.refused else 0
    if arguments.json:
        print_json({"store": store_name(), **asdict(report)})
        return code
    screen = console()
    screen.print(f"{store_name()}: {report.sent} sent, {report.waiting} waiting")
    if report.fault:
        screen.print(f"stopped: {report.fault}; try again when the store is back")
    for run_id in report.busy:
        screen.print(f"run {run_id}: its own process is sending")
    for run_id, reason in report.refused:
        screen.print(f"run {run_id}: the store refuses a part: {reason}")
    for run_id, reason in report.put_off:
        screen.print(f"run {run_id}: the store cannot take a part now, it is tried again: {reason}")
    for store, count in report.elsewhere.items():
        screen.print(f"{count} more are waiting for {store}")
    return code
