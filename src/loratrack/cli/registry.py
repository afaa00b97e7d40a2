"""`loratrack registry reconcile|delete`: the registry brought in order, and a version deleted."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.console import Console

from loratrack.cli.commands import EXIT_CODES
from loratrack.errors import UserError


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "registry", help="mend what was moved by hand, delete a version"
    )
    acts = parser.add_subparsers(required=True, metavar="reconcile|delete")
    mend = acts.add_parser(
        "reconcile", help="bring stages and history in line with the aliases", epilog=EXIT_CODES
    )
    mend.add_argument("model", metavar="MODEL", nargs="?", help="one registered model; all without it")
    mend.add_argument(
        "--force", action="store_true", help="count a move that another machine has begun as broken off"
    )
    mend.add_argument("--json", action="store_true", help="what was done as JSON")
    mend.set_defaults(command=reconcile)
    delete = acts.add_parser("delete", help="delete a version; the champion is refused", epilog=EXIT_CODES)
    delete.add_argument("model", metavar="MODEL")
    delete.add_argument("version", metavar="VERSION", type=_number)
    delete.add_argument("--why", default="", metavar="TEXT", help="kept in the history")
    delete.add_argument("--json", action="store_true", help="what was done as JSON")
    delete.set_defaults(command=delete_version)


def reconcile(arguments: argparse.Namespace) -> int:
    from loratrack.registry import promotion

    if arguments.force and arguments.model is None:
        raise UserError("--force: needs one MODEL, since it overrules other machines")
    names = [arguments.model] if arguments.model else list(promotion.drifts())
    mended = {name: promotion.reconcile(name, force=arguments.force) for name in names}
    console = Console(soft_wrap=True)
    if arguments.json:
        console.out(json.dumps(mended, ensure_ascii=False, indent=1), highlight=False)
        return 0
    for line in [f"{name}: {text}" for name, texts in mended.items() for text in texts] or ["all in order"]:
        console.print(line, highlight=False, markup=False)
    return 0


def delete_version(arguments: argparse.Namespace) -> int:
    from loratrack.registry import promotion

    move = promotion.delete(arguments.model, arguments.version, why=arguments.why)
    console = Console(soft_wrap=True)
    if arguments.json:
        content = {
            "model": arguments.model,
            "deleted": arguments.version,
            "run_id": move.event.run_id,
            "mended": move.mended,
        }
        console.out(json.dumps(content, ensure_ascii=False, indent=1), highlight=False)
        return 0
    for line in [*move.mended, f"{arguments.model}/{arguments.version}: deleted; its run and files stay"]:
        console.print(line, highlight=False, markup=False)
    return 0


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}")
    return int(text)
