"""What `data_report.json` says of the rows, and which of it is worth a warning."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from loratrack.data.files import guessed_notices
from loratrack.data.labelled.labels import LabelMap
from loratrack.data.labelled.rows import Rows
from loratrack.data.labelled.splits import Ints
from loratrack.data.tables import lines_text
from loratrack.errors import counted, quoted

Report = dict[str, Any]
"""JSON."""

MAX_LISTED_LABELS = 10
SEPARATORS = ",;|/+、，；"
"""Between the labels of a row that has several."""
MIN_LABELS_TO_DOUBT = 20
"""Fewer labels are classes, however rare each is."""


def rows_report(
    files: Mapping[str, Rows], parts: Mapping[str, Rows], label_map: LabelMap, num_empty: Mapping[str, int]
) -> Report:
    """`files` are the rows with labels of the map by setting, the raw data first; `parts` the split.

    `num_empty`: how many rows without text were left out of each file.
    """
    described: dict[str, object] = {}
    warnings: list[str] = []
    for setting, rows in files.items():
        file, table, conflicts = rows.table.file, rows.table, rows.conflicting()
        num_unmapped = len(table) - len(rows)
        num_conflicting = len(np.unique(rows.text_numbers[conflicts]))
        described[setting] = {
            "name": file.name,
            "sha256": table.sha256,
            "bytes": table.num_bytes,
            "encoding": table.encoding,
            "rows": len(table) + num_empty[setting],
            "rows_without_text": num_empty[setting],
            "rows_with_unknown_label": num_unmapped + rows.num_shortened,
            "repeated_rows": len(rows) - len(rows.different_texts),
            "conflicting_texts": num_conflicting,
            "conflicting_lines": rows.lines(conflicts),
        }
        warnings += [*guessed_notices(file, table.encoding), *table.notices]
        if num_empty[setting]:
            rows_text = counted(num_empty[setting], "row")
            warnings.append(f"{file}: {rows_text} left out for an empty text")
        if num_unmapped:
            rows_text = counted(num_unmapped, "row")
            warnings.append(f"{file}: {rows_text} left out for a label outside data.label_subset")
        if rows.num_shortened:
            rows_text = counted(rows.num_shortened, "row")
            warnings.append(
                f"{file}: labels outside data.label_subset are left out of {rows_text}, which stay"
            )
        if num_conflicting:
            verb = "text stands" if num_conflicting == 1 else "texts stand"
            where = lines_text(rows.lines(conflicts))
            warnings.append(f"{file}: {num_conflicting} {verb} with different labels ({where})")

    # For each file but the raw data, how many of its rows repeat a text of a file before it.
    overlaps: list[dict[str, object]] = []
    settings = list(files)
    for index, setting in enumerate(settings):
        for other in settings[:index]:
            count = int(files[setting].also_in(files[other]).sum())
            overlaps.append({"rows_of": setting, "also_in": other, "rows": count})
            if count:
                verb = "row repeats" if count == 1 else "rows repeat"
                is_raw = other == settings[0]
                consequence = "training leaves these texts out" if is_raw else "both files keep them"
                warnings.append(
                    f"{files[setting].table.file}: {count} {verb} a text of {files[other].table.file.name};"
                    f" {consequence}"
                )

    labels, rows_without_label = label_counts({name: part.labels for name, part in parts.items()}, label_map)
    for task in label_map.tasks:
        totals = {label: sum(numbers.values()) for label, numbers in labels[task.name].items()}
        warnings += doubts(task.name, totals, is_multi_label=task.is_multi_label)
    warnings += gaps(labels)
    return {
        "rows": {name: len(part) for name, part in parts.items()},
        "files": described,
        "overlaps": overlaps,
        "labels": labels,
        **({"rows_without_label": rows_without_label} if rows_without_label else {}),
        "warnings": warnings,
    }


def gaps(labels: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    """The labels without a training row, and those without a validation row; `labels` as `label_counts`."""
    warnings = []
    for task, counts in labels.items():
        untrained = [label for label, numbers in counts.items() if numbers["train"] == 0]
        if untrained:
            listed = quoted(untrained[:MAX_LISTED_LABELS])
            warnings.append(f"{task}: no training row for {counted(len(untrained), 'label')}: {listed}")
        unseen = [label for label, numbers in counts.items() if numbers["validation"] == 0]
        if unseen:
            listed = quoted(unseen[:MAX_LISTED_LABELS])
            of_all = f"{len(unseen)} of {counted(len(counts), 'label')}"
            warnings.append(
                f"{task}: no validation row for {of_all}, so its f1 says nothing of them: {listed}"
            )
    return warnings


def label_counts(
    parts: Mapping[str, Ints], label_map: LabelMap
) -> tuple[dict[str, dict[str, dict[str, int]]], dict[str, dict[str, int]]]:
    """`{task: {label: {part: rows}}}`; and of multi-label tasks `{task: {part: rows without a label}}`."""
    labels: dict[str, dict[str, dict[str, int]]] = {}
    rows_without_label: dict[str, dict[str, int]] = {}
    for task in label_map.tasks:
        own = {name: matrix[:, label_map.columns[task.name]] for name, matrix in parts.items()}
        if task.is_multi_label:
            counts = {name: matrix.sum(axis=0, dtype=np.int64) for name, matrix in own.items()}
            rows_without_label[task.name] = {
                name: int((~matrix.any(axis=1)).sum()) for name, matrix in own.items()
            }
        else:
            counts = {
                name: np.bincount(matrix[:, 0], minlength=len(task.labels)) for name, matrix in own.items()
            }
        labels[task.name] = {
            label: {name: int(numbers[local_id]) for name, numbers in counts.items()}
            for local_id, label in enumerate(task.labels)
        }
    return labels, rows_without_label


def doubts(task: str, counts: Mapping[str, int], *, is_multi_label: bool = False) -> list[str]:
    """Whether these are classes at all: numbers and lists of labels would train without a word."""
    found = {label: count for label, count in counts.items() if count}
    warnings = []
    num_single = sum(count == 1 for count in found.values())
    if len(found) >= MIN_LABELS_TO_DOUBT and num_single > len(found) / 2:
        warnings.append(
            f"{task}: {len(found)} labels for {sum(found.values())} rows, {num_single} of them with one row:"
            " a number or a free text cannot be learned as a label; make classes of it, such as low and high"
        )
    joined = joined_labels(found)
    if joined:
        are = "label joins" if len(joined) == 1 else "labels join"
        label, separator = joined[0]
        switch = "" if is_multi_label else f"data.multi_label: [{task}] and "
        warnings.append(
            f"{task}: {len(joined)} {are} other labels, such as {quoted(label)}: it is learned as a class of"
            f" its own; for several labels a row set {switch}data.label_separator: '{separator}'"
        )
    return warnings


def joined_labels(labels: Collection[str]) -> list[tuple[str, str]]:
    """The labels that are other labels joined, each with what stands between them."""
    known = set(labels)
    return [
        (label, separator)
        for label in labels
        for separator in SEPARATORS
        if separator in label and {part.strip() for part in label.split(separator)} <= known
    ]
