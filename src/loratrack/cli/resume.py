"""`loratrack resume RUN|EXP`: a run that was stopped or killed goes on where it was."""

from __future__ import annotations

import argparse

from loratrack.cli.commands import Commands, add_trust_to, examples
from loratrack.cli.run import CODES, end
from loratrack.cli.screen import console, loading


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "resume",
        help="go on with a run that was stopped or killed",
        description="Go on with a run from its last checkpoint, as the same MLflow run, with its own"
        " settings and to the bit. What is different since (packages, machine, data, base) is told, and"
        " refused where it changes numbers. Other settings, such as more epochs, need a new run.",
        epilog=examples("loratrack resume clinc_dual", "loratrack resume 0a1b2c3d --end", codes=CODES),
    )
    parser.add_argument("run", metavar="RUN|EXP", help="a run's id or its beginning, or an exp_id")
    parser.add_argument(
        "--force", action="store_true", help="also where its numbers will be other ones; a tag says so"
    )
    parser.add_argument(
        "--end", action="store_true", help="train no more: the best epoch so far becomes the run's model"
    )
    add_trust_to(parser)
    parser.add_argument(
        "--json", action="store_true", help="the result as JSON; everything else goes to the error stream"
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.tracking.failures import told_to_mlflow

    with told_to_mlflow(), loading():
        from loratrack.store.place import store_folder
        from loratrack.tracking.stopped import find

        find(store_folder(), arguments.run)  # refused before torch is loaded
        from loratrack.cli.progress import ProgressBar
        from loratrack.experiments.resumption import resume

    screen = console(beside_the_answers=arguments.json)
    with told_to_mlflow(), ProgressBar(screen) as bar:
        result = resume(
            arguments.run,
            force=arguments.force,
            end=arguments.end,
            watcher=bar,
            trust_remote_code=arguments.trust_remote_code,
        )
    return end(result, screen, as_json=arguments.json)
