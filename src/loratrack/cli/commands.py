"""What a command adds itself to; and what the exit codes mean."""

from __future__ import annotations

import argparse
from typing import Protocol

from loratrack.bases import trust

EXIT_CODES = "exit codes: 0 done, 1 nothing found or refused, 2 wrong use"


def examples(*lines: str, codes: str = EXIT_CODES) -> str:
    """The end of a command's help: how it is called, and what its exit codes mean."""
    return "\n".join(["examples:", *(f"  {line}" for line in lines), "", codes])


class Commands(Protocol):
    """The sub-commands of argparse, whose own class has no public name."""

    def add_parser(
        self,
        name: str,
        *,
        help: str = ...,
        description: str = ...,
        epilog: str = ...,
        usage: str = ...,
        formatter_class: type[argparse.HelpFormatter] = ...,
    ) -> argparse.ArgumentParser: ...


def add_trust_to(parser: argparse.ArgumentParser) -> None:
    """The option of each command that loads a model."""
    parser.add_argument(
        trust.OPTION,
        metavar="SHA256",
        help="run the code that this base brings; the refusal of a model that needs it prints the sha256"
        f" (or set {trust.VARIABLE})",
    )
