"""The usable rows of one data file: which they are, their labels as numbers, what counts as one text."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from loratrack.data.labelled.labels import LabelMap, labels_of_cell
from loratrack.data.labelled.splits import Ints, Mask, conflicting, text_numbers
from loratrack.data.tables import Table


@dataclass(frozen=True)
class Rows:
    table: Table
    indices: Ints
    """Which rows of the table these are."""
    texts: list[Hashable]
    """Two rows hold one text when all their text columns agree but for the space around them."""
    labels: Ints
    """One row for each: see LabelMap.columns."""
    num_shortened: int = 0
    """Of all rows of the table those that lost a label outside a multi-label task."""

    def __len__(self) -> int:
        return len(self.indices)

    def only(self, mask: Mask) -> Rows:
        numbers = np.flatnonzero(mask)
        texts = [self.texts[number] for number in numbers]
        return Rows(self.table, self.indices[numbers], texts, self.labels[numbers], self.num_shortened)

    def lines(self, mask: Mask) -> list[int]:
        return [self.table.lines[index] for index in self.indices[mask]]

    @cached_property
    def different_texts(self) -> set[Hashable]:
        return set(self.texts)

    @cached_property
    def text_numbers(self) -> Ints:
        return text_numbers(self.texts)

    def conflicting(self) -> Mask:
        """True where a text stands with different labels."""
        return conflicting(self.text_numbers, self.labels)

    def also_in(self, other: Rows) -> Mask:
        """True where a text stands in `other` too."""
        return np.array([text in other.different_texts for text in self.texts], dtype=bool)


def mapped_rows(
    table: Table,
    text_columns: Sequence[str],
    label_columns: Mapping[str, str],
    label_map: LabelMap,
    separators: Mapping[str, str] | None = None,
) -> Rows:
    """The rows whose labels are all in the label map.

    `separators`: the columns of multi-label tasks, whose rows stay and lose the labels outside the map.
    """
    shortened = np.zeros(len(table), dtype=bool)
    # A byte for each label is enough, where it holds the local ids of the other tasks too.
    smallest = np.min_scalar_type(-max(len(task.labels) for task in label_map.tasks))
    columns: list[Ints] = []
    for task in label_map.tasks:
        name, local_ids = label_columns[task.name], task.local_ids
        if not task.is_multi_label:
            ids = [local_ids.get(value or "", -1) for value in table.columns[name]]  # -1: not in the map
            columns.append(np.array(ids, dtype=np.int64)[:, None])
            continue
        has_label = np.zeros((len(table), len(task.labels)), dtype=smallest)
        for row, cell in enumerate(table.columns[name]):
            for label in labels_of_cell(cell, (separators or {})[name]):
                if label in local_ids:
                    has_label[row, local_ids[label]] = 1
                else:
                    shortened[row] = True
        columns.append(has_label)
    if any(task.is_multi_label for task in label_map.tasks):
        columns = [column.astype(smallest) for column in columns]
    labels = np.hstack(columns)
    texts = [[(value or "").strip() for value in table.columns[column]] for column in text_columns]
    keys: list[Hashable] = list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))
    rows = Rows(table, np.arange(len(table)), keys, labels, int(shortened.sum()))
    are_mapped = np.all(labels >= 0, axis=1)
    return rows if are_mapped.all() else rows.only(are_mapped)
