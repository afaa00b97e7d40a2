"""`loratrack sync`: send what the tracking store has not got yet."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from loratrack.cli.screen import console

if TYPE_CHECKING:
    from loratrack.tracking.shipper import SyncReport

UNSENT = 1


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "sync", help="send metrics and files that the tracking store has not got yet"
    )
    parser.set_defaults(command=command)


def command(_: argparse.Namespace) -> int:
    from loratrack.store.client import connect
    from loratrack.store.place import store_folder, store_name
    from loratrack.tracking import shipper

    report = shipper.sync(store_folder(), store_name(), connect())
    for line in lines(report, store_name()):
        console().print(line)
    return UNSENT if report.waiting or report.refused else 0


def lines(report: SyncReport, place: str) -> list[str]:
    told = [f"{place}: {report.sent} sent, {report.waiting} waiting"]
    if report.fault:
        told.append(f"stopped: {report.fault}; try again when the store is back")
    told += [f"run {run}: its own process is sending" for run in report.busy]
    told += [f"run {run}: the store refuses a part: {reason}" for run, reason in report.refused]
    told += [f"{count} more wait for {other}" for other, count in report.elsewhere.items()]
    return told
