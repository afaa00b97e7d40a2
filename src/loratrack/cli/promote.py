"""`loratrack promote RUN|EXP|VERSION`: make a version champion or challenger, once it is found fit."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from loratrack.errors import RefusedError, StoreError, UserError

if TYPE_CHECKING:
    from loratrack.registry.lookup import Candidate
    from loratrack.registry.promotion import Move

EXIT_CODES = "exit codes: 0 done, 1 nothing found or refused, 2 wrong use"


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "promote",
        help="make a version champion, once it is found fit",
        description="Load the version in this process, compare its logits with those of the training, and"
        " move alias and stage together.",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "version",
        metavar="RUN|EXP|VERSION",
        help="NAME/3, 3 with --model, a run's id or its beginning, or an exp_id for its best version",
    )
    parser.add_argument("--model", metavar="NAME", help="the registered model, where that is in doubt")
    parser.add_argument(
        "--to", default="champion", help="champion (Production) or challenger (Staging); champion unless told"
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
    parser.add_argument("--json", action="store_true", help="what was done as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.registry import lookup, promotion

    alias = promotion.alias_of(arguments.to)
    expected = None if arguments.expect is None else version_or_none(arguments.expect)
    candidate = lookup.version_of(arguments.version, arguments.model)
    current = promotion.aliases(candidate.model)
    before = current.get(alias)
    if expected is not None and (before or 0) != expected:
        raise RefusedError(
            f"{candidate.model}: {alias} must be {arguments.expect} as --expect says,"
            f" got {before or 'none'}; look at loratrack history {candidate.model}"
        )
    if before == candidate.version:
        raise RefusedError(f"{candidate}: is {alias} already")
    told = _judge(arguments.condition, candidate, current.get(promotion.CHAMPION))
    check_reload(candidate)
    move = promotion.promote(candidate.model, candidate.version, alias, expected=before, why=arguments.why)
    tell(move, [*told, "holds: loaded again, it gives the logits of the training"], arguments.json)
    return 0


def version_or_none(text: str) -> int:
    """0 stands for none."""
    if text.lower() == "none":
        return 0
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"--expect: must be the number of a version, or none, got {text!r}")
    return int(text)


def check_reload(candidate: Candidate) -> None:
    """Load the version from where the registry keeps it; RefusedError unless it still is what was trained."""
    from loratrack.registry import uri
    from loratrack.serving.classifier import check_probe

    try:
        check_probe(uri.fetch(f"models:/{candidate}"))
    except StoreError:
        raise
    except UserError as error:
        raise RefusedError(f"{candidate}: is not fit to serve: {error}") from error


def tell(move: Move, found: Sequence[str], is_json: bool) -> None:
    event, console = move.event, Console(soft_wrap=True)
    before, after = (version or "none" for version in (event.before, event.after))
    if is_json:
        content = {
            "model": event.model,
            "event": event.kind,
            "alias": event.alias,
            "from": event.before,
            "to": event.after,
            "why": event.why,
            "who": event.who,
            "run_id": event.run_id,
            "found": list(found),
            "mended": list(move.mended),
        }
        console.out(json.dumps(content, ensure_ascii=False, indent=1), highlight=False)
        return
    lines = [*found, *(f"mended: {text}" for text in move.mended)]
    for line in [*lines, f"{event.model}: {event.alias} moved from {before} to {after}"]:
        console.print(line, highlight=False, markup=False)


def _judge(condition: str | None, candidate: Candidate, champion: int | None) -> tuple[str, ...]:
    """What was found of the condition; RefusedError when it fails."""
    from loratrack.registry import conditions, lookup

    if condition is None:
        return ()
    own = lookup.metrics_of(candidate)
    is_alone = champion is None or "champion" not in condition.lower()
    other = None if is_alone else lookup.version_of(f"{candidate.model}/{champion}")
    verdict = conditions.judge(condition, own, None if other is None else lookup.metrics_of(other))
    if not verdict.is_met:
        raise RefusedError("\n  ".join([f"{candidate}: does not meet --if", *verdict.told]))
    return verdict.told
