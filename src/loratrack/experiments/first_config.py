"""A config from a data file: its columns, labels and neighbours, each with the reason for the guess.

first = guess(Path("train.csv"))
first.reasons                      # ["text: the column '文本', …", …]
write(first, Path("train.yaml"))
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loratrack import disk
from loratrack.bases.hub import BUILT_IN
from loratrack.config import SINGLE_TASK
from loratrack.config.data import MAX_TASK_CHARACTERS
from loratrack.config.files import ExactDumper, parse
from loratrack.config.train import Train
from loratrack.data.labelled.checks import FILL, labels_in, lines_without_label, rows_without_text
from loratrack.data.labelled.report import joined_labels
from loratrack.data.tables import Table, lines_text, read_table
from loratrack.errors import (
    ConfigError,
    DataError,
    UserError,
    counted,
    did_you_mean,
    problems_message,
    quoted,
)

TEXT_NAMES = (
    *(
        "text",
        "sentence",
        "content",
        "review",
        "comment",
        "message",
        "utterance",
        "query",
        "question",
        "title",
    ),
    *("文本", "内容", "评论", "正文", "句子", "问题", "标题"),
)
LABEL_NAMES = re.compile(
    r"label|class|categor|intent|target|sentiment|emotion|^is_|标签|类别|类型|分类|等级|意图|情感|是否",
    re.IGNORECASE,
)
MAX_GUESSED_LABELS = 500
ROWS_A_LABEL = 3
"""A column with fewer rows for each of its values holds numbers or texts, no classes."""
MAX_LISTED_LABELS = 30
"""More are `all` in the file."""
JOINED_LABELS = 2
"""So many labels that are others joined are no chance: rows have several labels then."""
HELD_OUT = {"validation_path": ("validation", "valid", "val", "dev"), "test_path": ("test",)}
CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
MOSTLY = 0.3
"""Share of the letters from which on a text counts as Chinese, Japanese or Korean."""
EPOCHS, MAX_EPOCHS = 5, 20
FEWEST_STEPS = 300
"""With fewer a new adapter has hardly moved: 300 rows learned nothing in 45 steps."""
MEAN_POOLING = "mean"
"""What the built-in base was trained with."""


@dataclass(frozen=True)
class FirstConfig:
    settings: dict[str, Any]
    """With whole paths."""
    reasons: tuple[str, ...]
    """What was guessed, and why; a line each."""


def guess(file: Path, text: str | None = None, labels: Sequence[str] = ()) -> FirstConfig:
    """Settings for the data in `file`; `text` and `labels` name columns, where they are known.

    DataError: the file cannot be read, or no column can be taken for the text or for labels.
    """
    names = [name for name in _read(file, []).names if name.strip()]
    for name in (*([] if text is None else [text]), *labels):
        if name not in names:
            raise DataError(
                f"{file}: has no column {quoted(name)}{did_you_mean(name, names)}; it has {quoted(names)}"
            )
    table = _read(file, list(dict.fromkeys(names)))
    reasons = list(table.notices)

    if text is None:
        text, why = _text_column(table, [name for name in table.columns if name not in labels])
        reasons.append(f"text         column {quoted(text)}: {why}")
    else:
        reasons.append(f"text         column {quoted(text)}: as told")
    if labels:
        reasons.append(f"labels       {', '.join(map(quoted, labels))}: as told")
    else:
        labels, why = _label_columns(table, text)
        reasons.append(f"labels       {', '.join(map(quoted, labels))}: {why}")

    paths, tables = _held_out_files(table, [text, *labels], reasons)
    empty = {one.file.name: rows_without_text(one, [text]) for one in tables}
    with_text = [one.without(empty[one.file.name]) for one in tables]
    tasks = _task_names(labels)
    subsets: dict[str, Any] = {}
    several: dict[str, str] = {}
    """Tasks with several labels a row, and what stands between them: the same for all."""
    for task, column in tasks.items():
        rows_of: Counter[str] = sum((labels_in(one, column) for one in tables), Counter())
        separators = Counter(separator for _, separator in joined_labels(rows_of))
        for separator, count in separators.most_common(1):
            if count >= JOINED_LABELS and set(several.values()) <= {separator}:
                several[task] = separator
                rows_of = sum((labels_in(one, column, separator) for one in tables), Counter())
                reasons.append(
                    f"{task:<12} several labels a row, joined by {separator!r}: the parts are labels too"
                )
        by_count = [label for label, _ in rows_of.most_common()]
        subsets[task] = by_count if len(by_count) <= MAX_LISTED_LABELS else "all"
        listed = ", ".join(by_count[:5]) + (", …" if len(by_count) > 5 else "")
        reasons.append(f"{task:<12} {counted(len(by_count), 'label')}, the most frequent first: {listed}")
        for one in [] if task in several else with_text:
            if missing := lines_without_label(one, column):
                have = "row has" if len(missing) == 1 else "rows have"
                reasons.append(
                    f"{task:<12} {len(missing):,} {have} no label in {one.file.name}"
                    f" ({lines_text(missing)}); {FILL}, else `loratrack check` refuses them"
                )
        if len(by_count) < 2:
            raise DataError(
                f"{file}: the column {quoted(column)} has {counted(len(by_count), 'label')}; a task needs two"
            )
    data: dict[str, Any] = {name: str(path.absolute()) for name, path in paths.items()}
    if text != "text":
        data["text_column"] = text
    data["label_columns"] = {task: column for task, column in tasks.items() if task != column}
    data["label_subset"] = subsets if len(tasks) > 1 else subsets[SINGLE_TASK]
    if several:
        data["multi_label"] = True if len(tasks) == 1 else list(several)
        data["label_separator"] = next(iter(several.values()))
    if total := sum(map(len, empty.values())):
        data["empty_text"] = "drop"
        have = "row has" if total == 1 else "rows have"
        files = ", ".join(f"{len(rows):,} in {name}" for name, rows in empty.items() if rows)
        reasons.append(
            f"empty_text   drop: {total:,} {have} no text ({files}); with `error` they are refused"
        )

    letters = "".join(value or "" for value in table.columns[text])
    share = len(CJK.findall(letters)) / max(1, sum(map(str.isalpha, letters)))
    reasons.append(f"base         {BUILT_IN}: built in, needs no network")
    if share >= MOSTLY:
        reasons.append(
            f"             {share:.0%} of the letters are Chinese, Japanese or Korean, which {BUILT_IN} has"
            " hardly seen; where the hub or its folder is at hand, model.arch: bert-base-chinese does better"
        )
    settings = {
        "exp_id": re.sub(r"[^\w.-]|^[.-]", "_", file.stem)[:200],
        "task_type": {1: "single_cls", 2: "double_cls"}.get(len(tasks), "multi_cls"),
        "data": {name: value for name, value in data.items() if value != {}},
        "model": {"arch": BUILT_IN, "pooling": MEAN_POOLING},
        "train": _passes(len(with_text[0]), reasons),
    }
    return FirstConfig(settings, tuple(reasons))


def _held_out_files(
    table: Table, columns: Sequence[str], reasons: list[str]
) -> tuple[dict[str, Path], list[Table]]:
    """The file and those beside it that hold its validation and test rows, by setting; all of them read."""
    file = table.file
    paths = {"raw_data_path": file}
    tables = [table]
    for setting, words in HELD_OUT.items():
        for name in _names_beside(file, words):
            problems: list[str] = []
            other = read_table(file.with_name(name), columns, problems)
            if other is None:
                reasons.append(f"{name:<12} left out: {problems[0]}")
                continue
            paths[setting], tables = file.with_name(name), [*tables, other]
            reasons.append(f"{words[0]:<12} {name}: it lies beside and has these columns")
            break
    if "validation_path" not in paths:
        reasons.append("validation   a tenth of the rows, held out")
    return paths, tables


def _passes(rows: int, reasons: list[str]) -> dict[str, int]:
    """How long to train: few rows need more epochs."""
    batches = math.ceil(rows / Train.model_fields["batch_size"].default)
    epochs = min(MAX_EPOCHS, math.ceil(FEWEST_STEPS / max(1, batches)))
    if epochs <= EPOCHS:
        return {"epochs": EPOCHS}
    reasons.append(
        f"train        {epochs} epochs, since few rows need more of them; it stops after {EPOCHS} without a"
        " better score"
    )
    return {"epochs": epochs, "early_stopping_epochs": EPOCHS}


def write(first: FirstConfig, out: Path) -> None:
    """Write the config where nothing is yet; UserError where it would be none, or replace a file."""
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"{out}: must end in .yaml, got {out.suffix!r}")
    if out.exists():
        raise UserError(f"{out}: is there already and is not replaced; name another file with --out")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: must be in a folder that exists, not in {out.parent}; make it first")
    parse(first.settings, source=str(out))
    folder = out.absolute().parent
    data = {
        name: _from(folder, value) if name.endswith("_path") else value
        for name, value in first.settings["data"].items()
    }
    text = yaml.dump(
        {**first.settings, "data": data},
        Dumper=ExactDumper,
        allow_unicode=True,
        sort_keys=False,
        default_flow_style=None,
        width=100,
    )
    disk.write_text(out, text)


def _from(folder: Path, path: str) -> str:
    """From the config's folder on, unless the two are far apart."""
    relative = os.path.relpath(path, folder)
    return path if relative.startswith("../../../") else relative


