"""What the user can mend, told in one message: place, fault, value, remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Shown without a traceback; the process ends with exit code 2."""


class ConfigError(UserError):
    """A config file that cannot be used; all its faults at once."""


class DataError(UserError):
    """Data files that cannot be used; all their faults at once."""


class BaseNotFoundError(UserError):
    """The base network cannot be had here."""


class StoreError(UserError):
    """The tracking store or the registry cannot be reached or refuses."""


class RefusedError(UserError):
    """Asked for rightly, but nothing was found or nothing was done; the process ends with exit code 1."""


def faults_message(place: str, what: str, faults: Sequence[str]) -> str:
    """`place: N what to mend`, then one indented line for each fault."""
    lines = [f"{place}: {len(faults)} {what} to mend", *(f"  {fault}" for fault in faults)]
    return "\n".join(lines)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'NAME'?` for the nearest of `names`, else nothing."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
