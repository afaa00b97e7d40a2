"""`loratrack restore RUN --out DIR`: every file of a run, in one folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from loratrack.cli.commands import Commands, examples
from loratrack.cli.screen import console, print_json
from loratrack.errors import RefusedError
from loratrack.index.naming import MODEL_HELP, MODEL_WORDS


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "restore",
        help="download all files of a run",
        description="Every file of a run in one folder, checked against the sums it was saved with.",
        epilog=examples("loratrack restore clinc_dual --out restored"),
    )
    parser.add_argument("run", metavar=MODEL_WORDS, help=MODEL_HELP)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a new folder, or an empty one"
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.registry import lookup
    from loratrack.tracking import artifacts

    run = lookup.run_of(arguments.run)
    changed = artifacts.restore(run, arguments.out)
    files = sorted(path for path in arguments.out.rglob("*") if path.is_file())
    if arguments.json:
        print_json(
            {
                "run_id": run.info.run_id,
                "folder": str(arguments.out.absolute()),
                "files": [path.relative_to(arguments.out).as_posix() for path in files],
                "changed": changed,
            }
        )
    else:
        console().print(f"{arguments.out}: {len(files)} files of run {run.info.run_id} ({run.info.run_name})")
    if changed:
        raise RefusedError(
            f"run {run.info.run_id}: not as they were saved: {', '.join(changed)}; do not use this model"
        )
    return 0
