"""`loratrack registry reconcile|delete`: repair what was moved by hand, and delete a version."""

from __future__ import annotations

import argparse

from loratrack.cli.commands import EXIT_CODES, Commands, examples
from loratrack.cli.screen import console, print_json
from loratrack.errors import UserError


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "registry",
        help="repair aliases that were changed by hand, delete a version",
        description="Make stages and history agree with the aliases again, or delete a version.",
        epilog=examples(
            "loratrack registry reconcile clinc", 'loratrack registry delete clinc 2 --why "wrong labels"'
        ),
    )
    acts = parser.add_subparsers(required=True, metavar="reconcile|delete")
    repair = acts.add_parser(
        "reconcile", help="make stages and history agree with the aliases", epilog=EXIT_CODES
    )
    repair.add_argument("model", metavar="MODEL", nargs="?", help="one registered model; default all")
    repair.add_argument(
        "--force", action="store_true", help="treat a move started on another machine as abandoned"
    )
    repair.add_argument("--json", action="store_true", help="the result as JSON")
    repair.set_defaults(command=reconcile)
    delete = acts.add_parser("delete", help="delete a version; the champion is refused", epilog=EXIT_CODES)
    delete.add_argument("model", metavar="MODEL")
    delete.add_argument("version", metavar="VERSION", type=_number)
    delete.add_argument("--why", default="", metavar="TEXT", help="the reason, for the history")
    delete.add_argument("--json", action="store_true", help="the result as JSON")
    delete.set_defaults(command=delete_version)


def reconcile(arguments: argparse.Namespace) -> int:
    from loratrack.registry import promotion

    if arguments.force and arguments.model is None:
        raise UserError("--force: needs one MODEL, since it overrules other machines")
    models = [arguments.model] if arguments.model else list(promotion.drifts())
    repairs = {model: promotion.reconcile(model, force=arguments.force) for model in models}
    if arguments.json:
        print_json(repairs)
        return 0
    lines = [f"{model}: {text}" for model, texts in repairs.items() for text in texts]
    for line in lines or ["all in order"]:
        console().print(line)
    return 0


def delete_version(arguments: argparse.Namespace) -> int:
    from loratrack.registry import promotion

    model, version = arguments.model, arguments.version
    move = promotion.delete(model, version, why=arguments.why)
    if arguments.json:
        print_json({"model": model, "deleted": version, "run_id": move.event.run_id, "mended": move.repairs})
        return 0
    for line in [*move.repairs, f"{model}/{version}: deleted; its run and files stay"]:
        console().print(line)
    return 0


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}")
    return int(text)
