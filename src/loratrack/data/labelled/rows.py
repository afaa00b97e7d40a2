"""The usable rows of one data file: which they are, their labels as numbers, what counts as one text."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from loratrack.data.labelled.labels import LabelMap
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
    """One row of local ids for each."""

    def __len__(self) -> int:
        return len(self.indices)

    def only(self, mask: Mask) -> Rows:
        numbers = np.flatnonzero(mask)
        texts = [self.texts[number] for number in numbers]
        return Rows(self.table, self.indices[numbers], texts, self.labels[numbers])

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
    table: Table, text_columns: Sequence[str], label_columns: Mapping[str, str], label_map: LabelMap
) -> Rows:
    """The rows whose labels are all in the label map."""
    numbers = []
    for task in label_map.tasks:
        values, local_ids = table.columns[label_columns[task.name]], task.local_ids
        numbers.append([local_ids.get(value or "", -1) for value in values])  # -1: not in the map
    labels = np.array(numbers, dtype=np.int64).T
    texts = [[(value or "").strip() for value in table.columns[column]] for column in text_columns]
    keys: list[Hashable] = list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))
    rows = Rows(table, np.arange(len(table)), keys, labels)
    are_mapped = np.all(labels >= 0, axis=1)
    return rows if are_mapped.all() else rows.only(are_mapped)
