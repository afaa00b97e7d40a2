"""Runs side by side: which columns a comparison has, and what stands in them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.cells import cell_len, set_cell_size

from loratrack.errors import printable
from loratrack.index.comparisons import LENGTHS, MOMENTS, Value, number
from loratrack.index.runs import HEADINGS, KINDS, REGISTERED, SWEEP, StoredRun, ending_in
from loratrack.metrics import SCORE
from loratrack.store import process
from loratrack.store.client import ERROR_TAG
from loratrack.store.place import store_folder
from loratrack.tracking.stopped import StoppedRun, stopped_run

NOT_SETTINGS = (
    "config",
    "set",
    "exp_id",
    "task_type",
    "description",
    "base_config",
    "experiment",
    "trainable_parameters",
    "total_parameters",
)
"""Params that name a run or follow from its settings."""
WHICH_RUN = ("exp_id", "run_id")
SOURCES = ("data_sha256", "base_sha256")
"""Content hashes: equal paths may have held different data."""
SECTIONS = ("model", "train", "data")
"""The sections of a config, in the order in which their settings are shown."""
MAIN_SETTINGS = ("train.lr", "model.lora.rank", "train.epochs", "train.batch_size", "train.loss_weight")
"""Shown before other settings where there is no room for all."""
MAPPINGS = ("loss_weight", "label_columns", "label_subset")
"""Settings with a value for each task: the name of the task alone would be no heading."""
MAX_NUMBER_CHARACTERS = 8
SHORT_HASH = 8
MAX_CELL_WIDTH = 28
MAX_SCORE = 1e5
NONE = "–"
AVERAGES = ("avg_f1", "avg_accuracy")
TFIDF = HEADINGS["tfidf"]
"""What the baseline has where the run has its `avg_f1`."""


@dataclass(frozen=True)
class Column:
    name: str
    """As an expression says it."""
    heading: str
    cells: tuple[str, ...]
    rank: int = 0
    """Where there is no room, the column with the highest rank is left out first."""

    @property
    def width(self) -> int:
        return max(cell_len(text) for text in (self.heading, *self.cells))

    @property
    def is_number(self) -> bool:
        return all(number(cell) is not None for cell in self.cells if cell != NONE)


def columns(
    runs: Sequence[StoredRun],
    *,
    names: Sequence[str] = (),
    sort_by: str | None = None,
    filtered_by: Sequence[str] = (),
    is_diff: bool = False,
) -> list[Column]:
    """Which run it is, then the columns called `names`; without them the scores and all in which they differ.

    What the runs were sorted and filtered by is there, and is left out last where there is no room. `is_diff`
    leaves of what describes a run only the settings, the data and the bases that differ.
    """
    if names:
        chosen = list(dict.fromkeys([*WHICH_RUN, *(HEADINGS.get(name, name) for name in names)]))
        return [_column(runs, name, chosen) for name in chosen]
    settings = differing_settings(runs)
    states = ["status"] if any(run.summary.status != "FINISHED" for run in runs) else []
    states += [ERROR_TAG] if any(ERROR_TAG in run.tags for run in runs) and not is_diff else []
    scored = scores(runs)
    scored[1:1] = [TFIDF]
    before, behind = [*WHICH_RUN, *states, *settings, *differing_sources(runs)], scored
    if not is_diff:
        before = [*WHICH_RUN, "task_type", "started", "device", *states, *settings]
        behind = [*scored, "version"]
    asked = [] if sort_by is None else [sort_by]
    asked += [] if is_diff else filtered_by
    asked = [_among([*before, *behind], name, runs) for name in asked]
    chosen = list(dict.fromkeys([*before, *asked, *behind]))
    why = [ERROR_TAG] if "status" in asked else []
    by_importance = [*WHICH_RUN, *asked, *why, "avg_f1", "f1", "status", ERROR_TAG, "version", TFIDF]
    by_importance += [*MAIN_SETTINGS, *settings, "started", "task_type", "avg_accuracy", "accuracy", "device"]
    by_importance += chosen
    found = [_column(runs, name, chosen, by_importance.index(name)) for name in chosen]
    return [column for column in found if any(cell != NONE for cell in column.cells)]


def _among(chosen: Sequence[str], name: str, runs: Sequence[StoredRun]) -> str:
    """The one of `chosen` that a filter calls `name`: `rank` is `model.lora.rank`; else the name itself."""
    if HEADINGS.get(name, name) in REGISTERED:
        return "version"
    kind, _, key = name.partition(".")
    short = key if kind in KINDS else name
    known = [other for other in chosen if other in (HEADINGS.get(short, short), *ending_in(short, chosen))]
    same = (other for other in known if all(run.values(other) == run.values(name) for run in runs))
    return next(same, name)


def differing_settings(runs: Sequence[StoredRun]) -> list[str]:
    """The settings that are not the same in all runs, in the order of a config."""
    names = dict.fromkeys(
        name for run in runs for name in run.params if name not in NOT_SETTINGS and not name.startswith(SWEEP)
    )
    differing = [name for name in names if len({run.params.get(name, "None") for run in runs}) > 1]
    order = {section: index for index, section in enumerate(SECTIONS)}
    return sorted(differing, key=lambda name: (order.get(name.partition(".")[0], len(order)), name))


def differing_sources(runs: Sequence[StoredRun]) -> list[str]:
    """Data or base, where they changed behind a setting that stayed the same."""
    return [name for name in SOURCES if len({tuple(run.values(name)) for run in runs}) > 1]


def scores(runs: Sequence[StoredRun]) -> list[str]:
    """The averages first. A run of one task has its scores there when others have more tasks."""
    names = list(dict.fromkeys(name for run in runs for name in run.scores))
    if any(name in AVERAGES for name in names):
        names = [name for name in names if name not in ("f1", "accuracy")]
    return sorted(names, key=lambda name: (name not in AVERAGES, name not in ("avg_f1", "f1")))


def fitting(all_columns: Sequence[Column], width: int, gap: int) -> tuple[list[Column], list[Column]]:
    """The columns for which there is room, and the others; each takes `gap` beside its own width.

    The most important come first; where one is too wide, narrower ones behind it may still fit.
    """
    room = width - 1
    with_room: list[Column] = []
    for column in sorted(all_columns, key=lambda column: column.rank):
        if not with_room or column.width + gap <= room:
            with_room.append(column)
            room -= column.width + gap
    return [each for each in all_columns if each in with_room], [
        each for each in all_columns if each not in with_room
    ]


def _column(runs: Sequence[StoredRun], name: str, names: Sequence[str], rank: int = 0) -> Column:
    cells = []
    are_several = len({version.model for run in runs for version in run.versions}) > 1
    for run in runs:
        if name == "run_id":
            cell = run.summary.run_id[:SHORT_HASH]
        elif name == "status":
            cell = state(run)
        elif name in SOURCES:
            cell = ", ".join(str(value)[:SHORT_HASH] for value in run.values(name))
        elif name == ERROR_TAG:
            cell = ", ".join(beginning(text_of(name, value)) for value in run.values(name))
        elif name == "version":
            cell = ", ".join(each.in_short(with_model=are_several) for each in run.versions)
        else:
            cell = shortened(", ".join(text_of(name, value) for value in run.values(name)))
        cells.append(cell or NONE)
    return Column(name, heading_of(name, names), tuple(cells), rank)


def heading_of(name: str, names: Sequence[str]) -> str:
    """A word of its own, or the shortest end of the name that no other of `names` has; a filter takes it."""
    headings = {full: heading for heading, full in HEADINGS.items()}
    parts = name.split(".")
    least = 2 if parts[-2:-1] and parts[-2] in MAPPINGS else 1
    ends = (".".join(parts[start:]) for start in range(len(parts) - least, -1, -1))
    short = (end for end in ends if sum(f".{other}".endswith(f".{end}") for other in names) == 1)
    return headings.get(name) or next(short, name)


def state(run: StoredRun) -> str:
    """The status; of a run whose process has died the store says RUNNING for ever.

    `KILLED, epoch 2.4 of 8` where it can go on.
    """
    status = run.summary.status
    is_dead = status == "RUNNING" and process.is_dead(run.summary.run_id, run.tags)
    left = stopped(run)
    return ", ".join([status, *(["dead"] if is_dead else []), *([str(left.about)] if left else [])])


def stopped(run: StoredRun) -> StoppedRun | None:
    """What the run has left to go on from, where it is not finished and nobody trains it."""
    if run.summary.status == "FINISHED":
        return None
    left = stopped_run(store_folder(), run.summary.run_id)
    return None if left is None or left.is_held else left


def text_of(name: str, value: Value) -> str:
    """A value as a person reads it."""
    if name in MOMENTS:
        return datetime.fromtimestamp(float(value)).strftime("%Y-%m-%d %H:%M")
    if name in LENGTHS:
        return duration(float(value))
    if isinstance(value, str):
        if value == "None":
            return NONE
        # Numbers that a sweep has drawn have more digits than anybody reads.
        is_long = len(value) > MAX_NUMBER_CHARACTERS and not value.isdecimal()
        as_number = number(value) if is_long or value.endswith(".0") else None
        return printable(value) if as_number is None else f"{as_number:.3g}"
    return score(value) if SCORE.fullmatch(name) else number_text(value)


def setting_text(value: object) -> str:
    """A value that a sweep has drawn: `0.0021`, `0.4/0.6`, `query, value`."""
    if isinstance(value, Mapping):
        return "/".join(setting_text(part) for part in value.values())
    if isinstance(value, list | tuple):
        return ", ".join(setting_text(part) for part in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def score(value: float) -> str:
    """`0.9312`; a number that is no score, as a run logs it when it goes wrong, is no longer than that."""
    return f"{value:.4f}" if abs(value) < MAX_SCORE else number_text(value)


def number_text(value: float) -> str:
    """Five digits; MLflow stores an infinite value as the largest number there is."""
    return f"{math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value:.5g}"


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shortened(text: str, width: int = MAX_CELL_WIDTH) -> str:
    """A path keeps its end, other texts their beginning."""
    if cell_len(text) <= width:
        return text
    if "/" in text:
        return "…" + set_cell_size(text[::-1], width - 1)[::-1].lstrip()
    return beginning(text, width)


def beginning(text: str, width: int = MAX_CELL_WIDTH) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
