"""From the files of a config to checked, labelled and split examples; no tokenizer yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratrack.config import RunConfig
from loratrack.data.labelled.checks import label_faults, text_faults, unknown_label_faults
from loratrack.data.labelled.labels import GlobalMap, LabelMap, read_global_map, task_labels
from loratrack.data.labelled.report import rows_report
from loratrack.data.labelled.rows import Rows, known_rows
from loratrack.data.labelled.splits import Ints, held_out
from loratrack.data.tables import Table, read_table
from loratrack.errors import DataError, problems_message

RAW, VALIDATION, TEST = "data.raw_data_path", "data.validation_path", "data.test_path"


@dataclass(frozen=True)
class Examples:
    """Texts by column, and for each text one row of local label ids."""

    columns: tuple[list[str], ...]
    labels: Ints

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Corpus:
    train: Examples
    validation: Examples
    test: Examples | None
    label_map: LabelMap
    files_sha256: dict[str, str]
    """By setting, such as `data.raw_data_path`."""
    report: dict[str, Any]
    """`data_report.json` but for the lengths in tokens."""

    @property
    def sha256(self) -> str:
        """Of the bytes of all data files."""
        return hashlib.sha256(json.dumps(self.files_sha256, sort_keys=True).encode()).hexdigest()

    @property
    def parts(self) -> dict[str, Examples]:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: examples for name, examples in parts.items() if examples is not None}


def read(config: RunConfig) -> Corpus:
    """Every fault of every data file is told in one DataError, with the lines it stands at."""
    faults: list[str] = []
    tables = _read_tables(config, faults)
    global_map = _read_global_map(config, faults)
    for table in tables.values():
        faults += text_faults(table, config.text_columns)
        for column in config.label_columns.values():
            faults += label_faults(table, column)
    _raise(config, faults)  # what the labels are cannot be said while a file is in doubt
    label_map = _label_map(config, tables, global_map, faults)
    faults += _unknown_labels(config, tables, label_map)
    _raise(config, faults)
    columns = config.text_columns, config.label_columns
    files = {setting: known_rows(table, *columns, label_map) for setting, table in tables.items()}
    return _corpus(config, files, label_map)


def _raise(config: RunConfig, faults: Sequence[str]) -> None:
    if faults:
        raise DataError(problems_message(f"data of {config.exp_id}", faults))


def _read_tables(config: RunConfig, faults: list[str]) -> dict[str, Table]:
    data = config.data
    paths = {RAW: data.raw_data_path, VALIDATION: data.validation_path, TEST: data.test_path}
    columns = (*config.text_columns, *config.label_columns.values())
    tables: dict[str, Table] = {}
    for setting, path in paths.items():
        if path is not None and _is_local(setting, path, faults):
            table = read_table(Path(path), columns, faults)
            tables |= {} if table is None else {setting: table}
    return tables


def _read_global_map(config: RunConfig, faults: list[str]) -> GlobalMap | None:
    path = config.data.global_label_map
    if path is None or not _is_local("data.global_label_map", path, faults):
        return None
    return read_global_map(Path(path), config.tasks, faults)


def _is_local(setting: str, path: str, faults: list[str]) -> bool:
    if "://" in path:
        faults.append(f"{setting}: must be a local file, got {path!r}; download it and name the file")
        return False
    return True


def _label_map(
    config: RunConfig,
    tables: Mapping[str, Table],
    global_map: GlobalMap | None,
    faults: list[str],
) -> LabelMap:
    tasks = []
    for task, subset in config.subsets.items():
        column = config.label_columns[task]
        found = {str(label) for table in tables.values() for label in set(table.columns[column])}
        tasks.append(task_labels(task, subset, found, global_map, faults))
    return LabelMap(tuple(tasks))


def _unknown_labels(config: RunConfig, tables: Mapping[str, Table], label_map: LabelMap) -> list[str]:
    if config.data.unknown_label == "drop":
        return []
    return [
        fault
        for table in tables.values()
        for task in label_map.tasks
        for fault in unknown_label_faults(table, config.label_columns[task.name], task.labels)
    ]


def _corpus(config: RunConfig, files: Mapping[str, Rows], label_map: LabelMap) -> Corpus:
    train = files[RAW]
    for setting in (VALIDATION, TEST):
        if setting in files:
            train = train.only(~train.also_in(files[setting]))
    _refuse_empty(config, {**files, RAW: train})
    validation = files.get(VALIDATION)
    if validation is None:
        train, validation = _hold_out(config, train)
    parts = {"train": train, "validation": validation}
    parts |= {"test": files[TEST]} if TEST in files else {}
    examples = {name: _examples(rows, config.text_columns) for name, rows in parts.items()}
    files_sha256 = {setting: rows.table.sha256 for setting, rows in files.items()}
    report = rows_report(files, parts, label_map)
    return Corpus(
        examples["train"], examples["validation"], examples.get("test"), label_map, files_sha256, report
    )


def _refuse_empty(config: RunConfig, files: Mapping[str, Rows]) -> None:
    why = "their labels are outside data.label_subset, or their texts are in the validation or test file too"
    empty = [setting for setting, rows in files.items() if len(rows) == 0]
    _raise(config, [f"{setting}: no row of {files[setting].table.file} is left: {why}" for setting in empty])


def _hold_out(config: RunConfig, rows: Rows) -> tuple[Rows, Rows]:
    mask = held_out(rows.text_numbers, rows.labels, config.data.validation_share, config.train.seed)
    if not mask.any():
        got = f"got {len(rows.different_texts)} different text(s); add rows or name a data.validation_path"
        what = "must hold more texts than labels, to hold some out for validation"
        _raise(config, [f"{rows.table.file}: {what}, {got}"])
    return rows.only(~mask), rows.only(mask)


def _examples(rows: Rows, columns: Sequence[str]) -> Examples:
    texts = [rows.table.columns[column] for column in columns]
    return Examples(tuple([column[place] or "" for place in rows.places] for column in texts), rows.labels)
