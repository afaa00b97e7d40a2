"""The `data` section: which files and columns are read, which labels each task has, who is held out."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator

from loratrack.config.fields import NO, YES, FilePath, NotEmpty, Section, Seed, one_shape_of
from loratrack.metrics import BASELINE, MAJORITY

MAX_TASK_CHARACTERS = 60
"""Pictures are named after tasks: `confusion_NAME.png`."""


def _label(value: object) -> object:
    if value is None or value == "":
        raise ValueError("a label must be text; null and the empty text mean none, 'null' in quotes is one")
    return value


def _different_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(labels) < 2:
        hint = "; write ',' for the full-width '，' between labels" if "，" in "".join(labels) else ""
        raise ValueError(f"a task needs at least two labels, got {list(labels)!r}{hint}")
    repeated = sorted(label for label, count in Counter(labels).items() if count > 1)
    if repeated:
        raise ValueError(f"listed more than once: {', '.join(repeated)}")
    return labels


def _task_name(name: str) -> str:
    """Task names become names of metrics, files and parameters."""
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ValueError(f"a task's name must be letters, digits, `_` and `-`, got {name!r}")
    if len(name) > MAX_TASK_CHARACTERS:
        raise ValueError(f"a task's name must have at most {MAX_TASK_CHARACTERS} characters, got {len(name)}")
    if name == "avg" or name.startswith(("best_", "test_")):
        raise ValueError(f"a task's name must leave avg, best_… and test_… to the metrics, got {name!r}")
    if f"{name}_".startswith((MAJORITY, BASELINE)):
        raise ValueError(f"a task's name must leave baseline and majority to the metrics, got {name!r}")
    if name == "loss":
        raise ValueError("a task's name must leave loss to the picture of the loss, got 'loss'")
    return name


TaskName = Annotated[str, AfterValidator(_task_name)]
_All = Annotated[Literal["all"], Tag("<word>")]
_Labels = Annotated[
    tuple[Annotated[str, BeforeValidator(_label)], ...], AfterValidator(_different_labels), Tag("<list>")
]
Subset = Annotated[_All | _Labels, one_shape_of("must be a list of labels, or `all`", "all")]
LabelSubset = Annotated[
    _All | _Labels | Annotated[dict[TaskName, Subset], Tag("<mapping>")],
    one_shape_of("must be a list of labels, `all`, or a mapping of tasks to one of these", "all"),
]
Columns = Annotated[
    Annotated[NotEmpty, Tag("<word>")] | Annotated[tuple[NotEmpty, ...], Tag("<list>")],
    one_shape_of("must be the name of a column, or a list of names"),
]


def _truth_or_list(value: object) -> str | None:
    if isinstance(value, list | tuple):
        return "<list>"
    return "<word>" if isinstance(value, bool) or str(value).lower() in YES | NO else None


MultiLabel = Annotated[
    Annotated[bool, Tag("<word>")] | Annotated[tuple[NotEmpty, ...], Tag("<list>")],
    Discriminator(
        _truth_or_list,
        custom_error_type="shape",
        custom_error_message="must be true, false or a list of tasks",
    ),
]


class Data(Section):
    raw_data_path: FilePath
    validation_path: FilePath | None = None
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the raw data that is split off when `validation_path` names no file."""
    split_seed: Seed = 0
    """Which rows are split off; `train.seed` does not move them."""
    test_path: FilePath | None = None
    global_label_map: FilePath | None = None
    label_columns: dict[str, NotEmpty] = {}  # noqa: RUF012  pydantic copies it
    text_column: Columns = "text"
    label_subset: LabelSubset | None = None
    multi_label: MultiLabel = False
    """The tasks with any number of labels a row; true: all tasks."""
    label_separator: Annotated[str, Field(min_length=1, max_length=20)] = ";"
    """Between the labels of a row in a CSV or TSV file."""
    unknown_label: Literal["error", "drop"] = "error"
    empty_text: Literal["error", "drop"] = "error"
    max_len: Annotated[int, Field(ge=4, le=1_000_000)] = 128
    """Tokens of one example at most, special tokens counted."""
    data_process_version: str = "v1"

    @field_validator("text_column")
    @classmethod
    def _names_different_columns(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple) and (not value or len(set(value)) != len(value)):
            raise ValueError(f"must name one column, or several different ones, got {list(value)!r}")
        return value
