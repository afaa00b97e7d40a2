"""`loratrack rollback`: back to the champion before, to the best of an experiment, or to a version."""

from __future__ import annotations

import argparse

from loratrack.cli.commands import Commands, add_trust_to, examples
from loratrack.cli.promote import print_promotion
from loratrack.index.naming import MODEL_HELP, MODEL_WORDS


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "rollback",
        help="back to the champion before",
        description="Back to the champion before, also after a rollback. A version that was never champion"
        " is loaded and compared first, as promote does.",
        epilog=examples("loratrack rollback", 'loratrack rollback --model clinc --to 2 --why "complaints"'),
    )
    parser.add_argument("--model", metavar="NAME", help="needed where several models have a champion")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--exp-id", metavar="EXP", help="to the best version of this experiment")
    goal.add_argument("--to", metavar=MODEL_WORDS, help=f"to this version: {MODEL_HELP}")
    parser.add_argument("--why", default="", metavar="TEXT", help="kept in the history")
    add_trust_to(parser)
    parser.add_argument("--json", action="store_true", help="what was done as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.experiments.promotion import rollback

    promotion = rollback(
        arguments.model,
        exp_id=arguments.exp_id,
        to=arguments.to,
        why=arguments.why,
        trust_remote_code=arguments.trust_remote_code,
    )
    print_promotion(promotion, is_json=arguments.json)
    return 0
