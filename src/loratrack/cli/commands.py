"""What a command adds itself to; and what the exit codes mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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


def add_settings_to(parser: argparse.ArgumentParser, example: str) -> None:
    """`--set`, the option of each command that reads a config."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override a setting, such as {example}; repeat it, or separate several with ';'",
    )


def setting_meant(unknown: Sequence[str], overrides: Sequence[str]) -> str | None:
    """What to write instead of words that no option takes, where they look like a setting and its value."""
    if overrides and "=" not in overrides[-1]:
        pair = f"{overrides[-1]}={unknown[0]}"
        return f"--set {overrides[-1]} {unknown[0]}: must be key=value without a space: --set {pair}"
    option, equals, value = unknown[0].partition("=")
    from loratrack.config.problems import closest_setting

    name = closest_setting(option.removeprefix("--")) if option.startswith("--") else None
    if name is None:
        return None
    value = value if equals else next((word for word in unknown[1:] if not word.startswith("-")), "VALUE")
    return f"{option}: no such option; it is a setting: --set {name}={value}"


def add_trust_to(parser: argparse.ArgumentParser) -> None:
    """The option of each command that loads a model."""
    parser.add_argument(
        trust.OPTION,
        metavar="SHA256",
        help="run the code that this base brings; the refusal of a model that needs it prints the sha256"
        f" (or set {trust.VARIABLE})",
    )
