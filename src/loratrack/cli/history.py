"""`loratrack history MODEL`: every move of the aliases, and what was moved by hand."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from loratrack.registry.events import Event

NOTHING_FOUND = 1


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "history",
        help="who was champion, since when, and why",
        epilog="exit codes: 0 found, 1 no such model or no move yet, 2 wrong use",
    )
    parser.add_argument("model", metavar="MODEL", help="a registered model")
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.registry import promotion

    moves, drifts = promotion.history(arguments.model), promotion.drift(arguments.model)
    console = Console(soft_wrap=True)
    if arguments.json:
        content = {
            "model": arguments.model,
            "aliases": promotion.aliases(arguments.model),
            "moves": [_as_json(event) for event in moves],
            "drift": [drift.text for drift in drifts],
        }
        console.out(json.dumps(content, ensure_ascii=False, indent=1), highlight=False)
    else:
        console.print(_table(moves) if moves else f"{arguments.model}: no move yet")
        for drift in drifts:
            console.print(f"drift: {drift.text}", highlight=False, markup=False)
        if drifts:
            console.print(f"mend it: loratrack registry reconcile {arguments.model}", highlight=False)
    return 0 if moves else NOTHING_FOUND


def _as_json(event: Event) -> dict[str, Any]:
    return {
        "when": _when(event),
        "event": event.kind,
        "alias": event.alias,
        "from": event.before,
        "to": event.after,
        "who": event.who,
        "why": event.why,
        "run_id": event.run_id or None,
    }


def _table(moves: list[Event]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("when", "what", "alias", "from", "to", "who", "why"):
        table.add_column(heading, overflow="fold")
    for event in moves:
        numbers = ("–" if version is None else str(version) for version in (event.before, event.after))
        when = (_when(event) or "now").replace("T", " ")
        table.add_row(when, event.kind, event.alias or "–", *numbers, event.who, event.why)
    return table


def _when(event: Event) -> str | None:
    """None for what was found just now."""
    if not event.at_ms:
        return None
    return datetime.fromtimestamp(event.at_ms / 1000).astimezone().isoformat(timespec="seconds")
