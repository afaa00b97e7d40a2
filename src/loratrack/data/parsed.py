"""What a parser makes of a data file, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Row = Sequence[str | None]
INDEX_NOTICE = "its first column has no name and numbers the rows, as pandas writes them: left out"


@dataclass(frozen=True)
class Parsed:
    """What a parser makes of a file: column names, rows with their lines, and the bad lines by problem."""

    names: list[str]
    rows: list[Row]
    lines: list[int]
    bad_lines: dict[str, list[int]]
    notices: list[str] = field(default_factory=list)
    encoding: str = ""


def values_without_name(
    names: Sequence[str], rows: Sequence[tuple[Sequence[object], int]], remedy: str
) -> tuple[list[str], dict[str, list[int]]]:
    """A notice where the first column only numbers the rows; else the lines of such values, by problem.

    `rows`: each with its line, as long as `names`.
    """
    nameless = [index for index, name in enumerate(names) if not name.strip()]
    is_first = nameless[:1] == [0]
    if is_first and len(names) > 1 and _are_numbers([row[0] for row, _ in rows]):
        del nameless[0]
        notices, is_first = [INDEX_NOTICE], False
    else:
        notices = []
    spilled = [line for row, line in rows if any(row[index] not in (None, "") for index in nameless)]
    if is_first:  # an index with repeats, as of tables that were put together
        remedy += ", or write it with index=False"
    problem = f"a value stands in a column without a name ({remedy})"
    return notices, {problem: spilled} if spilled else {}


def _are_numbers(values: Sequence[object]) -> bool:
    """Whether they are whole numbers, each different."""
    return len(values) > 0 and all(map(str.isdecimal, map(str, values))) and len(set(values)) == len(values)
