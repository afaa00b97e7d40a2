"""`loratrack cache ls|prune|clear`: the tokens kept from earlier runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loratrack.cli.screen import console

if TYPE_CHECKING:
    from loratrack.data.cache import Entry

MEBIBYTE = 2**20


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("cache", help="the token cache: ls, prune, clear")
    acts = parser.add_subparsers(required=True, metavar="ls|prune|clear")
    acts.add_parser("ls", help="show all entries, the one used last first").set_defaults(command=show)
    prune = acts.add_parser("prune", help="delete entries that were not used for long, or that are too much")
    prune.add_argument("--days", type=float, metavar="N", help="delete what was not used for N days")
    prune.add_argument("--mib", type=float, metavar="N", help="keep N MiB at most, the ones used last")
    prune.set_defaults(command=delete_old)
    acts.add_parser("clear", help="delete all entries; they are made again when needed").set_defaults(
        command=delete_all
    )


def show(_: argparse.Namespace) -> int:
    from loratrack.data import cache

    entries = cache.entries()
    for entry in entries:
        used = datetime.fromtimestamp(entry.used_at).strftime("%Y-%m-%d %H:%M")
        size = entry.num_bytes / MEBIBYTE
        console().print(f"{entry.key[:12]}  {size:9.2f} MiB  used {used}")
    _tell(entries, f"in {cache.folder()}")
    return 0


def delete_old(arguments: argparse.Namespace) -> int:
    from loratrack.data import cache

    if arguments.days is None and arguments.mib is None:
        arguments.days = 30.0
    max_bytes = None if arguments.mib is None else int(arguments.mib * MEBIBYTE)
    _tell(cache.prune(arguments.days, max_bytes), "deleted")
    return 0


def delete_all(_: argparse.Namespace) -> int:
    from loratrack.data import cache

    _tell(cache.clear(), "deleted")
    return 0


def _tell(entries: Sequence[Entry], what: str) -> None:
    size = sum(entry.num_bytes for entry in entries) / MEBIBYTE
    noun = "entry" if len(entries) == 1 else "entries"
    console().print(f"{len(entries)} {noun}, {size:.2f} MiB {what}")