def _read(file: Path, columns: Sequence[str]) -> Table:
    problems: list[str] = []
    table = read_table(file, columns, problems)
    if table is None:
        raise DataError(problems_message(str(file), [line.removeprefix(f"{file}: ") for line in problems]))
    return table


def _text_column(table: Table, names: Sequence[str]) -> tuple[str, str]:
    for known in TEXT_NAMES:
        for name in names:
            if name.strip().casefold() == known:
                return name, "its name"
    if not names:
        raise DataError(f"{table.file}: no column is left for the text; name it with --text")
    lengths = {name: sum(len(value or "") for value in table.columns[name]) / len(table) for name in names}
    longest = max(names, key=lambda name: lengths[name])
    return longest, f"the longest values, {lengths[longest]:.0f} characters on average"


def _label_columns(table: Table, text: str) -> tuple[list[str], str]:
    counts = {name: labels_in(table, name) for name in table.columns if name != text}
    classes = [
        name
        for name, rows_of in counts.items()
        if 2 <= len(rows_of) <= min(MAX_GUESSED_LABELS, rows_of.total() / ROWS_A_LABEL)
    ]
    if named := [name for name in classes if LABEL_NAMES.search(name)]:
        others = [name for name in classes if name not in named]
        more = f" ({', '.join(map(quoted, others))} too has few; --label takes it)" if others else ""
        return named, f"the name, and few different values{more}"
    if classes:
        return classes, "few different values"
    raise DataError(
        f"{table.file}: no column beside {quoted(text)} has few different values; name the columns of the"
        " labels with --label, and that of the text with --text"
    )


def _names_beside(file: Path, words: Sequence[str]) -> list[str]:
    """Files that differ from this one in the word `train`, or are called by the word alone."""
    names = []
    for word in words:
        if "train" in file.stem:
            names.append(file.stem.replace("train", word) + file.suffix)
        names.append(word + file.suffix)
    return [name for name in dict.fromkeys(names) if name != file.name and file.with_name(name).is_file()]


def _task_names(columns: Sequence[str]) -> dict[str, str]:
    """The columns by task: their own names where these may be tasks."""
    if len(columns) == 1:
        return {SINGLE_TASK: columns[0]}
    names = [re.sub(r"[^\w-]", "_", column)[:MAX_TASK_CHARACTERS].lstrip("-") for column in columns]
    try:
        subsets = dict.fromkeys(names, "all")
        parse(
            {
                "exp_id": "x",
                "task_type": "multi_cls",
                "data": {"raw_data_path": "x", "label_subset": subsets},
            },
            "x",
        )
        is_fit = len(subsets) == len(columns)
    except ConfigError:
        is_fit = False
    fit = names if is_fit else [f"task_{number}" for number in range(1, len(columns) + 1)]
    return dict(zip(fit, columns, strict=True))
