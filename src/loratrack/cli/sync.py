"""`loratrack sync`: send what the tracking store has not received yet."""

from __future__ import annotations

import argparse

from loratrack.cli.commands import Commands
from loratrack.cli.screen import console

UNSENT = 1


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "sync",
        help="send metrics and files that the tracking store has not received yet",
        epilog="exit codes: 0 everything is sent, 1 something still waits or is refused",
    )
    parser.set_defaults(command=command)


def command(_: argparse.Namespace) -> int:
    from loratrack.store.client import connect
    from loratrack.store.place import store_folder, store_name
    from loratrack.tracking import shipper

    report = shipper.sync(store_folder(), store_name(), connect())
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
        screen.print(f"{count} more wait for {store}")
    return UNSENT if report.waiting or report.refused else 0
