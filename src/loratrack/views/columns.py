"""Runs side by side: which columns a comparison has, and what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.cells import cell_len, set_cell_size

from loratrack.index.comparisons import LENGTHS, MOMENTS, Value, number
from loratrack.index.runs import StoredRun
from loratrack.metrics import SCORE

NOT_SETTINGS = (
    "config",
    "set",
    "exp_id",
    "task_type",
    "description",
    "base_config",
    "trainable_parameters",
    "total_parameters",
)
"""Params that name a run or follow from its settings."""
SOURCES = ("data_sha256", "base_sha256")
"""Tags that say what the same path or name has held: no settings, but runs differ by them."""
SWEEP = "sweep."
"""What a sweep is made of is no setting of its trainings."""
LONG_NUMBER = 8
SHORT_HASH = 8
MAX_CELL_WIDTH = 28
NONE = "–"
AVERAGES = ("avg_f1", "avg_accuracy")


@dataclass(frozen=True)
class Column:
    name: str
    """As an expression says it."""
    heading: str
    cells: tuple[str, ...]
    rank: int = 0
    """Of two columns, the one with the higher rank is left out first where there is no room."""

    @property
    def width(self) -> int:
        return max(cell_len(text) for text in (self.heading, *self.cells))

    @property
    def is_number(self) -> bool:
        return all(number(cell) is not None for cell in self.cells if cell != NONE)


def columns(
    runs: Sequence[StoredRun],
    *,
    wanted: Sequence[str] = (),
    sort_by: str | None = None,
    is_diff: bool = False,
) -> list[Column]:
    """The columns named in `wanted`; without them what tells the runs apart.

    `is_diff` leaves only the settings, the data and the bases that differ, and what the runs are sorted by.
    """
    if wanted:
        return [_column(runs, name, wanted) for name in dict.fromkeys(wanted)]
    settings = differing_settings(runs)
    sorted_by = [] if sort_by is None else [sort_by]
    names = ["exp_id", "run_id", *settings, *differing_sources(runs), *sorted_by]
    if not is_diff:
        states = ["status"] if any(run.summary.status != "FINISHED" for run in runs) else []
        versions = ["version"] if any(run.versions for run in runs) else []
        heads = ["exp_id", "run_id", "task_type", "started", "device", *states]
        names = [*heads, *settings, *sorted_by, *scores(runs), *versions]
    names = list(dict.fromkeys(names))
    return [_column(runs, name, names, _rank(name, names, settings, sort_by)) for name in names]


def differing_settings(runs: Sequence[StoredRun]) -> list[str]:
    """The settings that are not the same in all runs, in the order of a config."""
    names = dict.fromkeys(name for run in runs for name in run.params if is_setting(name))
    differing = [name for name in names if len({run.params.get(name, "None") for run in runs}) > 1]
    return sorted(differing, key=_place_in_config)


def differing_sources(runs: Sequence[StoredRun]) -> list[str]:
    """Data or base, where they changed behind a setting that stayed the same."""
    return [name for name in SOURCES if len({tuple(run.values(name)) for run in runs}) > 1]


def is_setting(param: str) -> bool:
    return param not in NOT_SETTINGS and not param.startswith(SWEEP)


def fitting(all_columns: Sequence[Column], width: int, gap: int) -> tuple[list[Column], list[Column]]:
    """The columns for which there is room, and the others; each takes `gap` beside its own width."""
    kept = list(all_columns)
    while len(kept) > 1 and sum(column.width + gap for column in kept) + 1 > width:
        kept.remove(max(kept, key=lambda column: column.rank))
    return kept, [column for column in all_columns if column not in kept]


def shown(name: str, value: Value) -> str:
    """A value as a person reads it."""
    if name in MOMENTS:
        return datetime.fromtimestamp(float(value)).strftime("%Y-%m-%d %H:%M")
    if name in LENGTHS:
        return duration(float(value))
    if isinstance(value, str):
        return NONE if value == "None" else _short_number(value) or printable(value)
    if SCORE.fullmatch(name):
        return f"{value:.4f}"
    return f"{value:.5g}"


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str) -> str:
    """One line that does nothing to a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def shortened(text: str, width: int = MAX_CELL_WIDTH) -> str:
    """Of a path the end is kept, of other texts the beginning."""
    if cell_len(text) <= width:
        return text
    if "/" in text:
        return "…" + set_cell_size(text[::-1], width - 1)[::-1].lstrip()
    return set_cell_size(text, width - 1).rstrip() + "…"


def _short_number(text: str) -> str | None:
    """Numbers that a sweep has drawn have more digits than anybody reads."""
    found = number(text)
    is_long = found is not None and len(text) > LONG_NUMBER and not text.isdecimal()
    return f"{found:.4g}" if is_long else None


def _column(runs: Sequence[StoredRun], name: str, names: Sequence[str], rank: int = 0) -> Column:
    """Under the last part of its name, where no other column ends alike."""
    last = name.rsplit(".", 1)[-1]
    is_clear = [other.rsplit(".", 1)[-1] for other in names].count(last) == 1
    heading = {"run_id": "run", "version": "registered"}.get(name, last if is_clear else name)
    return Column(name, heading, tuple(_cell(run, name) for run in runs), rank)


def _cell(run: StoredRun, name: str) -> str:
    if name == "run_id":
        return run.summary.run_id[:SHORT_HASH]
    if name in SOURCES:
        return ", ".join(str(value)[:SHORT_HASH] for value in run.values(name)) or NONE
    if name == "version":
        return ", ".join(str(version) for version in run.versions) or NONE
    return shortened(", ".join(shown(name, value) for value in run.values(name)) or NONE)


def scores(runs: Sequence[StoredRun]) -> list[str]:
    """The averages first; a run of one task has its scores there when others have more tasks."""
    names = list(dict.fromkeys(name for run in runs for name in run.scores))
    if any(name in AVERAGES for name in names):
        names = [name for name in names if name not in ("f1", "accuracy")]
    return sorted(names, key=lambda name: (name not in AVERAGES, name not in ("avg_f1", "f1")))


def _rank(name: str, names: Sequence[str], settings: Sequence[str], sort_by: str | None) -> int:
    first = ["exp_id", "run_id", sort_by, "avg_f1", "f1", "version", "started", *settings, "task_type"]
    first += ["status", "avg_accuracy", "accuracy", "device"]
    return first.index(name) if name in first else len(first) + list(names).index(name)


def _place_in_config(name: str) -> tuple[int, str]:
    sections = ("model", "train", "data")
    section = name.partition(".")[0]
    return (sections.index(section) if section in sections else len(sections), name)
