"""What a command adds itself to; and what the exit codes mean."""

from __future__ import annotations

import argparse
from typing import Protocol

EXIT_CODES = "exit codes: 0 done, 1 nothing found or refused, 2 wrong use"


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
