"""The command line: reads the words, calls one room, prints what came of it."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from loratrack import __version__
from loratrack.cli import (
    cache,
    check,
    compare,
    completion,
    doctor,
    history,
    init,
    predict,
    promote,
    register,
    registry,
    reproduce,
    restore,
    resume,
    rollback,
    run,
    show,
    sweep,
    sync,
    ui,
)
from loratrack.cli.commands import setting_meant
from loratrack.cli.screen import BAR_OF_MLFLOW, Complaints, Parser, complain, complain_of_error, console
from loratrack.errors import RefusedError, UserError, is_text, quoted
from loratrack.store.place import database_file, store_name, tracking_uri

COMMANDS = (
    init,
    check,
    run,
    resume,
    sweep,
    predict,
    compare,
    show,
    ui,
    promote,
    rollback,
    history,
    register,
    registry,
    reproduce,
    restore,
    sync,
    doctor,
    cache,
    completion,
)
REFUSED, USER_ERROR = 1, 2
MEND_RIGHTS, MAKE_ROOM = "mend its rights, or work in another folder", "free some space"
A_FILE_IS_THERE = "a file lies where a folder is needed; name another folder"
OF_THE_MACHINE = {
    errno.EACCES: MEND_RIGHTS,
    errno.EPERM: MEND_RIGHTS,
    errno.EROFS: MEND_RIGHTS,
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: MAKE_ROOM,
    errno.EFBIG: MAKE_ROOM,
    errno.ENOTDIR: A_FILE_IS_THERE,
    errno.EEXIST: A_FILE_IS_THERE,
    errno.ENAMETOOLONG: "a name has at most 255 bytes, and a path 4,000",
}
"""Faults of disks, rights and names, which no traceback explains better, and what to do about each."""
INTERRUPTED = 128 + signal.SIGINT


def main(words: Sequence[str] | None = None) -> int:
    logging.lastResort = Complaints(logging.WARNING)
    try:
        for word in sys.argv[1:] if words is None else words:
            if not is_text(word):
                raise UserError(f"the words of a command must be UTF-8 text, got {quoted(word)}")
        top = parser()
        arguments, unknown = top.parse_known_args(words)
        if unknown:
            if hint := setting_meant(unknown, getattr(arguments, "set", [])):
                raise UserError(hint)
            top.error(f"unrecognized arguments: {' '.join(unknown)}")
        if not hasattr(arguments, "command"):
            console().print(top.format_help(), end="")
            return 0
        command: Callable[[argparse.Namespace], int] = arguments.command
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it tells of each table that it makes
        if not sys.stderr.isatty():  # MLflow's bar would write a line for each file
            os.environ.setdefault(BAR_OF_MLFLOW, "false")
        elif database_file(tracking_uri()) is None and command.__module__ != cache.__name__:
            # MLflow's client takes more than a second to load before it asks anything
            complain(f"asking {store_name()} …")
        return command(arguments)
    except UserError as error:
        complain_of_error(str(error))
        return REFUSED if isinstance(error, RefusedError) else USER_ERROR
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        place = f"{error.filename}: " if error.filename else ""
        complain_of_error(f"{place}{os.strerror(error.errno)}; {OF_THE_MACHINE[error.errno]}")
        return USER_ERROR
    except KeyboardInterrupt:
        complain_of_error("interrupted")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="loratrack",
        description="Fine-tune many LoRA models and keep track of every one.",
        epilog="loratrack COMMAND --help says more and gives examples",
    )
    top.add_argument("--version", action="version", version=f"loratrack {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    top.set_defaults(top=top)  # completion walks it
    return top
