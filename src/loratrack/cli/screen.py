"""What is printed is printed as it is: no text of a user or a file is read as markup, emoji or colour."""

from __future__ import annotations

import json

from rich.console import Console


def console(*, beside_the_answers: bool = False) -> Console:
    """The screen; or the error stream, for what must not mix with answers that are piped on."""
    return Console(stderr=beside_the_answers, soft_wrap=True, markup=False, emoji=False, highlight=False)


def print_json(content: object) -> None:
    console().out(json.dumps(content, ensure_ascii=False, indent=1), highlight=False)
