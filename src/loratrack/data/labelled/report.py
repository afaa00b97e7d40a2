"""What `data_report.json` says of the rows, and which of it is worth a warning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from loratrack.data.labelled.labels import LabelMap
from loratrack.data.labelled.rows import Rows
from loratrack.data.tables import is_guessed, lines_text

Counts = dict[str, dict[str, dict[str, int]]]


def rows_report(files: Mapping[str, Rows], parts: Mapping[str, Rows], label_map: LabelMap) -> dict[str, Any]:
    """`files` are the known rows by setting, the raw data first; `parts` what became of them."""
    described = {setting: _file_report(rows) for setting, rows in files.items()}
    overlaps = _overlaps(files)
    labels = _label_counts(parts, label_map)
    warnings = [warning for rows in files.values() for warning in _file_warnings(rows)]
    warnings += [_overlap_warning(files, one, other, count) for one, other, count in overlaps if count]
    return {
        "rows": {name: len(part) for name, part in parts.items()},
        "files": described,
        "overlaps": [{"rows_of": one, "also_in": other, "rows": count} for one, other, count in overlaps],
        "labels": labels,
        "warnings": warnings + _untrained_warnings(labels),
    }


def _file_report(rows: Rows) -> dict[str, Any]:
    table, conflicts = rows.table, rows.conflicting()
    return {
        "name": table.file.name,
        "sha256": table.sha256,
        "bytes": table.num_bytes,
        "encoding": table.encoding,
        "rows": len(table),
        "rows_with_unknown_label": len(table) - len(rows),
        "repeated_rows": len(rows) - len(rows.different_texts),
        "conflicting_texts": len(np.unique(rows.text_numbers[conflicts])),
        "conflicting_lines": rows.lines(conflicts),
    }


def _file_warnings(rows: Rows) -> list[str]:
    file, conflicts, dropped = rows.table.file, rows.conflicting(), len(rows.table) - len(rows)
    warnings = []
    if is_guessed(rows.table):
        warnings.append(f"{file}: read as {rows.table.encoding}, by its statistics; UTF-8 would be certain")
    if dropped:
        warnings.append(f"{file}: {dropped} row(s) left out for a label outside data.label_subset")
    if conflicts.any():
        num_texts, where = len(np.unique(rows.text_numbers[conflicts])), lines_text(rows.lines(conflicts))
        warnings.append(f"{file}: {num_texts} text(s) stand with different labels ({where})")
    return warnings


def _overlaps(files: Mapping[str, Rows]) -> list[tuple[str, str, int]]:
    """For each file but the raw data, how many of its rows repeat a text of a file before it."""
    settings = list(files)
    return [
        (one, other, int(files[one].also_in(files[other]).sum()))
        for place, one in enumerate(settings)
        for other in settings[:place]
    ]


def _overlap_warning(files: Mapping[str, Rows], one: str, other: str, count: int) -> str:
    is_raw = other == next(iter(files))
    what_then = "training leaves these texts out" if is_raw else "both files keep them"
    file, repeated = files[one].table.file, files[other].table.file.name
    return f"{file}: {count} row(s) repeat a text of {repeated}; {what_then}"


def _label_counts(parts: Mapping[str, Rows], label_map: LabelMap) -> Counts:
    """{task: {label: {part: rows}}}."""
    counts: Counts = {}
    for column, task in enumerate(label_map.tasks):
        in_parts = {
            name: np.bincount(part.labels[:, column], minlength=len(task.labels))
            for name, part in parts.items()
        }
        counts[task.name] = {
            label: {name: int(numbers[local_id]) for name, numbers in in_parts.items()}
            for local_id, label in enumerate(task.labels)
        }
    return counts


def _untrained_warnings(counts: Counts) -> list[str]:
    warnings = []
    for task, labels in counts.items():
        untrained = [label for label, numbers in labels.items() if numbers["train"] == 0]
        if untrained:
            warnings.append(f"{task}: no training row for {len(untrained)} label(s): {untrained[:10]!r}")
    return warnings
