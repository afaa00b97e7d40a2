"""From the files of a config to checked, labelled and split examples; no tokenizer yet."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from loratrack.config import RunConfig
from loratrack.data.labelled.checks import (
    FILL,
    label_problems,
    labels_in,
    rows_without_text,
    text_problems,
    unknown_label_problems,
)
from loratrack.data.labelled.labels import (
    LabelMap,
    probably_meant,
    read_global_map,
    subset_problems,
    task_labels,
)
from loratrack.data.labelled.report import Report, gaps, label_counts, rows_report
from loratrack.data.labelled.rows import Rows, mapped_rows
from loratrack.data.labelled.splits import Ints, held_out, strata
from loratrack.data.tables import Table, read_table
from loratrack.errors import DataError, counted, did_you_mean, problems_message, quoted

RAW, VALIDATION, TEST = "data.raw_data_path", "data.validation_path", "data.test_path"
GLOBAL_MAP = "data.global_label_map"
HASHED_ROWS = 1000
"""Texts that are hashed in one go."""


@dataclass(frozen=True)
class Examples:
    """Texts by column, and for each text one row of labels: see LabelMap.columns."""

    columns: tuple[list[str], ...]
    labels: Ints

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, rows: Ints) -> Examples:
        columns = tuple([column[row] for row in rows.tolist()] for column in self.columns)
        return Examples(columns, self.labels[rows])

    @property
    def joined(self) -> list[str]:
        """The text of each row; that of several columns as one."""
        return ["\n".join(row) for row in zip(*self.columns, strict=True)]

    @property
    def texts_sha256(self) -> str:
        """Of the texts in their order."""
        sha256 = hashlib.sha256()
        for start in range(0, len(self), HASHED_ROWS):
            rows = [column[start : start + HASHED_ROWS] for column in self.columns]
            sha256.update(json.dumps(rows).encode())
        return sha256.hexdigest()


@dataclass(frozen=True)
class Corpus:
    train: Examples
    validation: Examples
    test: Examples | None
    label_map: LabelMap
    files_sha256: dict[str, str]
    """By setting, such as `data.raw_data_path`."""
    report: Report
    """`data_report.json` but for the lengths in tokens."""

    @property
    def sha256(self) -> str:
        """Of the bytes of all data files."""
        return hashlib.sha256(json.dumps(self.files_sha256, sort_keys=True).encode()).hexdigest()

    def only(self, rows: Mapping[str, Ints]) -> Corpus:
        """The same with these rows of some parts alone, in its report and its warnings too."""
        if not rows:
            return self
        parts = {name: part.only(rows[name]) if name in rows else part for name, part in self.parts.items()}
        labels, without_label = label_counts(
            {name: part.labels for name, part in parts.items()}, self.label_map
        )
        old = gaps(self.report["labels"])
        report = {
            **self.report,
            "rows": {name: len(part) for name, part in parts.items()},
            "labels": labels,
            "warnings": [text for text in self.report["warnings"] if text not in old] + gaps(labels),
        }
        if without_label:
            report["rows_without_label"] = without_label
        return Corpus(
            parts["train"],
            parts["validation"],
            parts.get("test"),
            self.label_map,
            self.files_sha256,
            report,
        )

    @property
    def parts(self) -> dict[str, Examples]:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: examples for name, examples in parts.items() if examples is not None}


def read(config: RunConfig) -> Corpus:
    """One DataError reports all problems of all data files, with the lines they stand at."""
    data, problems = config.data, list[str]()
    paths = {RAW: data.raw_data_path, VALIDATION: data.validation_path, TEST: data.test_path}
    local: dict[str, Path] = {}
    for setting, path in {**paths, GLOBAL_MAP: data.global_label_map}.items():
        if path is not None and "://" in path:
            problems.append(f"{setting}: must be a local file, got {path!r}; download it and name the file")
        elif path is not None:
            local[setting] = Path(path)

    columns = (*config.text_columns, *config.label_columns.values())
    separators = {config.label_columns[task]: data.label_separator for task in config.multi_label_tasks}
    tables: dict[str, Table] = {}
    for setting in paths:
        if setting not in local:
            continue
        table = read_table(local[setting], columns, problems, separators, partial(column_settings, config))
        if table is not None:
            tables[setting] = table
    global_map = None
    if GLOBAL_MAP in local:
        global_map = read_global_map(local[GLOBAL_MAP], config.tasks, problems)
    are_files_whole = not problems
    num_empty = dict.fromkeys(tables, 0)
    for setting, table in tables.items():
        if data.empty_text == "drop":
            empty = rows_without_text(table, config.text_columns)
            if len(empty) == len(table):
                problems.append(f"{table.file}: no row has a text")
                continue
            num_empty[setting] = len(empty)
            table = tables[setting] = table.without(empty) if empty else table
        problems += text_problems(table, config.text_columns, f"{FILL}, or set data.empty_text: drop")
        for column in config.label_columns.values():
            if column not in separators:  # a row of a multi-label task may have no label
                problems += label_problems(table, column)

    # While a file is in doubt nobody knows all labels: then only those that the config lists are compared.
    tasks = []
    for name, subset in config.subsets.items():
        column = config.label_columns[name]
        separator = separators.get(column)
        rows_of: Counter[str] = sum(
            (labels_in(table, column, separator) for table in tables.values()), Counter()
        )
        labels = subset if isinstance(subset, tuple) else None
        if are_files_whole:
            tasks.append(
                task_labels(name, subset, rows_of, global_map, problems, is_multi_label=separator is not None)
            )
            labels = tasks[-1].labels
        if labels is None or not rows_of:
            continue
        must_be_in_data = are_files_whole and global_map is None
        new = subset_problems(name, labels, rows_of, must_be_in_data=must_be_in_data)
        problems += new
        if data.unknown_label == "error" and not rows_of.keys().isdisjoint(labels):
            told = set(probably_meant(labels, rows_of).values()) if new else set()
            for table in tables.values():
                problems += unknown_label_problems(table, column, labels, rows_of, told, separator)
        weights = config.class_weights.get(name, {})
        problems += [
            f"train.class_weight: label {quoted(label)} is not among the {len(labels)} of {name}"
            f"{did_you_mean(label, labels)}"
            for label in (weights if isinstance(weights, dict) else {})
            if label not in labels
        ]
    _raise(config, problems)

    label_map = LabelMap(tuple(tasks))
    files = {
        setting: mapped_rows(table, config.text_columns, config.label_columns, label_map, separators)
        for setting, table in tables.items()
    }
    parts = _split(config, files, label_map)
    examples = {}
    for name, rows in parts.items():
        texts = [rows.table.columns[column] for column in config.text_columns]
        values = tuple([column[index] or "" for index in rows.indices] for column in texts)
        examples[name] = Examples(values, rows.labels)
    return Corpus(
        train=examples["train"],
        validation=examples["validation"],
        test=examples.get("test"),
        label_map=label_map,
        files_sha256={setting: rows.table.sha256 for setting, rows in files.items()},
        report=rows_report(files, parts, label_map, num_empty),
    )


def column_settings(config: RunConfig, meant: Mapping[str, str]) -> str:
    """The settings that name columns which the file does not have, with what may have been meant."""
    settings = []
    if any(column in meant for column in config.text_columns):
        names = [meant.get(column, column) for column in config.text_columns]
        listed = ", ".join(names)
        settings.append(f"data.text_column: {listed if len(names) == 1 else f'[{listed}]'}")
    tasks = {task: meant[column] for task, column in config.label_columns.items() if column in meant}
    if tasks:
        pairs = ", ".join(f"{task}: {column}" for task, column in tasks.items())
        settings.append(f"data.label_columns: {{{pairs}}}")
    return f"say which is meant, such as {' and '.join(settings)}"


def _split(config: RunConfig, files: Mapping[str, Rows], label_map: LabelMap) -> dict[str, Rows]:
    """The rows of train, validation and, where a file is named, test; training shares no text with them."""
    train = files[RAW]
    for setting in (VALIDATION, TEST):
        if setting in files:
            train = train.only(~train.also_in(files[setting]))
    why = (
        "their texts are empty, their labels are outside data.label_subset, or their texts are in the"
        " validation or test file too"
    )
    empty = [setting for setting, rows in {**files, RAW: train}.items() if len(rows) == 0]
    _raise(config, [f"{setting}: no row of {files[setting].table.file} is left: {why}" for setting in empty])
    validation = files.get(VALIDATION)
    if validation is None:
        mask = held_out(
            train.text_numbers,
            train.labels,
            config.data.validation_share,
            config.data.split_seed,
            strata=strata(train.labels, list(label_map.columns.values())),
        )
        if not mask.any():
            texts = counted(len(train.different_texts), "different text")
            labels = counted(sum(len(np.unique(column)) for column in train.labels.T), "label")
            _raise(
                config,
                [
                    f"{train.table.file}: too few rows for a validation split: {texts}, {labels}; add rows or"
                    " name a data.validation_path"
                ],
            )
        train, validation = train.only(~mask), train.only(mask)
    parts = {"train": train, "validation": validation}
    return {**parts, "test": files[TEST]} if TEST in files else parts


def _raise(config: RunConfig, problems: Sequence[str]) -> None:
    if problems:
        raise DataError(problems_message(config.exp_id, problems, where=" in the data"))
