"""What a parser makes of a data file, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Row = Sequence[str | None]


@dataclass(frozen=True)
class Parsed:
    """What a parser makes of a file: column names, rows with their lines, and the bad lines by problem."""

    names: list[str]
    rows: list[Row]
    lines: list[int]
    bad_lines: dict[str, list[int]]
    notices: list[str] = field(default_factory=list)
    encoding: str = ""
