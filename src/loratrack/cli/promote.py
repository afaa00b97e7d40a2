"""`loratrack promote RUN|EXP|VERSION`: make a version champion or challenger, once it is found fit."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from loratrack.cli.commands import Commands, add_trust_to, examples
from loratrack.cli.screen import console, print_json, view
from loratrack.errors import UserError
from loratrack.index.naming import MODEL_HELP, MODEL_WORDS
from loratrack.store import links

if TYPE_CHECKING:
    from loratrack.experiments.promotion import Promotion


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "promote",
        help="make a version champion, once it is found fit",
        description="Load the version in this process, compare its logits with those of the training, and"
        " move alias and stage together.",
        epilog=examples(
            "loratrack promote clinc/3",
            'loratrack promote clinc_dual --if "avg_f1 not worse than champion" --why "more data"',
        ),
    )
    parser.add_argument(
        "version",
        metavar=MODEL_WORDS,
        help=f"{MODEL_HELP}; a run without a version gets one",
    )
    parser.add_argument("--model", metavar="NAME", help="the registered model, where that is in doubt")
    parser.add_argument(
        "--to", default="champion", help="champion (Production) or challenger (Staging); default: champion"
    )
    parser.add_argument("--why", default="", metavar="TEXT", help="kept in the history")
    parser.add_argument(
        "--if",
        dest="condition",
        metavar="CONDITION",
        help="refuse unless it holds: 'avg_f1>=0.93 and intent_f1 not worse than champion by 0.005'",
    )
    parser.add_argument(
        "--expect", metavar="VERSION|none", help="refuse unless this is where the alias is now"
    )
    add_trust_to(parser)
    parser.add_argument("--json", action="store_true", help="what was done as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    expect = None if arguments.expect is None else version_or_none(arguments.expect)
    from loratrack.experiments.promotion import promote

    promotion = promote(
        arguments.version,
        model=arguments.model,
        to=arguments.to,
        why=arguments.why,
        condition=arguments.condition,
        expect=expect,
        trust_remote_code=arguments.trust_remote_code,
    )
    print_promotion(promotion, is_json=arguments.json)
    return 0


def version_or_none(text: str) -> int:
    """0 stands for none."""
    if text.lower() == "none":
        return 0
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"--expect: must be the number of a version, or none, got {text!r}")
    return int(text)


def print_promotion(promotion: Promotion, *, is_json: bool) -> None:
    if is_json:
        print_json(
            {
                "model": promotion.model,
                "event": promotion.kind,
                "alias": promotion.alias,
                "from": promotion.before,
                "to": promotion.after,
                "why": promotion.why,
                "who": promotion.who,
                "run_id": promotion.run_id,
                "found": list(promotion.findings),
                "mended": list(promotion.repairs),
            }
        )
        return
    before, after = (version or "none" for version in (promotion.before, promotion.after))
    lines = [*promotion.findings, *(f"repaired: {text}" for text in promotion.repairs)]
    lines.append(f"{promotion.model}: {promotion.alias} moved from {before} to {after}")
    for line in [*lines, *view(links.version_page(promotion.version))]:
        console().print(line)
