"""`loratrack reproduce RUN|EXP`: a run once more, from what it has kept, beside the first one."""

from __future__ import annotations

import argparse
from typing import Any

from loratrack.cli.commands import Commands, add_trust_to, examples
from loratrack.cli.screen import console, print_json
from loratrack.index.naming import MODEL_HELP, MODEL_WORDS

UNEQUAL = 1


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="train a run once more and compare",
        description="Train from the settings that a run has kept, as a new run with the tag `reproduces`;"
        " what is different around it is shown first.",
        epilog=examples("loratrack reproduce clinc_dual --check"),
    )
    parser.add_argument("run", metavar=MODEL_WORDS, help=MODEL_HELP)
    parser.add_argument(
        "--check", action="store_true", help="say whether every epoch's metrics are equal; 1 when not"
    )
    add_trust_to(parser)
    parser.add_argument("--json", action="store_true", help="what came of it as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.cli.progress import ProgressBar
    from loratrack.experiments.reproduction import reproduce

    with ProgressBar(console(beside_the_answers=arguments.json)) as bar:
        result = reproduce(
            arguments.run,
            check=arguments.check,
            watcher=bar,
            trust_remote_code=arguments.trust_remote_code,
        )
    if arguments.json:
        content: dict[str, Any] = {
            "reproduces": result.reproduces,
            "run_id": result.run_id,
            "differences": [str(difference) for difference in result.differences],
        }
        if result.check is not None:
            content["check"] = {
                "equal": result.check.is_equal,
                "exact": result.check.is_exact,
                "tolerance": result.check.tolerance,
                "epochs": result.check.epochs,
                "unequal": [str(difference) for difference in result.check.unequal],
            }
        print_json(content)
    return UNEQUAL if result.check is not None and not result.check.is_equal else result.exit_code
