"""`loratrack restore RUN --out DIR`: all that a run has kept, in one folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from loratrack.cli.commands import EXIT_CODES
from loratrack.errors import RefusedError


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "restore", help="bring back all files of a run", epilog=EXIT_CODES
    )
    parser.add_argument("run", metavar="RUN|EXP", help="a run's id or its beginning, or an exp_id")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a folder, empty or not there yet"
    )
    parser.add_argument("--json", action="store_true", help="what was done as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.registry import lookup
    from loratrack.tracking import artifacts

    run = lookup.run_of(arguments.run)
    changed = artifacts.restore(run, arguments.out)
    files = sorted(path for path in arguments.out.rglob("*") if path.is_file())
    console = Console(soft_wrap=True)
    if arguments.json:
        content = {
            "run_id": run.info.run_id,
            "folder": str(arguments.out.absolute()),
            "files": [path.relative_to(arguments.out).as_posix() for path in files],
            "changed": changed,
        }
        console.out(json.dumps(content, ensure_ascii=False, indent=1), highlight=False)
    else:
        told = f"{arguments.out}: {len(files)} files of run {run.info.run_id} ({run.info.run_name})"
        console.print(told, highlight=False, markup=False)
    if changed:
        raise RefusedError(
            f"run {run.info.run_id}: not as they were saved: {', '.join(changed)}; do not use this model"
        )
    return 0
