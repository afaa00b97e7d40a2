"""`loratrack rollback`: back to the champion before, to the best of an experiment, or to a version."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from loratrack.cli import promote
from loratrack.errors import RefusedError

if TYPE_CHECKING:
    from loratrack.registry.lookup import Candidate


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "rollback",
        help="back to the champion before",
        description="Back to the champion before, also after a rollback. A version that was never champion"
        " is loaded and compared first, as promote does.",
        epilog=promote.EXIT_CODES,
    )
    parser.add_argument("--model", metavar="NAME", help="needed where several models have a champion")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--exp-id", metavar="EXP", help="to the best version of this experiment")
    goal.add_argument("--to", metavar="VERSION", help="to this version")
    parser.add_argument("--why", default="", metavar="TEXT", help="kept in the history")
    parser.add_argument("--json", action="store_true", help="what was done as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.registry import lookup, promotion

    candidate = _goal(arguments)
    expected = promotion.aliases(candidate.model).get(promotion.CHAMPION)
    if expected == candidate.version:
        raise RefusedError(f"{candidate}: is champion already")
    found = []
    if promotion.was_champion(candidate.model, candidate.version):
        if not lookup.has_files(candidate):
            raise RefusedError(f"{candidate}: its files are gone; name another version with --to")
    else:
        promote.check_reload(candidate)
        found = ["holds: loaded again, it gives the logits of the training"]
    move = promotion.rollback(candidate.model, candidate.version, expected=expected, why=arguments.why)
    promote.tell(move, found, arguments.json)
    return 0


def _goal(arguments: argparse.Namespace) -> Candidate:
    from loratrack.registry import lookup, promotion

    if arguments.exp_id is not None:
        return lookup.version_of(arguments.exp_id, arguments.model)
    model = arguments.model or lookup.model_with_champion()
    version = promotion.previous_champion(model) if arguments.to is None else arguments.to
    return lookup.version_of(str(version), model)
