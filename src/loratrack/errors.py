"""What the user can mend, reported in one message: source, problem, value, remedy; and how it is shown."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence

MAX_NAME_CHARACTERS, MAX_NAMES = 120, 20
"""What a message shows of a name and of a list of names. A quote never closed makes a name of megabytes."""
FULL_WIDTH = {chr(ord(sign) + 0xFEE0): sign for sign in ",:;.-[]{}0123456789<>=!~()"}
"""What a Chinese or Japanese keyboard writes, and what was meant."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = MAX_NAME_CHARACTERS
_SHORT.maxlist = _SHORT.maxtuple = MAX_NAMES
_SHORT.fillvalue = "…"


class UserError(Exception):
    """Shown without a traceback; the process ends with exit code 2."""


class ConfigError(UserError):
    """A config file that cannot be used; all its problems at once."""


class DataError(UserError):
    """Data files that cannot be used; all their problems at once."""


class BaseNotFoundError(UserError):
    """The base network cannot be had here."""


class StoreError(UserError):
    """The tracking store or the registry cannot be reached or refuses."""


class RefusedError(UserError):
    """A valid request that found nothing or was refused (exit 1; other UserErrors exit 2)."""


class StoppedError(BaseException):
    """Somebody asked the work to end; it can go on later. No Exception, since it is no fault."""


def problems_message(source: str, problems: Sequence[str], noun: str = "problem", where: str = "") -> str:
    """`SOURCE: 2 problems`, `where` they are, then one indented line for each."""
    first = f"{source}: {counted(len(problems), noun)}{where}"
    return "\n".join([first, *(f"  {problem}" for problem in problems)])


def quoted(value: object) -> str:
    """A name or a list of names from outside, in quotes; a long one loses its middle or its end."""
    return _SHORT.repr(value)


def closest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of `names` that was probably meant; None when all are less alike than `cutoff` (0 to 1)."""
    if len(name) > MAX_NAME_CHARACTERS:  # nobody has mistyped that, and comparing takes the square of it
        return None
    short = [other for other in names if len(other) <= MAX_NAME_CHARACTERS]
    matches = difflib.get_close_matches(name, short, n=1, cutoff=cutoff)
    return matches[0] if matches else None


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean 'NAME'?` for the nearest of `names`, else nothing."""
    near = closest(name, names, cutoff)
    return "" if near is None else f"; did you mean {near!r}?"


def full_width(text: str) -> str:
    """`; write '.' for the full-width '．'` for each such sign in `text`."""
    found = sorted(set(text) & set(FULL_WIDTH))
    return "".join(f"; write {FULL_WIDTH[sign]!r} for the full-width {sign!r}" for sign in found)


def printable(text: str) -> str:
    """One line for a terminal, without control characters and marks that turn its direction."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.replace("\r\n", "\n").split("\n"))


def is_text(words: str) -> bool:
    """False for bytes of the command line that are no UTF-8: Python passes them on as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in words)


def counted(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"
