"""`loratrack cache ls|prune|clear`: the tokens kept from earlier runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from loratrack.cli.commands import Commands, examples
from loratrack.cli.screen import console, print_json

if TYPE_CHECKING:
    from loratrack.data.cache import Entry

MEBIBYTE = 2**20


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "cache",
        help="the token cache: ls, prune, clear",
        description="The tokens of data that was trained on before: the next run starts at once.",
        epilog=examples("loratrack cache ls", "loratrack cache prune --days 30 --mib 500", codes=""),
    )
    acts = parser.add_subparsers(required=True, metavar="ls|prune|clear")
    listing = acts.add_parser("ls", help="list all entries, last used first")
    listing.set_defaults(command=show)
    prune = acts.add_parser("prune", help="delete old entries, or the oldest until the rest is small enough")
    prune.add_argument(
        "--days", type=float, metavar="N", help="delete entries not used for N days; default 30 without --mib"
    )
    prune.add_argument("--mib", type=float, metavar="N", help="keep at most N MiB, last used first")
    prune.set_defaults(command=delete_old)
    clear = acts.add_parser("clear", help="delete all entries; each is made again when it is needed")
    clear.set_defaults(command=delete_all)
    for act in (listing, prune, clear):
        act.add_argument("--json", action="store_true", help="the entries as JSON")


def show(arguments: argparse.Namespace) -> int:
    from loratrack.data import cache

    entries = cache.entries()
    if arguments.json:
        print_json({"folder": str(cache.folder()), **facts(entries)})
        return 0
    for entry in entries:
        used = datetime.fromtimestamp(entry.used_at).strftime("%Y-%m-%d %H:%M")
        size = entry.num_bytes / MEBIBYTE
        console().print(f"{entry.key[:12]}  {size:9.2f} MiB  used {used}")
    _print_total(entries, f"in {cache.folder()}")
    return 0


def delete_old(arguments: argparse.Namespace) -> int:
    from loratrack.data import cache

    if arguments.days is None and arguments.mib is None:
        arguments.days = 30.0
    max_bytes = None if arguments.mib is None else int(arguments.mib * MEBIBYTE)
    _print_deleted(cache.prune(arguments.days, max_bytes), is_json=arguments.json)
    return 0


def delete_all(arguments: argparse.Namespace) -> int:
    from loratrack.data import cache

    _print_deleted(cache.clear(), is_json=arguments.json)
    return 0


def facts(entries: Sequence[Entry]) -> dict[str, object]:
    return {
        "entries": [
            {
                "key": entry.key,
                "bytes": entry.num_bytes,
                "used": datetime.fromtimestamp(entry.used_at, UTC).isoformat(timespec="seconds"),
            }
            for entry in entries
        ],
        "bytes": sum(entry.num_bytes for entry in entries),
    }


def _print_deleted(entries: Sequence[Entry], *, is_json: bool) -> None:
    if is_json:
        print_json({"deleted": facts(entries)})
    else:
        _print_total(entries, "deleted")


def _print_total(entries: Sequence[Entry], what: str) -> None:
    size = sum(entry.num_bytes for entry in entries) / MEBIBYTE
    noun = "entry" if len(entries) == 1 else "entries"
    console().print(f"{len(entries)} {noun}, {size:.2f} MiB {what}")
