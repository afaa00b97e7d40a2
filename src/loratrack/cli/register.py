"""`loratrack register RUN`: a version for a run that has none."""

from __future__ import annotations

import argparse

from loratrack.cli.commands import Commands, examples
from loratrack.cli.screen import console, view
from loratrack.index.naming import MODEL_HELP, MODEL_WORDS
from loratrack.store import links


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "register",
        help="make a run's model a version of a registered model",
        description="A version for a run that has none: it was trained with `register: false`, or killed.",
        epilog=examples("loratrack register clinc_dual", "loratrack register 0a1b2c3d --name intents"),
    )
    parser.add_argument("run", metavar=MODEL_WORDS, help=MODEL_HELP)
    parser.add_argument(
        "--name",
        help="the registered model; default: as `register` of the run's config says, else the project's name",
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.experiments.registration import register

    version = register(arguments.run, arguments.name)
    screen = console()
    screen.print(f"model        models:/{version}")
    for line in view(links.version_page(version)):
        screen.print(line)
    return 0
